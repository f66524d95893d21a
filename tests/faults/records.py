"""What a run leaves behind: the four independent records, and what the harness itself did.

What the provider answered, what receivers got, what the store holds at the end, what was logged. Nothing here is the
bridge's own type: a mistake of the bridge's must not be made again by whoever looks for it. Times are Unix
milliseconds of this machine's clock, which is the store's too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import StrEnum

import msgspec

CHANGE, COMPLETED, OVERDUE = "sms.status.changed", "sms.session.completed", "sms.session.overdue"
TYPES = (
    CHANGE,
    "bridge.test",
    COMPLETED,
    OVERDUE,
    "bridge.subscription.disabled",
    "bridge.delivery.exhausted",
    "bridge.backlog.dropped",
)
"""Types of events, by the number that a record in the log has."""
FINAL = frozenset({"delivered", "undelivered", "expired", "failed", "no_receipt"})

Key = tuple[str, str, str]
"""SessionNo, the phone's digits, user id."""

What = tuple[str, str, str, str, str, int]
"""Account, SessionNo, digits, user id, status, and the ReceiptTime of a provider's final word (else 0): by the
contract the same change has the same one, and another change another. Of what is no change of a phone's: account, "",
"", its type, its data (as JSON, sorted), 0."""


def digits_of(phone: str) -> str:
    """What phones are compared on, by the callback contract, written down a second time."""
    digits = re.sub(r"[^0-9]", "", phone).removeprefix("00")
    return "86" + digits if len(digits) == 11 and digits.startswith("1") else digits or phone


def meaning_of(result: str, code: str) -> str:
    """The status that a word of the provider's stands for, by the callback contract, a second time."""
    word = result.strip().casefold()
    if word in {"发送成功", "success", "send successful"}:
        return "delivered"
    if word in {"发送失败", "fail", "send failed"}:
        return "expired" if code.upper().startswith("EXPIRED") else "undelivered"
    return "failed" if word == "submitfail" else "unknown"


def canonical(data: str) -> str:
    """JSON as one of its many spellings."""
    return json.dumps(json.loads(data), sort_keys=True)


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """One receipt as the simulated provider told it, in an answer that was sent whole. ``time`` is Unix seconds."""

    at_ms: int
    session_no: str
    phone: str
    user_id: str
    status: str
    time: int

    @property
    def key(self) -> Key:
        return self.session_no, digits_of(self.phone), self.user_id


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """The provider's record: each word it told, when each session was answered for, and answers by what befell them."""

    words: tuple[Word, ...]
    answered_ms: Mapping[str, tuple[int, ...]]
    by_fault: Mapping[str, int]


class Post(msgspec.Struct, frozen=True, kw_only=True):
    """One POST that reached a receiver.

    ``verified_by`` are the places of those of the receiver's secrets with which a public library verifies it;
    ``status`` is what was answered, 0 where nothing was; ``accepted`` says that a whole 2xx was handed to the system.
    ``attempt`` is the name that the sending process's journal has it under, ``port`` where its connection came from.
    """

    subscription: str
    at_ms: int
    decided_ms: int
    message_id: str
    timestamp_s: int
    body: bytes
    verified_by: tuple[int, ...]
    mood: str
    status: int
    accepted: bool
    attempt: str = ""
    port: int = 0


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription's secret: asked for and given between ``since_ms`` and ``given_ms``; ``until_ms`` is how long it
    must go on signing, None while it is the current one."""

    value: str
    since_ms: int
    given_ms: int
    until_ms: int | None = None


class Subscriber(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription as the harness made it. ``removed_ms`` is when its removal began and was done; ``phone_key`` is
    what an application that hears hashed phones was given to hash its own with."""

    id: str
    account: str
    asked_ms: int
    added_ms: int
    types: tuple[str, ...] = (CHANGE,)
    statuses: tuple[str, ...] = ()
    format: str = "standard"
    phones: str = "full"
    phone_key: str = ""
    implicit: bool = False
    secrets: tuple[Secret, ...] = ()
    removed_ms: tuple[int, int] | None = None


class Tracked(msgspec.Struct, frozen=True, kw_only=True):
    """A session whose tracking was acknowledged: by the broker's having taken its message."""

    session_no: str
    account: str
    phones: tuple[str, ...]
    acked_ms: int
    callback: str = ""


class Kind(StrEnum):
    """What kinds of faults may do to what is under way."""

    HARMLESS = "harmless"
    LOSES_OUTCOMES = "loses outcomes"
    ROLLS_BACK = "rolls back"


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One fault, from its beginning to its end. ``recovered_ms``: when a callback was next accepted, 0 never."""

    name: str
    kind: Kind
    at_ms: int
    until_ms: int
    recovered_ms: int = 0
    detail: str = ""
    subscription: str = ""


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator did: ``done_ms`` is when its command had ended. ``subject`` is a subscription or a phone."""

    name: str
    subject: str
    asked_ms: int
    done_ms: int
    detail: str = ""


class Logged(msgspec.Struct, frozen=True, kw_only=True):
    """An event in the store's log, at (shard, position): milliseconds and sequence of its stream id."""

    account: str
    shard: int
    position: tuple[int, int]
    type: int
    session_no: str
    phone: str
    user_id: str
    status: str
    previous: str
    sequence: int
    receipt_time: int
    observed_ms: int
    of_provider: bool
    data: str = ""

    @property
    def what(self) -> What:
        if self.type:
            return self.account, "", "", TYPES[self.type], canonical(self.data), 0
        time = self.receipt_time if self.of_provider and self.status in FINAL else 0
        return self.account, self.session_no, digits_of(self.phone), self.user_id, self.status, time


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """A POST by the journal of the process that sent it: when libcurl told of its end and as what (0 never), or when
    it was let go of untold. ``code`` is libcurl's, 0 where there was an answer; ``status`` is HTTP's."""

    name: str
    pid: int
    sent_ms: int
    heard_ms: int = 0
    code: int = 0
    status: int = 0
    dropped_ms: int = 0


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a process asked of the store under a queue's hold: to settle, or to claim lanes and hold the queue on for
    ``hold_ms``. ``accepted`` are positions, ``lanes`` what they are the first of, or what was claimed; ``server`` is
    the port of the one asked. ``reply`` is -1 or 0 where the hold was lost, None where none came."""

    pid: int
    script: str
    subscription: str
    shard: int
    token: str
    asked_ms: int
    hold_ms: int = 0
    accepted: tuple[tuple[int, int], ...] = ()
    lanes: tuple[str, ...] = ()
    server: int = 0
    answered_ms: int = 0
    reply: int | None = None


class Hindrance(msgspec.Struct, frozen=True, kw_only=True):
    """What kept a process from its work: it stood still, or its store failed it. ``until_ms`` is when that was over."""

    pid: int
    what: str
    since_ms: int
    until_ms: int


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """What all workers wrote down from within (``inside/journal.py``). ``last_ms`` is when each last wrote anything: as
    long as it has a turn, that is every 50 ms at least."""

    attempts: Mapping[str, Attempt] = {}
    asked: tuple[Asked, ...] = ()
    hindrances: tuple[Hindrance, ...] = ()
    last_ms: Mapping[int, int] = {}


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a process: ``how`` is ``killed``, ``died`` (at a point), ``stopped``, or ``by itself``.

    It came by ``at_ms``, and where that is not 0 not before ``since_ms``: whoever sent the signal looked at the time
    before and after, and may have waited for a turn in between.
    """

    pid: int
    kind: str
    at_ms: int
    how: str
    since_ms: int = 0
    code: int = 0
    last_lines: str = ""


class Harm(msgspec.Struct, frozen=True, kw_only=True):
    """What the proxy did to one connection, by the port that it comes from at its other end."""

    link: str
    port: int
    at_ms: int
    how: str


TO_RECEIVERS = ("receivers", "receivers by TLS")
"""The links before the receivers: at their other end both come to one port."""


class Passage(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """When the proxy made a connection to a receiver, or passed a piece of a reply on, by the port at its other end."""

    port: int
    at_ms: int


Place = tuple[int, tuple[int, int]]
"""Shard and position of an event. Of accepted deliveries the store keeps the position's lowest 32 bits."""


def name_of(place: Place) -> str:
    """A place as a key that is the same whether its position is whole or as the record of deliveries has it."""
    shard, (millis, sequence) = place
    return f"{shard}:{millis % 2**32}-{sequence}"


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """What the store says became of a subscription's events. ``told_ms`` are the lowest 32 bits of when each of
    ``told`` was settled, by ``name_of`` its place."""

    waiting: frozenset[Place] = frozenset()
    parked: bool = False
    dead: frozenset[Place] = frozenset()
    told: frozenset[Place] = frozenset()
    told_ms: Mapping[str, tuple[int, ...]] = {}
    dropped: int = 0
    limited: int = 0


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A session at the end: its phones' statuses by (digits, user id)."""

    sent_ms: int
    settled_ms: int
    phones: Mapping[tuple[str, str], str]


class Store(msgspec.Struct, frozen=True, kw_only=True):
    """What the store holds at the end."""

    sessions: Mapping[tuple[str, str], Session]
    events: tuple[Logged, ...]
    queues: Mapping[str, Queue]
    erased: frozenset[tuple[str, Place]]
    subscriptions: frozenset[str]
    failed_attempts: Mapping[str, tuple[tuple[int, str], ...]]


class Records(msgspec.Struct, frozen=True, kw_only=True):
    """All of a run.

    ``callback_timeout_ms`` and ``give_up_ms`` are the run's settings; ``secrets_said`` must be in no log line, nor a
    phone of ``tracked``. ``refused_connections`` came to an address that the bridge may not call.
    ``kills`` are servers of the store's that were killed, ``rolled_back`` spans of time of whose writes one that came
    back may have kept none. ``lags_ms`` are a well receiver's delays without and with bad
    neighbours.
    """

    answers: Answers
    posts: tuple[Post, ...]
    store: Store
    log_lines: Mapping[str, tuple[str, ...]]
    tracked: tuple[Tracked, ...]
    subscribers: tuple[Subscriber, ...]
    faults: tuple[Fault, ...] = ()
    actions: tuple[Action, ...] = ()
    journal: Journal = Journal()
    ended: tuple[Ended, ...] = ()
    harms: tuple[Harm, ...] = ()
    passages: tuple[Passage, ...] = ()
    callback_timeout_ms: int
    give_up_ms: int
    secrets_said: tuple[str, ...] = ()
    refused_connections: tuple[str, ...] = ()
    lags_ms: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    kills: int = 0
    rolled_back: tuple[tuple[int, int], ...] = ()
    not_drained: str = ""


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """An invariant that does not hold, and for what: enough to find it in the records."""

    invariant: str
    says: str
    records: str = ""

    def __str__(self) -> str:
        return f"{self.invariant}: {self.says}" + (f" [{self.records}]" if self.records else "")
