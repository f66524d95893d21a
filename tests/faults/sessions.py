"""What is told of a session as a whole, and of a subscription, by the same invariants as a phone's changes."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import cast

from tests.faults.evidence import Evidence, Heard
from tests.faults.records import COMPLETED, FINAL, TYPES, Violation, digits_of

_NUMBER = re.compile(r"\d{11,13}")
_JUST_NOW_MS = 1_000
"""What settled so close to a subscription's beginning may have been committed before it."""


def completed_when_settled(evidence: Evidence) -> Iterator[Violation]:
    """I2: that a session settled was recorded, where somebody had asked to hear of it by then."""
    records = evidence.records
    asked_ms = min((one.added_ms for one in records.subscribers if _hears_of_completion(one.types)), default=None)
    if asked_ms is None:
        return
    logged = {
        (event.account, json.loads(event.data)["session_no"])
        for event in evidence.events
        if TYPES[event.type] == COMPLETED
    }
    for key, session in records.store.sessions.items():
        if session.settled_ms > asked_ms + _JUST_NOW_MS and key not in logged:
            says = f"session {key[1]} settled at {session.settled_ms}, and no {COMPLETED} was recorded"
            yield Violation(invariant="I2", says=says, records="store")


def _hears_of_completion(types: tuple[str, ...]) -> bool:
    return bool({COMPLETED, "sms.*"} & set(types))


def told_as_it_was(evidence: Evidence) -> Iterator[Violation]:
    """I3: what is told of sessions and subscriptions is in the log, asked for, and what the provider said."""
    logged = {event.what: event for event in evidence.events if event.type}
    for name, group in evidence.others.items():
        subscriber = evidence.subscribers.get(name)
        for heard in {one.what: one for one in group}.values():
            event = logged.get(heard.what)
            problem = ""
            if event is None:
                if not evidence.may_be_rolled_back(heard.observed_ms):
                    problem = "no such event is in the log"
            elif subscriber is None or evidence.wanted(subscriber, event) is False:
                problem = "not asked for, or before it was"
            if not problem and heard.status == COMPLETED:
                problem = _miscounted(evidence, heard)
            if problem:
                says = f"event {heard.id} ({heard.status} {heard.what[4]}), {name}: {problem}"
                yield Violation(invariant="I3", says=says, records="store, provider, receiver")


def _miscounted(evidence: Evidence, heard: Heard) -> str:
    """Whether a completed session has phones of a status that the provider never gave them."""
    data = cast("dict[str, object]", heard.body["data"])
    counts = cast("dict[str, int]", data["statuses"])
    if not set(counts) <= FINAL:
        return f"complete, with {counts}"
    said: Counter[str] = Counter()
    for key, words in evidence.words.items():
        if key[0] == data["session_no"]:
            # By when it was received: the bridge's clock is read over the network, and behind by what that took.
            said.update({word.status for word in words if word.at_ms <= heard.post.at_ms + _JUST_NOW_MS})
    wrong = {status for status, count in counts.items() if status != "no_receipt" and count > said[status]}
    return f"more are {', '.join(sorted(wrong))} than the provider had said" if wrong else ""


def hidden_where_asked(evidence: Evidence) -> Iterator[Violation]:
    """I8: whoever asked for masked or hashed phones got none in full."""
    phones = {digits_of(phone).removeprefix("86") for one in evidence.records.tracked for phone in one.phones}
    for post in evidence.records.posts:
        subscriber = evidence.subscribers.get(post.subscription)
        if subscriber is None or subscriber.phones == "full":
            continue
        if any(number.removeprefix("86") in phones for number in _NUMBER.findall(post.body.decode(errors="replace"))):
            says = f"POST {post.message_id} to {subscriber.id}: holds a phone, which was to be {subscriber.phones}"
            yield Violation(invariant="I8", says=says, records="receiver")
