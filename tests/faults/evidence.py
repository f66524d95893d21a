"""The records put in order for the checker: what was said of each change, and what each subscription got of it."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import cast

import msgspec

from tests.faults.reading import low
from tests.faults.receivers import members_of
from tests.faults.records import (
    CHANGE,
    FINAL,
    TYPES,
    Key,
    Kind,
    Logged,
    Place,
    Post,
    Queue,
    Records,
    Subscriber,
    What,
    Word,
    digits_of,
    meaning_of,
)

ROLLED_BACK_MS = 4_000
"""What the store may have lost: its last second, as much as it was behind in writing, and what was done on its way."""


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """An event as it came in a POST: of whichever format, phones as they are compared. ``body`` is all that was said of
    it. Of what is no phone's, ``phone`` is empty and ``status`` its type."""

    post: Post
    id: str
    what: What
    phone: tuple[str, str, str]
    status: str
    sequence: int
    observed_ms: int
    body: Mapping[str, object]


class Rollback(msgspec.Struct, frozen=True, kw_only=True):
    """A store went back in time, at ``at_ms`` or later: what was done from ``since_ms`` to ``until_ms`` may be lost."""

    since_ms: int
    at_ms: int
    until_ms: int


class Evidence:
    """A run's records, indexed. ``heard`` are changes of phones by subscription, ``others`` all other events."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.subscribers = {one.id: one for one in records.subscribers}
        self.heard: dict[str, list[Heard]] = defaultdict(list)
        self.others: dict[str, list[Heard]] = defaultdict(list)
        for post in records.posts:
            for event in members_of(post):
                heard = self._heard(post, event)
                (self.heard if heard.phone[0] else self.others)[post.subscription].append(heard)

    def _heard(self, post: Post, event: Mapping[str, object]) -> Heard:
        subscriber = self.subscribers.get(post.subscription)
        if "ReceiptResult" in event:
            return self._pushed(post, event, subscriber)
        data = cast("Mapping[str, object]", event["data"])
        observed_ms = _millis(str(event["timestamp"]))
        if event["type"] != CHANGE:
            account, kind = str(data["account"]), str(event["type"])
            return Heard(
                post=post,
                id=str(event["id"]),
                what=(account, "", "", kind, json.dumps(data, sort_keys=True), 0),
                phone=("", "", kind),
                status=kind,
                sequence=0,
                observed_ms=observed_ms,
                body=event,
            )
        status = str(data["status"])
        receipt = cast("Mapping[str, object] | None", data["receipt"])
        session_no = str(data["session_no"])
        key = session_no, self._digits(str(data["phone"]), session_no, subscriber), str(data["user_id"])
        time = _seconds(str(receipt["time"])) if receipt and receipt["time"] and status in FINAL else 0
        return Heard(
            post=post,
            id=str(event["id"]),
            what=(str(data["account"]), *key, status, time),
            phone=key,
            status=status,
            sequence=int(str(data["sequence"])),
            observed_ms=observed_ms,
            body=event,
        )

    def _pushed(self, post: Post, receipt: Mapping[str, object], subscriber: Subscriber | None) -> Heard:
        """A receipt in the provider's own format, which says neither the event's id, nor when and as which it was seen:
        the first is its header's, the others are the log's."""
        code = str(receipt["ReceiptCode"])
        status = "no_receipt" if code == "NO_RECEIPT" else meaning_of(str(receipt["ReceiptResult"]), code)
        session_no = str(receipt["SessionNo"])
        key = session_no, self._digits(str(receipt["Phone"]), session_no, subscriber), str(receipt["UserId"])
        time = int(str(receipt["ReceiptTime"])) if status in FINAL and status != "no_receipt" else 0
        what = (subscriber.account if subscriber else "?", *key, status, time)
        logged = self._logged.get(what)
        return Heard(
            post=post,
            id=post.message_id,
            what=what,
            phone=key,
            status=status,
            sequence=logged.sequence if logged else 0,
            observed_ms=logged.observed_ms if logged else post.at_ms,
            body={"data": receipt},
        )

    def _digits(self, phone: str, session_no: str, subscriber: Subscriber | None) -> str:
        """Whose phone it is; where it is masked or hashed, which of the session's it can be. Else what it says."""
        shown = subscriber.phones if subscriber else "full"
        if shown == "full":
            return digits_of(phone)
        numbers = [digits_of(one) for one in self._phones.get(session_no, ())]
        if shown == "masked":
            fits = [one for one in numbers if phone == f"(86)*******{one[-4:]}"]
        else:
            key = bytes.fromhex(subscriber.phone_key if subscriber else "")
            fits = [one for one in numbers if phone == hmac.new(key, one.encode(), hashlib.sha256).hexdigest()]
        return fits[0] if len(fits) == 1 else phone

    @cached_property
    def observed_ms(self) -> Mapping[What, int]:
        """When a change was observed, by what all heard of it: the provider's own push format does not say."""
        found: dict[What, int] = {}
        for one in (one for kind in (self.heard, self.others) for group in kind.values() for one in group):
            found[one.what] = min(one.observed_ms, found.get(one.what, one.observed_ms))
        return found

    @cached_property
    def _phones(self) -> Mapping[str, tuple[str, ...]]:
        return {one.session_no: one.phones for one in self.records.tracked}

    @cached_property
    def _logged(self) -> Mapping[What, Logged]:
        return {event.what: event for event in self.records.store.events}

    @cached_property
    def changes(self) -> list[Logged]:
        """The log's changes of status, in the order of their commits."""
        return [one for one in self.events if not one.type]

    @cached_property
    def events(self) -> list[Logged]:
        """All of the log, in the order of its commits."""
        return sorted(self.records.store.events, key=lambda one: one.position)

    @cached_property
    def words(self) -> Mapping[Key, list[Word]]:
        found: dict[Key, list[Word]] = defaultdict(list)
        for word in self.records.answers.words:
            found[word.key].append(word)
        return found

    def sent_ms(self, post: Post) -> int:
        """When a POST was sent, as far as is known: what arrived late was not therefore sent late."""
        attempt = self.records.journal.attempts.get(post.attempt)
        return attempt.sent_ms if attempt else post.at_ms

    def told(self, session_no: str, digits: str) -> set[str]:
        """All that the provider ever said of a phone in a session."""
        return {word.status for key, words in self.words.items() if key[:2] == (session_no, digits) for word in words}

    @cached_property
    def accepted(self) -> Mapping[str, Mapping[What, list[Heard]]]:
        """What each subscription accepted."""
        found: dict[str, dict[What, list[Heard]]] = {}
        for name, group in (*self.heard.items(), *self.others.items()):
            by_what = found.setdefault(name, defaultdict(list))
            for heard in group:
                if heard.post.accepted:
                    by_what[heard.what].append(heard)
        return found

    def queue(self, subscription: str) -> Queue:
        return self.records.store.queues.get(subscription, Queue())

    def places(self, event: Logged) -> tuple[Place, Place]:
        """Where an event is, whole and as the record of accepted deliveries has it."""
        return (event.shard, event.position), (event.shard, low(event.position))

    def is_erased(self, event: Logged) -> bool:
        return (event.account, (event.shard, event.position)) in self.records.store.erased

    @cached_property
    def erased_phones(self) -> Mapping[str, int]:
        """When the erasing of a phone began, by its digits."""
        return {digits_of(one.subject): one.asked_ms for one in self.records.actions if one.name == "erase"}

    def wanted(self, subscriber: Subscriber, event: Logged) -> bool | None:
        """Whether a subscription wanted an event when it was committed; None where it was just being changed."""
        if event.account != subscriber.account or not asks_for(subscriber, event):
            return False
        if subscriber.implicit:
            return None if self._names_it(event.session_no) else False
        at_ms = event.position[0]
        if at_ms <= subscriber.asked_ms:
            return False
        removed = subscriber.removed_ms
        if removed is not None and at_ms >= removed[1]:
            return False
        sure = at_ms > subscriber.added_ms and (removed is None or at_ms < removed[0])
        return True if sure else None

    def _names_it(self, session_no: str) -> bool:
        return session_no in self._with_callback

    @cached_property
    def _with_callback(self) -> set[str]:
        return {one.session_no for one in self.records.tracked if one.callback}

    @cached_property
    def rollbacks(self) -> Sequence[Rollback]:
        """What the store may have forgotten."""
        found = [
            Rollback(since_ms=fault.at_ms - ROLLED_BACK_MS, at_ms=fault.at_ms, until_ms=fault.until_ms)
            for fault in self.records.faults
            if fault.kind is Kind.ROLLS_BACK
        ]
        found += [Rollback(since_ms=since, at_ms=until, until_ms=until) for since, until in self.records.rolled_back]
        return found

    def may_be_rolled_back(self, at_ms: int, until_ms: int = 0) -> bool:
        """Whether what was done then, or at some time up to ``until_ms``, may be gone with the store's last second."""
        return any(one.since_ms <= max(at_ms, until_ms) and at_ms <= one.until_ms for one in self.rollbacks)

    def went_back(self, since_ms: int, by_ms: int) -> bool:
        """Whether by a time the store may have gone back to before another."""
        return any(one.since_ms <= since_ms <= one.until_ms and one.at_ms <= by_ms for one in self.rollbacks)

    def places_of(self, heard: Heard) -> Sequence[Place]:
        """Where an event is in the log; of an erased phone's all places that were erased."""
        found = self._places.get(heard.what, ())
        if not found and heard.phone[1] in self.erased_phones:
            return [place for account, place in self.records.store.erased if account == heard.what[0]]
        return found

    @cached_property
    def _places(self) -> Mapping[What, list[Place]]:
        found: dict[What, list[Place]] = defaultdict(list)
        for event in self.records.store.events:
            found[event.what].append((event.shard, event.position))
        return found


def asks_for(subscriber: Subscriber, event: Logged) -> bool:
    """Whether an event is of a type and status that a subscription hears of. Of itself nobody is told."""
    kind = TYPES[event.type]
    if not any(kind == one or (one.endswith(".*") and kind.startswith(one[:-1])) for one in subscriber.types):
        return False
    if kind.startswith("bridge."):
        about: dict[str, object] = json.loads(event.data)
        return about["subscription"] != subscriber.id
    return bool(event.type) or not subscriber.statuses or event.status in subscriber.statuses


def _seconds(iso: str) -> int:
    return _millis(iso) // 1000


def _millis(iso: str) -> int:
    return round(datetime.fromisoformat(iso).timestamp() * 1000)
