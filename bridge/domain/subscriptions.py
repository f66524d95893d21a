"""Who wants to hear of a change."""

from __future__ import annotations

import hashlib
from base64 import b32encode
from collections.abc import Sequence
from difflib import get_close_matches
from enum import StrEnum

import msgspec

from bridge.domain.credentials import Identity
from bridge.domain.events import EVENT_TYPES, STATUS_CHANGED, STATUSES, TEST, Record, is_ours
from bridge.domain.receipts import Status
from bridge.errors import UsageError


class SubscriptionState(StrEnum):
    """active → paused (by an operator) or disabled (by its receiver) → active, when an operator resumes it.

    filling → active: it is new, and being given what the log has since a time.
    """

    FILLING = "filling"
    ACTIVE = "active"
    PAUSED = "paused"
    DISABLED = "disabled"


class Deliver(StrEnum):
    """What becomes of the events that waited while a subscription was paused or disabled."""

    ALL = "all"
    LATEST = "latest"
    NONE = "none"


class PhoneFormat(StrEnum):
    """How a subscription's callbacks write phones."""

    FULL = "full"
    MASKED = "masked"
    HASHED = "hashed"


class BodyFormat(StrEnum):
    """What the body of a callback is: an event of ours, or what the provider itself would push."""

    STANDARD = "standard"
    USMS = "usms"


class Stage(StrEnum):
    """How a subscription whose id comes again, because it stands for a URL, gets into the registry and out of it.

    ::

        arriving → arrived → there → leaving → gone
                               ↑________/

    ``arriving``: no commit routes to it before every shard's version is another. ``arrived``: commits do; those that go
    by a version from before are not all refused yet. ``leaving``: it is there still, and stays if its URL was named.
    """

    ARRIVING = "arriving"
    ARRIVED = "arrived"
    LEAVING = "leaving"


class Passage(msgspec.Struct, frozen=True):
    """Where a subscription is that is not simply there. ``token`` is of whoever began it, so that no other ends it."""

    stage: Stage
    token: str


class RetiredKey(msgspec.Struct, frozen=True):
    """A key that was rotated out, sealed: it goes on signing, after the current one, until ``until_ms`` (Unix ms)."""

    sealed: bytes
    until_ms: int


class SealedHeader(msgspec.Struct, frozen=True):
    """A header to send along. Its value is sealed: it often is a token."""

    name: str
    sealed: bytes


class SealedIdentity(msgspec.Struct, frozen=True):
    """What connections are made with. ``expires_ms`` is the client certificate's end (Unix ms), 0 without one."""

    sealed: bytes
    expires_ms: int
    own_authorities: bool


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """A callback URL with its secrets. ``created_ms`` is Unix milliseconds; ``secrets`` are sealed, newest first.

    ``types`` are the types of events that it hears of by itself (wildcards among them), ``statuses`` which statuses of
    a phone (none: all). ``phone_key`` is what ``HASHED`` phones are hashed with, sealed. ``retired`` keys are the
    newest first.

    ``implicit``: it exists because sessions name its URL, hears of those alone, and has its account's secret.
    ``reason`` and ``since_ms`` say why and since when it is in its state, ``disablings`` how often it was disabled;
    ``releasing``, that it is active again but not all of its queue yet. ``rate`` (attempts a second), ``concurrency``
    and ``retry_ms`` are the bridge's own where they are None. ``max_batch``: its callbacks carry up to so many events
    each; None: each carries one, by itself. ``partitions`` is how many slices may serve it at once, each some of its
    shards. While it is filling, ``fill_from_ms`` is since when. ``passage`` is None but for moments.
    """

    id: str
    account: str
    url: str
    created_ms: int
    secrets: tuple[bytes, ...]
    state: SubscriptionState = SubscriptionState.ACTIVE
    implicit: bool = False
    types: tuple[str, ...] = (STATUS_CHANGED,)
    statuses: tuple[str, ...] = ()
    phones: PhoneFormat = PhoneFormat.FULL
    format: BodyFormat = BodyFormat.STANDARD
    phone_key: bytes = b""
    retired: tuple[RetiredKey, ...] = ()
    headers: tuple[SealedHeader, ...] = ()
    identity: SealedIdentity | None = None
    reason: str = ""
    since_ms: int = 0
    releasing: bool = False
    rate: float | None = None
    concurrency: int | None = None
    retry_ms: tuple[int, ...] | None = None
    max_batch: int | None = None
    partitions: int | None = None
    disablings: int = 0
    fill_from_ms: int = 0
    passage: Passage | None = None

    @property
    def is_active(self) -> bool:
        """Whether its events are sent, and not parked."""
        return self.state is SubscriptionState.ACTIVE

    @property
    def is_routed_to(self) -> bool:
        """Whether commits may give it events."""
        return self.passage is None or self.passage.stage is not Stage.ARRIVING

    def wants(self, status: Status) -> bool:
        """Whether it is to hear that a phone's status became ``status``."""
        return self.hears(STATUS_CHANGED) and (not self.statuses or status.text in self.statuses)

    def is_to_hear(self, event: Record) -> bool:
        """Whether an event of its account's log is for it: no test, and none that is about itself."""
        if not event.type:
            return self.wants(Status(event.status))
        about_itself = is_ours(event) and event.session_no.endswith(f" {self.id}")
        name = EVENT_TYPES.get(event.type, "")
        return name != TEST and not about_itself and self.hears(name)

    def hears(self, event_type: str) -> bool:
        """Whether it asked for events of this type: by its name, or by a wildcard such as ``bridge.*``."""
        return is_asked_for(event_type, self.types)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for when a subscription is added.

    ``secret`` is its own signing key, b"" for a fresh one; ``headers`` are names and values; ``identity`` is what
    connections are made with, and when that expires (Unix ms).
    """

    types: tuple[str, ...] = (STATUS_CHANGED,)
    statuses: tuple[str, ...] = ()
    phones: PhoneFormat = PhoneFormat.FULL
    format: BodyFormat = BodyFormat.STANDARD
    secret: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    identity: tuple[Identity, int] | None = None


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What is to become of a subscription's options: what is None, or nothing, stays.

    ``headers`` are names and values, each in place of one of that name; ``identity`` as in ``Options``.
    """

    types: tuple[str, ...] | None = None
    statuses: tuple[str, ...] | None = None
    headers: tuple[tuple[str, str], ...] = ()
    drop_headers: tuple[str, ...] = ()
    identity: tuple[Identity, int] | None = None
    drop_identity: bool = False


PLAIN = Options()
UNCHANGED = Changes()
WILDCARDS = ("sms.*", "bridge.*")


def parse_types(text: str) -> tuple[str, ...]:
    """The event types, ``sms.*`` and ``bridge.*`` among them, in a list with commas between. Raises UsageError."""
    return _parse_names(text, "--types", (*EVENT_TYPES.values(), *WILDCARDS))


def check_options(subscription: Subscription) -> None:
    """Raise UsageError where what a subscription asks for does not go together."""
    if subscription.identity is not None and not subscription.url.startswith("https://"):
        raise UsageError("--client-cert and --ca-file: they are for https:// URLs")
    operators = [name for name in EVENT_TYPES.values() if name.startswith("bridge.") and name != TEST]
    if subscription.format is BodyFormat.USMS and any(is_asked_for(name, subscription.types) for name in operators):
        raise UsageError("--format usms: the provider's format has no words for operators' events (bridge.*)")


def is_asked_for(event_type: str, asked: Sequence[str]) -> bool:
    """Whether a type of events is among those asked for, wildcards among them."""
    return event_type in asked or f"{event_type.partition('.')[0]}.*" in asked


def parse_statuses(text: str) -> tuple[str, ...]:
    """The statuses in a list with commas between. Raises UsageError.

    ``tracked`` is not among them: it is never sent as a status of its own.
    """
    return _parse_names(text, "--statuses", [name for name in STATUSES if name != Status.TRACKED.text])


def _parse_names(text: str, option: str, known: Sequence[str]) -> tuple[str, ...]:
    given = [part.strip() for part in text.split(",")]
    for name in given:
        if name not in known:
            nearest = get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {nearest[0]}?" if nearest else f"give some of {', '.join(known)}"
            raise UsageError(f"{option}: there is no {name[:40]!r}; {hint}")
    return tuple(name for name in known if name in given)


def callback_id(account: str, url: str) -> str:
    """The id of the implicit subscription for a session's ``callback_url``: one a URL and account."""
    digest = hashlib.blake2b(f"{account}\0{url}".encode(), digest_size=10).digest()
    return "url_" + b32encode(digest).decode().lower()
