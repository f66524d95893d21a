"""The invariants, decided from the records of a run: each rule says what disagrees with what, and for whom.

Nothing here is measured in seconds but what a fault excuses: how slow the machine was must not decide.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from tests.faults.evidence import Evidence, Heard
from tests.faults.lost import Lost
from tests.faults.records import FINAL, Logged, Records, Secret, Subscriber, Violation, What, digits_of
from tests.faults.sessions import completed_when_settled, hidden_where_asked, told_as_it_was

_SHIFT_MS = 10_000
"""How long a slice may need to hear of a new secret while its store is slow."""
_ERASED_AFTER_MS = 5_000
"""What was claimed before its phone was erased may still be sent after that."""
_SLOW_MS = 8_000
"""A lag below this is the machine's, and no bad neighbour's."""
_MOVES = ("timestamp",)
_MOVES_OF_DATA = ("previous_poll_at", "sequence", "previous_status")


def check(records: Records) -> list[Violation]:
    """All that is wrong."""
    evidence = Evidence(records)
    return [violation for rule in RULES for violation in rule(evidence)]


def polled_until_settled(evidence: Evidence) -> Iterator[Violation]:
    """I1: every tracked session was asked for, is settled, and ends as the provider's last word has it."""
    records = evidence.records
    for one in records.tracked:
        state = records.store.sessions.get((one.account, one.session_no))
        excused = evidence.may_be_rolled_back(one.acked_ms)
        name = f"session {one.session_no}, tracked at {one.acked_ms}"
        if state is None:
            if not excused:
                yield _violation("I1", f"{name}, is not stored", "broker's acknowledgement, store")
            continue
        if one.session_no not in records.answers.answered_ms:
            yield _violation("I1", f"{name}, was never asked for", "store, provider")
        if not state.settled_ms:
            yield _violation("I1", f"{name}, is not settled after all faults ended", "store")
            continue
        for phone in one.phones:
            digits = digits_of(phone)
            found = {status for (its, _), status in state.phones.items() if its == digits}
            told = evidence.told(one.session_no, digits)
            if digits not in evidence.erased_phones and not (found & FINAL & (told | {"no_receipt"})):
                said = f"{name}, phone {phone}: {found or 'absent'}, the provider said {told}"
                yield _violation("I1", said, "store, provider")


def never_absent(evidence: Evidence) -> Iterator[Violation]:
    """I2: every change is somewhere, for each subscription that wanted it; and what is said to be accepted was."""
    if evidence.records.not_drained:
        yield _violation("I2", f"not drained after all faults ended: {evidence.records.not_drained}", "store")
    for subscriber in evidence.records.subscribers:
        queue = evidence.queue(subscriber.id)
        accepted = evidence.accepted.get(subscriber.id, {})
        absent = []
        for event in evidence.events:
            whole, noted = evidence.places(event)
            if noted in queue.told and event.what not in accepted:
                yield _violation(
                    "I2", f"{_of(event)}, {subscriber.id}: noted as accepted, but it never was", "store, receiver"
                )
            somewhere = event.what in accepted or whole in queue.waiting or whole in queue.dead or noted in queue.told
            if evidence.wanted(subscriber, event) and not somewhere and not evidence.is_erased(event):
                absent.append(event)
        gone = queue.dropped + queue.limited
        if len(absent) > gone and subscriber.removed_ms is None:
            for event in absent[gone:]:
                yield _violation(
                    "I2",
                    f"{_of(event)}, {subscriber.id}: wanted, and neither accepted, waiting, dead, erased nor counted "
                    f"as dropped ({gone})",
                    "store, receiver",
                )


def never_invented(evidence: Evidence) -> Iterator[Violation]:
    """I3: what a subscription heard was said by the provider, is its own, was asked for, and never goes back."""
    logged: dict[What, Logged] = {event.what: event for event in evidence.changes}
    owners = {one.session_no: one.account for one in evidence.records.tracked}
    for name, group in evidence.heard.items():
        subscriber = evidence.subscribers.get(name)
        for heard in {one.what: one for one in reversed(group)}.values():
            for problem in _invented(evidence, subscriber, heard, owners):
                yield _violation("I3", f"{_in(heard)}, {name}: {problem}", "provider, receiver")
            if (
                heard.what not in logged
                and not evidence.may_be_rolled_back(evidence.observed_ms[heard.what])
                and heard.phone[1] not in evidence.erased_phones
            ):
                yield _violation("I3", f"{_in(heard)}, {name}: no such change is in the log", "store, receiver")
        yield from _goes_back(evidence, name, group)
        yield from _comes_back(evidence, name, group)


def _invented(
    evidence: Evidence, subscriber: Subscriber | None, heard: Heard, owners: Mapping[str, str]
) -> Iterator[str]:
    account, session_no, status = heard.what[0], heard.what[1], heard.status
    if subscriber is None or subscriber.account != account or owners.get(session_no) != account:
        yield f"of account {account}, which is not its own"
    elif subscriber.statuses and status not in subscriber.statuses:
        yield f"asked for {subscriber.statuses} only"
    if status == "no_receipt":
        state = evidence.records.store.sessions.get((account, session_no))
        if state is not None and heard.observed_ms < state.sent_ms + evidence.records.give_up_ms:
            yield "given up on too early"
        return
    said = [word for word in evidence.words.get(heard.phone, ()) if word.status == status]
    # When it was received, and not when the bridge says that it observed it: its clock is read over the network, and
    # behind by what that took. A second: an answer that is sent in pieces is noted after its last.
    if not any(word.at_ms <= heard.post.at_ms + 1000 for word in said):
        yield "the provider had not said so"
    elif status in FINAL and not any(word.time == heard.what[5] for word in said):
        yield f"with ReceiptTime {heard.what[5]}, which the provider never gave"


def _goes_back(evidence: Evidence, name: str, group: Sequence[Heard]) -> Iterator[Violation]:
    """By first arrival: a final word is never followed by another status, but a corrected one.

    Or one that was seen by a master whose place was just given away, beside the one that had it by then.
    """
    last: dict[tuple[str, str, str], Heard] = {}
    seen: set[What] = set()
    for heard in group:
        if heard.what in seen:
            continue
        seen.add(heard.what)
        before = last.get(heard.phone)
        data = heard.body["data"]
        corrected = isinstance(data, dict) and (data.get("corrected") or data.get("late"))
        is_news = not corrected and not evidence.may_be_rolled_back(evidence.observed_ms[heard.what])
        if before is not None and before.status in FINAL and is_news:
            yield _violation("I3", f"{_in(heard)}, {name}: after {before.status}, which is final", "receiver")
        last[heard.phone] = heard


def _comes_back(evidence: Evidence, name: str, group: Sequence[Heard]) -> Iterator[Violation]:
    erased = {digits_of(one.subject): one for one in evidence.records.actions if one.name == "erase"}
    for heard in group:
        action = erased.get(heard.phone[1])
        if action is None or evidence.sent_ms(heard.post) <= action.done_ms + _ERASED_AFTER_MS:
            continue
        # What nobody says when it was sent counts as sent when its tracking, which may wait for long, was recorded.
        session = evidence.records.store.sessions.get((heard.what[0], heard.what[1]))
        if session is None or session.sent_ms <= action.asked_ms:
            yield _violation("I3", f"{_in(heard)}, {name}: the phone was erased", "operator, receiver")


def same_id_same_bytes(evidence: Evidence) -> Iterator[Violation]:
    """I4: one change, one id; one id, one change; and the same bytes at each attempt."""
    ids: dict[What, str] = {}
    whats: dict[str, What] = {}
    for name, group in (*evidence.heard.items(), *evidence.others.items()):
        bodies: dict[str, Heard] = {}
        for heard in group:
            known = ids.setdefault(heard.what, heard.id)
            if known != heard.id:
                yield _violation("I4", f"{_in(heard)}, {name}: its id was {known} before", "receiver")
            other = whats.setdefault(heard.id, heard.what)
            if other != heard.what:
                yield _violation("I4", f"{_in(heard)}, {name}: the id of {other} too", "receiver")
            first = bodies.setdefault(heard.id, heard)
            if not _same(evidence, first, heard):
                yield _violation("I4", f"{_in(heard)}, {name}: other bytes than at first", "receiver")


def _same(evidence: Evidence, first: Heard, second: Heard) -> bool:
    if first.body == second.body and (
        first.post.body == second.post.body or b'"bridge.batch"' in first.post.body + second.post.body
    ):
        return True
    # Seen again by a store that had lost it: then when and as which it was seen may differ.
    return evidence.may_be_rolled_back(evidence.observed_ms[first.what]) and _unmoved(first.body) == _unmoved(
        second.body
    )


def _unmoved(event: Mapping[str, object]) -> Mapping[str, object]:
    data = event["data"]
    assert isinstance(data, dict)
    kept = {name: value for name, value in data.items() if name not in _MOVES_OF_DATA}
    return {name: value for name, value in event.items() if name not in _MOVES} | {"data": kept}


def signed(evidence: Evidence) -> Iterator[Violation]:
    """I5: every POST verifies with the secrets that were to sign it then."""
    for post in evidence.records.posts:
        subscriber = evidence.subscribers.get(post.subscription)
        secrets = subscriber.secrets if subscriber else ()
        needed = [place for place, secret in enumerate(secrets) if _must_sign(secret, post.timestamp_s)]
        if not post.verified_by or not set(needed) <= set(post.verified_by):
            yield _violation(
                "I5",
                f"POST {post.message_id} to {post.subscription} at {post.at_ms}: verifies with secrets "
                f"{list(post.verified_by)} of {len(secrets)}, should with {needed}",
                "receiver",
            )


def _must_sign(secret: Secret, timestamp_s: int) -> bool:
    """Whether it certainly had to sign a POST of that second."""
    if timestamp_s * 1000 < secret.given_ms + _SHIFT_MS:
        return False
    return secret.until_ms is None or (timestamp_s + 1) * 1000 < secret.until_ms


def in_order(evidence: Evidence) -> Iterator[Violation]:
    """I6: no event of a phone is sent before its earlier ones were accepted there, or given up."""
    for name, group in evidence.heard.items():
        queue = evidence.queue(name)
        excused = {event.what for event in evidence.changes if evidence.places(event)[0] in queue.dead}
        first: dict[What, Heard] = {}
        accepted_ms: dict[What, int] = {}
        phones: dict[tuple[str, str], list[Heard]] = defaultdict(list)
        for heard in group:
            if first.setdefault(heard.what, heard) is heard:
                phones[heard.phone[:2]].append(heard)
            if heard.post.accepted:
                accepted_ms.setdefault(heard.what, heard.post.decided_ms)
        for arrived in phones.values():
            if any(evidence.may_be_rolled_back(evidence.observed_ms[one.what]) for one in arrived):
                continue
            ordered = sorted(arrived, key=lambda one: one.sequence)
            for place, later in enumerate(ordered):
                for earlier in ordered[:place]:
                    done_ms = accepted_ms.get(earlier.what)
                    late = done_ms is None or done_ms > later.post.at_ms
                    if late and earlier.what not in excused and not _was_dropped(evidence, name, earlier):
                        yield _violation(
                            "I6", f"{_in(later)}, {name}: before {_in(earlier)} was accepted there", "receiver"
                        )


def _was_dropped(evidence: Evidence, subscription: str, heard: Heard) -> bool:
    """Whether an operator let go of an event that waited: then the later ones need not wait for it."""
    if heard.phone[1] in evidence.erased_phones:
        return True
    return any(
        one.name == "resume"
        and one.subject == subscription
        and "latest" in one.detail
        and one.asked_ms >= heard.observed_ms
        for one in evidence.records.actions
    )


def neighbours_unaffected(evidence: Evidence) -> Iterator[Violation]:
    """I7: beside those that hang, a well receiver's 99th percentile stays within twice of what it was."""
    without, beside = evidence.records.lags_ms
    if not without or not beside:
        return
    limit = max(2 * _p99(without), _SLOW_MS)
    if _p99(beside) > limit:
        yield _violation(
            "I7",
            f"p99 is {_p99(beside)} ms beside receivers that hang, {_p99(without)} ms without them",
            "receiver",
        )


def _p99(values: Sequence[int]) -> int:
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


_NUMBER = re.compile(r"\d{9,}")


def nothing_said(evidence: Evidence) -> Iterator[Violation]:
    """I8: no log line, answer, Sentry event or event of Celery's holds a secret or a full phone."""
    records = evidence.records
    phones = {digits for one in records.tracked for phone in one.phones for digits in _spellings(phone)}
    for name, lines in records.log_lines.items():
        for number, line in enumerate(lines, start=1):
            # Longer numbers are taken apart: a phone may stand in the midst of them only by chance.
            if any(found in phones for found in _NUMBER.findall(line.replace("(86)", "86"))):
                yield _violation("I8", f"{name}, line {number}: holds a phone", "log")
            if any(secret and secret in line for secret in records.secrets_said):
                yield _violation("I8", f"{name}, line {number}: holds a secret", "log")


def _spellings(phone: str) -> tuple[str, ...]:
    digits = digits_of(phone)
    return digits, digits.removeprefix("86"), "00" + digits


def nobody_refused_called(evidence: Evidence) -> Iterator[Violation]:
    """I9: nobody connected to an address that is refused."""
    for connection in evidence.records.refused_connections:
        yield _violation("I9", f"a connection to {connection}", "receiver")


def ends_only_when_told(evidence: Evidence) -> Iterator[Violation]:
    """No crash loop: whatever befalls its servers, no process ends by itself."""
    for one in evidence.records.ended:
        if one.how == "by itself" or (one.how == "stopped" and one.code):
            told = "though it was only asked to end" if one.how == "stopped" else "by itself"
            says = f"{one.kind} {one.pid} ended {told} at {one.at_ms}, exit code {one.code}: {one.last_lines}"
            yield _violation("no crash loop", says, "processes")


def repeated_for_a_reason(evidence: Evidence) -> Iterator[Violation]:
    """I10: what was accepted comes again only where that outcome was lost, and by what is known."""
    lost = Lost(evidence)
    for name, group in (*evidence.heard.items(), *evidence.others.items()):
        for before, again in repeats(group):
            if lost.cause_of(name, before, again) is None:
                yield _violation(
                    "I10",
                    f"{_in(again)}, {name}: again at {again.post.at_ms} ({again.post.mood}), accepted at "
                    f"{before.post.decided_ms} ({before.post.mood}), "
                    f"by attempts {before.post.attempt} and {again.post.attempt}, and nothing lost the outcome",
                    "receiver, worker, store",
                )


def repeats(group: Sequence[Heard]) -> Iterator[tuple[Heard, Heard]]:
    """Each arrival of what was accepted before, with that acceptance."""
    accepted: dict[What, Heard] = {}
    for heard in sorted(group, key=lambda one: one.post.at_ms):
        before = accepted.get(heard.what)
        if before is not None:
            yield before, heard
        if heard.post.accepted:
            accepted[heard.what] = heard


def _violation(invariant: str, says: str, records: str) -> Violation:
    return Violation(invariant=invariant, says=says, records=records)


def _of(event: Logged) -> str:
    place = f"{event.shard}:{event.position[0]}-{event.position[1]}"
    return f"change {event.session_no} {event.phone} {event.user_id} → {event.status} at {place}"


def _in(heard: Heard) -> str:
    return f"event {heard.id} ({' '.join(heard.phone)} → {heard.status}, sequence {heard.sequence})"


RULES: Sequence[Callable[[Evidence], Iterator[Violation]]] = (
    polled_until_settled,
    never_absent,
    completed_when_settled,
    never_invented,
    told_as_it_was,
    same_id_same_bytes,
    signed,
    in_order,
    neighbours_unaffected,
    nothing_said,
    hidden_where_asked,
    nobody_refused_called,
    repeated_for_a_reason,
    ends_only_when_told,
)
"""I1 to I10, in order, and that there is no crash loop."""


def decoded(data: bytes) -> Records:
    """Records that were kept in a file."""
    return msgspec.msgpack.decode(data, type=Records)
