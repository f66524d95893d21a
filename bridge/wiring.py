"""The composition root: settings in, a working bridge out. The tasks and commands take everything from here."""

from __future__ import annotations

import logging
import random
import secrets
from base64 import b32encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from threading import Lock

from bridge.delivery.guard import UrlPolicy, check_resolved, parse_url
from bridge.delivery.ports import Ports
from bridge.delivery.transport import Transport
from bridge.domain.accounts import DEFAULT_ACCOUNT
from bridge.domain.deliveries import Part, parts_of
from bridge.domain.events import event_id, record_of_test
from bridge.domain.policy import DeliveryPolicy, PollPolicy
from bridge.domain.server_urls import NO_CLUSTER
from bridge.domain.signing import SECRET_BYTES, encode_secret
from bridge.domain.status import LONGEST_AGE_MS
from bridge.domain.subscriptions import PLAIN, Options, Subscription, check_options
from bridge.errors import SettingsError, UsageError
from bridge.observe.logs import get_logger, setup_logging
from bridge.observe.sentry import setup_sentry
from bridge.policies import delivery_policy_of, limits_of, poll_policy_of
from bridge.polling.answers import Recorder
from bridge.polling.commits import Committer
from bridge.polling.overdue import Watch
from bridge.polling.poll import Poller
from bridge.polling.track import Tracker
from bridge.providers import Providers
from bridge.servers import identity_of, store_url
from bridge.settings import Settings, read_environ, unknown_settings
from bridge.store.accounts import AccountStore
from bridge.store.attempts import AttemptLog
from bridge.store.audit import AuditTrail
from bridge.store.callback_urls import CallbackUrls
from bridge.store.client import Client, open_store
from bridge.store.credentials import PushTokens, Rewrapping, SigningKeys, rotated, sealed
from bridge.store.erasure import Erased, ErasedPlaces, Eraser, Tombstones
from bridge.store.filling import FillStore
from bridge.store.index import Clock, Index, RateStore, Wakes
from bridge.store.limits import LimitStore
from bridge.store.line import Line
from bridge.store.log import EventLog
from bridge.store.memory import Memory
from bridge.store.notices import NoticeStore
from bridge.store.outcomes import OutcomeStore
from bridge.store.pushes import PushStore
from bridge.store.queues import QueueStore
from bridge.store.removing import Remover
from bridge.store.resending import ResendStore
from bridge.store.secrets import SecretBox, parse_keys
from bridge.store.server import embedded_secret_keys
from bridge.store.sessions import SessionStore
from bridge.store.subscriptions import SubscriptionStore
from bridge.store.tracking import Origins, TrackingStore

VERSION = version("usms-bridge")
USER_AGENT = f"usms-bridge/{VERSION}"


def observe(settings: Settings) -> None:
    """Set up logs and error reports for this process, and say which BRIDGE_* names are no settings."""
    setup_logging(settings.log_format)
    # A line for each task received and done, or each start of a server, would bury the bridge's own.
    for chatty in ("celery", "kombu", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    setup_sentry(settings.sentry_dsn.get_secret_value() if settings.sentry_dsn else None, USER_AGENT)
    for name, nearest in unknown_settings(read_environ()):
        hint = f"did you mean {nearest}?" if nearest else "see the README's table of settings"
        get_logger("bridge").warning("unknown setting", name=name, hint=hint)


def url_policy(settings: Settings) -> UrlPolicy:
    """What callback URLs may be."""
    return UrlPolicy(
        allow_http=settings.allow_http,
        allow_networks=tuple(settings.allow_networks),
        allow_ports=frozenset(settings.allow_ports) or None,
    )


class Bridge:
    """The store and what works on it, for one process. Threads share it; make it after forking."""

    def __init__(self, settings: Settings) -> None:
        """Connect to the store and check that it is one for this release.

        Raises:
            StoreUnreachable: no answer.
            IncompatibleStore: it must not be touched.
            SettingsError: it is a cluster, which cannot be the broker too.
        """
        self.settings = settings
        self.client = Client(store_url(settings))
        if settings.broker_url is None and self.client.is_cluster:
            self.client.close()
            raise SettingsError(
                f"BRIDGE_BROKER_URL: not set, and BRIDGE_REDIS_URL is of a cluster's node: {NO_CLUSTER}"
            )
        self.store_id = open_store(self.client, settings.shards)
        shards = settings.shards
        limits = limits_of(settings)
        self.sessions = SessionStore(self.client, shards, limits)
        self.log = EventLog(self.client, shards)
        self.queues = QueueStore(self.client, shards, limits)
        self.notices = NoticeStore(self.client, shards, limits)
        self.limits = LimitStore(self.client, shards, self.queues, limits)
        self.erased_places = ErasedPlaces(self.client, shards)
        self.outcomes = OutcomeStore(self.client, self.queues)
        self.filling = FillStore(self.client, shards, limits)
        self.resending = ResendStore(self.client, shards, limits)
        self.attempts = AttemptLog(self.client)
        self.audit = AuditTrail(self.client)
        self.subscriptions = SubscriptionStore(self.client, shards)
        self.accounts = AccountStore(self.client)
        self._remover = Remover(self.subscriptions, self.queues, self.attempts)
        self.callback_urls = CallbackUrls(self.client, self.subscriptions, self.queues, self._remover.clear)
        self.tracking = TrackingStore(self.client, shards)
        self.origins = Origins(self.client)
        self.pushes = PushStore(self.client, self.sessions)
        self.memory = Memory(self.client)
        self.index = Index(self.client, shards)
        self.wakes = Wakes(self.client)
        self.rate = RateStore(self.client)
        self.clock = Clock(self.client)
        self.identity = identity_of(settings, self.client)
        self._chance = random.random
        self._idle_transports: list[Transport] = []
        self._lock = Lock()

    def close(self) -> None:
        """Close every connection."""
        for transport in self._idle_transports:
            transport.close()
        self._idle_transports.clear()
        if "providers" in self.__dict__:
            self.providers.close()
        self.client.close()

    @cached_property
    def secret_box(self) -> SecretBox:
        """What opens stored secrets.

        Raises:
            SettingsError: BRIDGE_SECRET_KEYS is missing, and the store is not the embedded one.
        """
        if self.settings.secret_keys:
            return SecretBox([key.get_secret_value() for key in self.settings.secret_keys])
        if self.settings.redis_url is None:
            return SecretBox(parse_keys(embedded_secret_keys(self.settings.data_dir)))
        raise SettingsError(
            "BRIDGE_SECRET_KEYS: not set; make one with `openssl rand -base64 32` and give it to every process"
        )

    def subscribe(
        self,
        url: str,
        account: str = DEFAULT_ACCOUNT,
        options: Options = PLAIN,
        limited: Callable[[Subscription], Subscription] = lambda one: one,
    ) -> tuple[Subscription, str, str | None]:
        """Add a subscription, with the limits that ``limited`` gives it.

        Returns it, its secret (``whsec_…``, shown this once), and a note on the URL's name.

        Raises:
            InvalidUrl: the URL is none that callbacks may go to, by itself or by an address it resolves to.
            UsageError: it was to have a client certificate, and is not https; or to hear of what its format cannot say;
                or its account has as many as it may.
        """
        policy = url_policy(self.settings)
        target = parse_url(url, policy)
        name = "sub_" + b32encode(secrets.token_bytes(10)).decode().lower()
        key = options.secret or secrets.token_bytes(SECRET_BYTES)
        subscription = sealed(
            Subscription(
                id=name,
                account=account,
                url=target.url,
                # What has happened by now it will not hear of, and `explain` tells that by the two times.
                created_ms=self.clock.ask_ms(),
                secrets=(self.secret_box.seal(key, name),),
            ),
            options,
            self.secret_box,
        )
        check_options(subscription)
        note = check_resolved(target, policy)
        subscription = limited(subscription)
        self.subscriptions.put(subscription, self.settings.max_subscriptions)
        return subscription, encode_secret(key), note

    def parts_of(self, subscription: Subscription) -> list[Part]:
        """The parts of it that slices hold."""
        return parts_of(subscription.id, subscription.partitions, self.settings.shards)

    def unsubscribe(self, name: str) -> None:
        """Remove a subscription with all that waits for it.

        Raises:
            NotFound: there is none of this id.
        """
        self._remover.remove(name)

    def rotate(self, name: str, overlap_ms: int, key: bytes = b"") -> tuple[Subscription, str]:
        """Sign a subscription's callbacks with ``key`` (b"": a fresh one), and for ``overlap_ms`` with the one before.

        Returns it and the secret. Slices under way take it up within a fraction of a second.

        Raises:
            NotFound: there is none of this id.
            UsageError: it has no secret of its own, or this one already.
        """
        key = key or secrets.token_bytes(SECRET_BYTES)
        now_ms = self.clock.now_ms()

        def change(one: Subscription) -> Subscription:
            if one.implicit:
                raise UsageError(f"{name} is signed with its account's secret, which is not rotated")
            return rotated(one, key, overlap_ms, now_ms, self.secret_box)

        return self.subscriptions.update(name, change), encode_secret(key)

    def test(self, name: str) -> str:
        """Send a ``bridge.test`` to one subscription, through its queue as any event. Returns the event's id.

        Raises:
            NotFound: there is none of this id.
        """
        subscription = self.subscriptions.get(name)
        account = subscription.account
        event = record_of_test(account, name, secrets.token_hex(8), self.clock.now_ms())
        # Its account may never have tracked: the log that it is in must be trimmed, and seen, all the same.
        self.tracking.note_account(account)
        self.notices.record(account, event, name)
        return event_id(account, event)

    @property
    def rewrapping(self) -> Rewrapping:
        """What seals everything again with the first of BRIDGE_SECRET_KEYS."""
        return Rewrapping(self.client, self.subscriptions, self.secret_box)

    @cached_property
    def signing_keys(self) -> SigningKeys:
        """What callbacks are signed with."""
        return SigningKeys(self.client, self.secret_box)

    def callback_for(self, account: str, url: str) -> str:
        """The id of the subscription that a session's ``callback_url`` implies; it exists when this returns.

        Its name is not resolved here: each connection's address is checked, and a sender waits for nobody's DNS.

        Raises:
            UsageError: the URL is none that callbacks may go to, or the account has 1,000 others.
        """
        target = parse_url(url, url_policy(self.settings))
        return self.callback_urls.subscribe(account, target.url, self.clock.now_ms())

    def forget_unused_callbacks(self, account: str) -> int:
        """Remove the implicit subscriptions that no session can use any more, and that have nothing waiting."""
        settings = self.settings
        longest_ms = LONGEST_AGE_MS + settings.give_up_after_ms + settings.keep_settled_ms + settings.keep_dead_ms
        return self.callback_urls.remove_unused(account, self.clock.now_ms() - longest_ms)

    @cached_property
    def poll_policy(self) -> PollPolicy:
        """How sessions are polled."""
        return poll_policy_of(self.settings)

    @cached_property
    def delivery_policy(self) -> DeliveryPolicy:
        """How events are delivered."""
        return delivery_policy_of(self.settings)

    @cached_property
    def push_tokens(self) -> PushTokens:
        """What the provider's own push must name."""
        return PushTokens(self.client, self.secret_box)

    @cached_property
    def providers(self) -> Providers:
        """The provider of each account, and the keys it is called with."""
        # Not the box itself: the account default needs no secret key.
        return Providers(self.settings, self.accounts, lambda: self.secret_box)

    @cached_property
    def tracker(self) -> Tracker:
        """Stores what senders track."""
        return Tracker(
            sessions=self.sessions,
            clock=self.clock,
            policy=self.poll_policy,
            chance=self._chance,
            await_disk=self.tracking.await_disk if self.settings.track_durable else None,
        )

    @cached_property
    def committer(self) -> Committer:
        """Commits what is decided of sessions."""
        return Committer(self.sessions, self.subscriptions, self.clock)

    @cached_property
    def recorder(self) -> Recorder:
        """Records what the provider says of sessions."""
        return Recorder(
            committer=self.committer, policy=self.poll_policy, chance=self._chance, tombstone=self._tombstone
        )

    @cached_property
    def poller(self) -> Poller:
        """Asks the provider and records what changed."""
        return Poller(
            sessions=self.sessions,
            recorder=self.recorder,
            rate=self.rate,
            clock=self.clock,
            provider=self.providers.of,
            calls_per_second=self.providers.rate,
            policy=self.poll_policy,
            chance=self._chance,
        )

    @cached_property
    def watch(self) -> Watch:
        """Tells of sessions that are overdue."""
        overdue_ms = self.settings.overdue_after_ms
        return Watch(sessions=self.sessions, committer=self.committer, clock=self.clock, overdue_ms=overdue_ms)

    def _tombstone(self, phone: str) -> bytes:
        # Not tombstones.of itself: polling needs no secret key before a phone was erased.
        return self.tombstones.of(phone)

    @cached_property
    def tombstones(self) -> Tombstones:
        """What stands for erased phones."""
        return Tombstones(self.client, self.secret_box)

    def erase(self, phone: str, accounts: Sequence[str], tell: Callable[[int], None], *, dry: bool) -> Erased:
        """Remove all that is kept of a phone, and keep it from coming back. ``tell`` hears how many were looked at.

        Raises:
            SecretsUnreadable: none of BRIDGE_SECRET_KEYS opens the tombstones' key.
        """
        keep_ms = self.settings.keep_settled_ms
        eraser = Eraser(self.client, self.settings.shards, keep_settled_ms=keep_ms, tell=tell, dry=dry)
        return eraser.erase(phone, accounts, self.tombstones, self.clock.now_ms())

    def forget_erasures(self, accounts: Sequence[str], now_ms: int) -> None:
        """Forget tombstones once no session sent before them can be polled, and places once nothing refers to them."""
        settings = self.settings
        polled_ms = LONGEST_AGE_MS + settings.give_up_after_ms + settings.keep_settled_ms
        self.erased_places.trim_tombstones(now_ms - polled_ms)
        self.erased_places.trim(accounts, now_ms - settings.keep_dead_ms)

    @cached_property
    def delivery_ports(self) -> Ports:
        """What a slice of the delivery loop works with."""
        return Ports(
            line=lambda: Line(self.client, self.index, self.queues, self.log),
            queues=self.queues,
            attempts=self.attempts,
            registries=self.subscriptions,
            secrets=self.signing_keys,
            clock=self.clock,
        )

    @contextmanager
    def transport(self) -> Iterator[Transport]:
        """A transport for one slice; its kept-alive connections serve the next one."""
        with self._lock:
            transport = self._idle_transports.pop() if self._idle_transports else None
        if transport is None:
            ca_file = self.settings.callback_ca_file
            transport = Transport(policy=url_policy(self.settings), ca_file=str(ca_file) if ca_file else None)
        try:
            yield transport
        finally:
            with self._lock:
                self._idle_transports.append(transport)
