"""The invariants of a run, each told by records that know nothing of one another.

What the provider said, what receivers heard, what was committed, what the store holds at the end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from bridge.domain.receipts import Status
from tests.faults.records import FINAL, Violation, digits_of, meaning_of
from tests.simulation.evidence import Committed, Where
from tests.simulation.world import Heard, Word

if TYPE_CHECKING:
    from tests.simulation.run import Run

_IN_VAIN = 8
"""An answer may be lost with who heard it, and operators and the provider's pushes ask once more for what is settled; a
session that never settles by what was said is asked for fifteen times."""

Lane = tuple[str, str, str]
"""An account, a session and a phone's digits."""


def _digits(event: Committed) -> str:
    return digits_of(event.record.phone) if event.record.phone else ""


def _status(event: Committed) -> str:
    return Status(event.record.status).text


def _changes(run: Run) -> list[Committed]:
    return [one for one in run.evidence.committed if not one.record.type]


def _name(event: Committed) -> str:
    return f"{event.record.session_no} {_digits(event)} → {_status(event)} (type {event.record.type}) at {event.place}"


def polled_until_settled(run: Run) -> Iterator[str]:
    """I1: every session is asked for until it settled, and no longer, and ends as the provider's last word has it."""
    stored = {name: state for here in run.store.sessions.shards for name, (_, state) in here.stored.items()}
    told: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in _changes(run):
        told[one.record.session_no, _digits(one)].append(_status(one))
    left = {no for here in run.store.sessions.shards for due in here.due.values() for no in due}
    for session_no in run.evidence.tracked:
        state = next(
            (stored[account, session_no] for account in ("default", "shop") if (account, session_no) in stored), None
        )
        if state is not None and not state.settled_ms:
            yield f"{session_no} is not settled, and {'' if session_no in left else 'not '}due"
        if session_no not in run.provider.asked and session_no not in run.evidence.forgotten:
            yield f"{session_no} was never asked for"
    for session_no in run.evidence.expecting - run.evidence.forgotten.keys():
        if run.provider.in_vain[session_no] > _IN_VAIN:
            yield f"{session_no} was asked for {run.provider.in_vain[session_no]} times after all was said"
    for (session_no, digits), words in run.provider.said.items():
        finals = {meaning_of(word.receipt.result, word.receipt.code) for word in words} & FINAL
        excused = digits in run.evidence.erased or session_no in run.evidence.forgotten
        if finals and not finals & set(told[session_no, digits]) and not excused:
            yield f"{session_no} {digits}: the provider said {finals}, and nobody was told"


def never_absent(run: Run) -> Iterator[str]:
    """I2: what was committed is somewhere, for each who wanted it then."""
    accepted = {(post.subscription, what) for post in run.evidence.posts if post.accepted for what, _ in post.events}
    missed: dict[str, list[Committed]] = defaultdict(list)
    for one in run.evidence.committed:
        erased = run.store.upkeep.erased[one.place[0]]
        for name in one.wanted:
            if name not in one.routed:
                yield f"{_name(one)}: {name} wanted it, and it was not sent there"
            elif (name, one.id) not in accepted and one.place[1] not in erased:
                missed[name].append(one)
    for name in run.store.registries.subscriptions:
        yield from _missed(run, name, missed[name])


def _missed(run: Run, name: str, events: Sequence[Committed]) -> Iterator[str]:
    """What was not accepted is a dead letter, or was dropped and counted; nothing waits for ever."""
    queues = run.store.queues.of(name)
    waits = {(shard, place) for shard, queue in enumerate(queues) for place in queue.waiting}
    letters = {(shard, letter.position): letter for shard, queue in enumerate(queues) for letter in queue.dead}
    dropped = {(shard, place) for shard, queue in enumerate(queues) for place in queue.discarded}
    absent = [one for one in events if one.place not in waits | letters.keys()]
    counted = sum([queue.dropped + queue.forgotten for queue in queues])
    if len(absent) > counted:
        yield f"{name}: {len(absent)} are absent, {counted} were dropped"
    yield from [f"{_name(one)}: absent at {name}" for one in absent if one.place not in dropped]
    yield from [f"{place}: still waits at {name}, after all faults ended" for place in sorted(waits)]
    yield from [
        f"{place}: a dead letter at {name} without a record" for place, one in letters.items() if not one.record
    ]


def never_invented(run: Run) -> Iterator[str]:
    """I3: what is told was said by the provider, and never goes back; and what is heard is what was committed."""
    bodies = {(one.account, one.id, one.body) for one in run.evidence.committed}
    accounts = {one.id: one.account for one in run.store.registries.subscriptions.values()}
    for post in run.evidence.posts:
        for what, body in post.events:
            if (accounts[post.subscription], what, body) not in bodies:
                yield f"{post.subscription} heard {what}, which nobody committed so"
    last: dict[Lane, Committed] = {}
    for one in _changes(run):
        yield from _invented(one, run.provider.said[one.record.session_no, _digits(one)], run)
        lane = one.account, one.record.session_no, _digits(one)
        before = last.get(lane)
        may_follow = one.record.corrected or one.record.late
        goes_back = before is not None and _status(before) in FINAL and not may_follow
        if before is not None and goes_back and not _forgotten_since(run, before, one):
            yield f"{_name(one)}: after {_status(before)}"
        last[lane] = one


def _invented(one: Committed, said: Sequence[Word], run: Run) -> Iterator[str]:
    record = one.record
    if _status(one) == "no_receipt":
        if record.observed_ms < run.evidence.sent[record.session_no] + run.give_up_ms:
            yield f"{_name(one)}: given up on too early"
        return
    heard = [word for word in said if word.at_ms <= record.observed_ms and word.receipt.time == record.receipt_time]
    if _status(one) not in {meaning_of(word.receipt.result, word.receipt.code) for word in heard}:
        yield f"{_name(one)}: the provider had not said so"


def _forgotten_since(run: Run, before: Committed, after: Committed) -> bool:
    """Whether the session was forgotten in between: by an operator, or because it was over."""
    times = run.evidence.forgotten.get(before.record.session_no, ())
    return any(before.record.observed_ms <= at <= after.record.observed_ms for at in times)


def one_change_one_id(run: Run) -> Iterator[str]:
    """I4: one change has one id, and is committed once; one id is of one change; a delivery's bytes never change."""
    changes: dict[str, tuple[object, ...]] = {}
    before: dict[str, Committed] = {}
    for one in run.evidence.committed:
        time = one.record.receipt_time if _status(one) in FINAL and one.record.result is not None else 0
        change = (
            one.account,
            one.record.session_no,
            _digits(one),
            one.record.user_id,
            _status(one),
            time,
            one.record.type,
        )
        if changes.setdefault(one.id, change) != change:
            yield f"{_name(one)}: its id is that of {changes[one.id]}"
        other = before.get(one.id)
        if other is not None and not _forgotten_since(run, other, one):
            yield f"{_name(one)}: committed before, at {other.place}"
        before[one.id] = one
    if len(set(changes.values())) != len(changes):
        yield "a change has two ids"
    # Seen again after it was forgotten, a change may have other bytes: those of each time, and no others.
    known: dict[tuple[str, str], set[bytes]] = defaultdict(set)
    for post in run.evidence.posts:
        for what, body in post.events:
            known[post.subscription, what].add(body)
    times: dict[str, int] = defaultdict(int)
    for one in run.evidence.committed:
        times[one.id] += 1
    for (name, what), bodies in known.items():
        if len(bodies) > times[what]:
            yield f"{name} heard {what} in {len(bodies)} ways"


def in_order(run: Run) -> Iterator[str]:
    """I6: a phone's events first arrive in their order, but for those that were given up, dropped or sent again."""
    lanes: dict[tuple[str, Lane], list[Committed]] = defaultdict(list)
    for one in run.evidence.committed:
        for name in one.routed:
            lanes[name, (one.account, one.record.session_no, _digits(one))].append(one)
    arrived: dict[tuple[str, Where], int] = {}
    accepted: dict[tuple[str, Where], int] = {}
    for number, post in enumerate(run.evidence.posts):
        for place in post.places:
            arrived.setdefault((post.subscription, place), number)
            if post.accepted:
                accepted.setdefault((post.subscription, place), number)
    for (name, _), events in lanes.items():
        excused = _excused(run, name)
        for number, later in enumerate(events):
            at = arrived.get((name, later.place))
            if at is None or (name, later.place) in run.evidence.resent:
                continue
            for earlier in events[:number]:
                if earlier.place not in excused and accepted.get((name, earlier.place), at) >= at:
                    yield f"{_name(later)}, {name}: before {_name(earlier)} was accepted"


def _excused(run: Run, name: str) -> set[Where]:
    """What is not counted: dead letters of any time, what was dropped or erased, and what was sent again."""
    found = {where for of, where in run.evidence.resent if of == name}
    for shard, queue in enumerate(run.store.queues.of(name)):
        found |= {(shard, place) for place in queue.given_up | queue.discarded | run.store.upkeep.erased[shard].keys()}
    return found


def repeated_for_a_reason(run: Run) -> Iterator[str]:
    """I10: what was accepted comes again only where that outcome was lost."""
    accepted: dict[tuple[str, Where], Heard] = {}
    for post in run.evidence.posts:
        for (what, _), place in zip(post.events, post.places, strict=True):
            before = accepted.get((post.subscription, place))
            is_known = before is not None and before.is_heard and not before.lost
            if before is not None and is_known and (post.subscription, place) not in run.evidence.resent:
                yield f"{post.subscription} heard {what} at {before.at_ms} and at {post.at_ms}"
            if post.accepted:
                accepted[post.subscription, place] = post


JUDGES: dict[str, Callable[[Run], Iterator[str]]] = {
    "I1": polled_until_settled,
    "I2": never_absent,
    "I3": never_invented,
    "I4": one_change_one_id,
    "I6": in_order,
    "I10": repeated_for_a_reason,
}


def judge(run: Run) -> list[Violation]:
    """What does not hold of a run that is over."""
    return [Violation(invariant=name, says=says) for name, rule in JUDGES.items() for says in rule(run)]
