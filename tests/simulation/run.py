"""One run: weeks of virtual time, everything that may go wrong, by one seed; and what it leaves to be judged."""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Protocol
from unittest.mock import patch

import msgspec

from bridge.domain import events
from bridge.domain.commits import Write
from bridge.domain.erasure import tombstone
from bridge.domain.policy import DeliveryPolicy, Limits, PollPolicy
from bridge.domain.subscriptions import Subscription
from bridge.domain.tracking import SessionRequest
from bridge.errors import BridgeError
from bridge.polling.answers import Recorder
from bridge.polling.commits import Committer
from bridge.polling.overdue import Watch
from bridge.polling.poll import Poller
from bridge.polling.track import Tracker
from tests.simulation.evidence import Committed, Evidence
from tests.simulation.operators import Operators
from tests.simulation.store import SHARDS, Crash, Odds, Server, Store
from tests.simulation.workers import PollRun, SliceRun
from tests.simulation.world import DAY, HOUR, MINUTE, PHONES, SECOND, Provider, Receivers, Window

BEGIN_MS = 1_800_000_000_000
CALM_MS = 8 * DAY
"""The last days: nothing is sent and nothing fails, so that whatever is to come has come by the end."""
ACCOUNTS = ("default", "default", "default", "shop")

POLLING = PollPolicy(
    ages_ms=tuple(
        age * SECOND
        for age in (10, 30, 60, 120, 300, 600, 1_200, 2_400, 4_800, 10_800, 21_600, 43_200, 86_400, 172_800, 259_200)
    ),
    overdue_ms=12 * HOUR,
    give_up_ms=72 * HOUR,
    keep_settled_ms=72 * HOUR,
    lease_ms=60 * SECOND,
)
DELIVERY = DeliveryPolicy(
    retry_ms=tuple(wait * SECOND for wait in (5, 30, 120, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)),
    timeout_ms=15 * SECOND,
    concurrency=20,
)
"""The defaults of the settings."""

SUBSCRIPTIONS = (
    Subscription(id="sub_plain", account="default", url="https://a.example/", created_ms=1, secrets=()),
    Subscription(
        id="sub_batch", account="default", url="https://b.example/", created_ms=2, secrets=(), max_batch=8, partitions=2
    ),
    Subscription(
        id="sub_final",
        account="default",
        url="https://c.example/",
        created_ms=3,
        secrets=(),
        statuses=("delivered", "undelivered", "expired", "failed", "no_receipt"),
        types=("sms.*",),
        retry_ms=(5 * SECOND, MINUTE, 10 * MINUTE, HOUR),
    ),
    Subscription(id="sub_shop", account="shop", url="https://d.example/", created_ms=4, secrets=(), rate=5.0),
    Subscription(id="sub_named", account="default", url="https://e.example/", created_ms=5, secrets=(), implicit=True),
)
NAMED = SUBSCRIPTIONS[-1]


class Owner(Protocol):
    """Who an event belongs to: once it is dead, nothing more of its happens."""

    is_dead: bool

    def die(self) -> None: ...


class Nobody:
    """The world's own events."""

    is_dead = False

    def die(self) -> None:
        """It goes on."""


NOBODY = Nobody()


class Outcome(msgspec.Struct, frozen=True):
    """How far a run went: virtual ms, events, scripts, crashes; and the hash of all that happened in it, in order."""

    seed: int
    virtual_ms: int
    events: int
    scripts: int
    crashes: int
    committed: int
    posts: int
    trace: str


class Run:
    """Runs by a seed. ``spoil`` may put a mistake into the store first."""

    def __init__(self, seed: int, weeks: float, spoil: Callable[[Store], None] = lambda _store: None) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.server = Server(self.chance, Odds())
        self.server.now_ms = BEGIN_MS
        self.end_ms = BEGIN_MS + round(weeks * 7 * DAY)
        self.busy_until_ms = self.end_ms - CALM_MS
        self.shards = SHARDS
        self.give_up_ms = POLLING.give_up_ms
        self.store = Store(self.server, self._limits())
        self.evidence = Evidence()
        self.delivery = DELIVERY
        self.trace = hashlib.blake2b(digest_size=16)
        self.events = self.crashes = self.sessions = 0
        self.polling: set[PollRun] = set()
        self.poll_not_before: dict[str, int] = {}
        self._poll_at: dict[str, int] = {}
        self._slices: list[SliceRun] = []
        self._slice_at: int | None = None
        self._heap: list[tuple[int, int, Owner, Callable[[], None]]] = []
        self._counted = 0
        self._make_world()
        self._make_bridge()
        spoil(self.store)
        self.store.sessions.written = self._written

    # making it

    def _limits(self) -> Limits:
        """Of some runs so tight that they are met."""
        tight = self.chance.random() < 0.3
        return Limits(backlog=16, dead=4, kept=3) if tight else Limits(backlog=400, dead=200, kept=150)

    def _windows(self, moods: Sequence[str], most: int, longest_ms: int) -> list[Window]:
        found = []
        for _ in range(self.chance.randrange(most + 1)):
            at_ms = self.chance.randrange(BEGIN_MS, self.busy_until_ms)
            until_ms = min(self.busy_until_ms, at_ms + self.chance.randrange(MINUTE, longest_ms))
            found.append(Window(at_ms, until_ms, self.chance.choice(moods)))
        return found

    def _make_world(self) -> None:
        self.server.calm = True
        for one in SUBSCRIPTIONS:
            self.store.registries.put(one)
        self.server.calm = False
        self.provider = Provider(
            self.server, self.chance, self._windows(["down", "down", "busy", "refuses"], 4, 8 * HOUR)
        )
        moods = ["down", "hangs", "slow", "busy", "gone"]
        windows = {
            one.id: self._windows(moods, 3, self.chance.choice([HOUR, 12 * HOUR, 3 * DAY])) for one in SUBSCRIPTIONS
        }
        self.receivers = Receivers(self.server, self.chance, windows)
        at_ms = BEGIN_MS
        while at_ms < self.busy_until_ms:
            at_ms += self.chance.randrange(MINUTE, 16 * HOUR)
            for _ in range(self.chance.choice([1, 1, 2, 5])):
                self.at(at_ms + self.chance.randrange(2 * SECOND), NOBODY, self.track)
        self.operators = Operators(self)

    def _make_bridge(self) -> None:
        store, chance = self.store, self.chance.random
        committer = Committer(store.sessions, store.registries, store)
        self.poller = Poller(
            sessions=store.sessions,
            recorder=Recorder(
                committer=committer,
                policy=POLLING,
                chance=chance,
                tombstone=lambda phone: tombstone(bytes(32), phone),
            ),
            rate=store.rates,
            clock=store,
            provider=lambda _account: self.provider,
            calls_per_second=lambda _account: 5.0,
            policy=POLLING,
            chance=chance,
            sleep=self._sleep,
        )
        self.tracker = Tracker(sessions=store.sessions, clock=store, policy=POLLING, chance=chance)
        self.overdue = Watch(sessions=store.sessions, committer=committer, clock=store, overdue_ms=POLLING.overdue_ms)

    def _sleep(self, seconds: float) -> None:
        self.server.now_ms += round(seconds * 1000)

    def _written(self, shard: int, account: str, one: Write, places: Sequence[bytes]) -> None:
        """Write down what is committed, and who is known to want it at that moment."""
        registries = self.store.registries
        for position, entry in zip(places, one.events, strict=True):
            record = events.unpack(entry.record)
            what, body = events.render(account, record)
            wanted = [
                wanted_by(known, account, one.state.callback, record)
                for known in (registries.sure, registries.subscriptions)
            ]
            routed = [route.subscription for route in entry.routes]
            self.evidence.committed.append(
                Committed(account, (shard, position), record, what, body, wanted[0] & wanted[1], routed)
            )
            self.note("event", shard, position, what)

    # events

    def at(self, at_ms: int, owner: Owner, then: Callable[[], None]) -> None:
        """Let something happen at a time."""
        self._counted += 1
        heapq.heappush(self._heap, (at_ms, self._counted, owner, then))

    def after(self, wait_ms: int, owner: Owner, then: Callable[[], None]) -> None:
        """Let something happen some time from now."""
        self.at(self.server.now_ms + wait_ms, owner, then)

    def note(self, *what: object) -> None:
        """Put what happens into the trace."""
        self.trace.update(repr((self.server.now_ms, what)).encode())

    def go(self) -> Outcome:
        """Run to the end."""
        # A slice with nothing under way would sleep, for a moment of everybody's time but this run's.
        with patch("bridge.delivery.loop.time", SimpleNamespace(sleep=lambda _seconds: None)):
            self._go()
        self.server.calm = True
        return Outcome(
            seed=self.seed,
            virtual_ms=self.server.now_ms - BEGIN_MS,
            events=self.events,
            scripts=self.server.ran,
            crashes=self.crashes,
            committed=len(self.evidence.committed),
            posts=len(self.evidence.posts),
            trace=self.trace.hexdigest(),
        )

    def _go(self) -> None:
        while self._heap and self._heap[0][0] <= self.end_ms:
            at_ms, _, owner, then = heapq.heappop(self._heap)
            self.server.now_ms = max(self.server.now_ms, at_ms)
            self.server.calm = at_ms >= self.busy_until_ms
            if owner.is_dead:
                continue
            self.events += 1
            ran = self.server.ran
            self._do(owner, then)
            if self.server.ran != ran or owner is NOBODY:
                self._plan()

    def _do(self, owner: Owner, then: Callable[[], None]) -> None:
        try:
            then()
        except Crash as crash:
            self.crashes += 1
            self.note("crash", str(crash))
            owner.die()
        except BridgeError as error:
            self.note("error", str(error))
            owner.die()

    def _plan(self) -> None:
        """Let somebody look when something is due: as the tick does, each second."""
        now_ms = self.server.now_ms
        for account in ("default", "shop"):
            dues = [min(due.values()) for shard in self.store.sessions.shards if (due := shard.due.get(account))]
            if dues:
                due_ms = max(now_ms, int(min(dues)) + 1, self.poll_not_before.get(account, 0))
                if not now_ms < self._poll_at.get(account, 0) <= due_ms + SECOND:
                    self._poll_at[account] = due_ms + self.chance.randrange(1, SECOND)
                    self.at(self._poll_at[account], NOBODY, partial(self.poll, account))
        if any(one.is_looking for one in self._slices):
            return
        due_at = self._next_delivery_ms(now_ms)
        if due_at is not None and (self._slice_at is None or not now_ms < self._slice_at <= due_at + SECOND):
            self._slice_at = due_at + self.chance.randrange(1, SECOND)
            self.at(self._slice_at, NOBODY, self.start_slice)

    def _next_delivery_ms(self, now_ms: int) -> int | None:
        """When a queue is to be looked at; of one that somebody holds, now and then: he may be gone."""
        found = []
        for queue in self.store.queues.queues.values():
            at = queue.due_at()
            if at is not None:
                held = queue.held_until > now_ms
                found.append(max(at, now_ms + 8 * SECOND if held else now_ms))
        return min(found, default=None)

    # what the bridge's tasks do

    def track(self) -> None:
        """A sender tells of a session; its message comes again until it was worked on."""
        self.sessions += 1
        session_no = f"s{self.sessions:04}"
        account = self.chance.choice(ACCOUNTS)
        phones = self.chance.sample(PHONES, self.chance.choice([1, 1, 1, 2, 3]))
        now_ms = self.server.now_ms
        self.provider.send(session_no, phones, now_ms)
        self.evidence.sent[session_no] = now_ms
        expects = self.chance.choice(["phones", "phones", "count", "nothing"])
        if expects != "nothing":
            self.evidence.expecting.add(session_no)
        request = SessionRequest(
            session_no,
            phones=tuple((phone, None) for phone in phones) if expects == "phones" else None,
            phone_count=None if expects == "nothing" else len(phones),
            metadata_json='{"order":1}' if self.chance.random() < 0.2 else "",
            callback_url=NAMED.url if account == NAMED.account and self.chance.random() < 0.3 else None,
            sent_at_ms=now_ms,
        )
        message = Message(self, account, request)
        self.after(self.chance.choice([100, 500, 5 * SECOND, 20 * MINUTE]), NOBODY, message.deliver)

    def poll(self, account: str) -> None:
        """A message that asks to poll an account."""
        one = PollRun(self, account)
        self._do(one, one.begin)

    def start_slice(self) -> None:
        """A message that asks to deliver."""
        self._slices = [one for one in self._slices if not (one.is_dead or one.is_over)]
        if len(self._slices) < 4:
            one = SliceRun(self)
            self._slices.append(one)
            self.after(1, one, one.turn)


class Message:
    """A tracking message: it is gone once it was worked on, and comes again while it was not."""

    def __init__(self, run: Run, account: str, request: SessionRequest) -> None:
        self._run = run
        self._account = account
        self._request = request
        self.is_dead = False

    def deliver(self) -> None:
        """Let a worker have it."""
        run = self._run
        run._do(self, self._work)

    def _work(self) -> None:
        run = self._run
        run.tracker.track(self._account, [self._request], {NAMED.url: NAMED.id})
        run.evidence.tracked[self._request.session_no] = run.server.now_ms
        run.note("tracked", self._request.session_no)

    def die(self) -> None:
        """It was not acknowledged."""
        self._run.after(self._run.chance.randrange(SECOND, MINUTE), NOBODY, self.deliver)


def wanted_by(
    subscriptions: dict[str, Subscription], account: str, callback: str, record: events.Record
) -> frozenset[str]:
    """Who wants an event, by what subscriptions say of themselves."""
    return frozenset(
        one.id
        for one in subscriptions.values()
        if one.account == account
        and (one.is_to_hear(record) if not one.implicit else callback == one.id and not record.type)
    )
