"""The checker against records that were altered, one thing at a time: each must be named."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
import pytest

from tests.faults.checker import check, repeats
from tests.faults.evidence import Evidence
from tests.faults.plans import Plan
from tests.faults.records import Post, Queue, Records
from tests.faults.run import play

replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def right() -> Records:
    """A run in which all went well."""
    applications = ("well", "moody", "batches", "failures")
    plan = Plan(sessions=20, per_s=10, words_over_s=2, applications=applications, neighbours=True)
    return play(plan)


def without_posts(records: Records, keep: Callable[[Post], bool]) -> Records:
    return replace(records, posts=tuple(post for post in records.posts if keep(post)))


def one_accepted(records: Records) -> Post:
    """A POST that was accepted, of one event and no batch."""
    return next(post for post in records.posts if post.accepted and b'"bridge.batch"' not in post.body)


def with_posts(records: Records, change: Callable[[Post], Post]) -> Records:
    return replace(records, posts=tuple(map(change, records.posts)))


def changed(records: Records, **fields: object) -> Records:
    """With one accepted POST altered."""
    chosen = one_accepted(records)
    return with_posts(records, lambda post: replace(post, **fields) if post is chosen else post)


def rewritten(records: Records, old: bytes, new: bytes) -> Records:
    """With a word of all accepted bodies replaced."""
    return with_posts(records, lambda post: replace(post, body=post.body.replace(old, new)))


def a_session_gone(records: Records) -> Records:
    first = records.tracked[0]
    kept = {key: one for key, one in records.store.sessions.items() if key != (first.account, first.session_no)}
    return replace(records, store=replace(records.store, sessions=kept))


def a_session_open(records: Records) -> Records:
    sessions = dict(records.store.sessions)
    key = next(iter(sessions))
    sessions[key] = replace(sessions[key], settled_ms=0)
    return replace(records, store=replace(records.store, sessions=sessions))


def a_session_never_asked(records: Records) -> Records:
    answered = dict(records.answers.answered_ms)
    answered.pop(records.tracked[0].session_no)
    return replace(records, answers=replace(records.answers, answered_ms=answered))


def a_delivery_absent(records: Records) -> Records:
    chosen = one_accepted(records)
    queues = dict(records.store.queues)
    queues[chosen.subscription] = replace(queues[chosen.subscription], told=frozenset())
    without = without_posts(records, lambda post: post is not chosen)
    return replace(without, store=replace(records.store, queues=queues))


def a_delivery_noted_but_never_made(records: Records) -> Records:
    chosen = one_accepted(records)
    return without_posts(records, lambda post: post is not chosen)


def something_left(records: Records) -> Records:
    return replace(records, not_drained="3 sessions not settled")


def a_word_never_said(records: Records) -> Records:
    return replace(records, answers=replace(records.answers, words=records.answers.words[len(records.tracked) :]))


def a_status_invented(records: Records) -> Records:
    return rewritten(records, b'"status":"undelivered"', b'"status":"failed"')


def a_receipt_of_another_time(records: Records) -> Records:
    return replace(
        records,
        answers=replace(
            records.answers, words=tuple(replace(word, time=word.time + 1) for word in records.answers.words)
        ),
    )


def another_account_told(records: Records) -> Records:
    return rewritten(records, b'"account":"default"', b'"account":"other"')


def a_phone_back_from_erasure(records: Records) -> Records:
    from tests.faults.records import Action

    phone = records.tracked[0].phones[0]
    return replace(records, actions=(Action(name="erase", subject=phone, asked_ms=0, done_ms=1),))


def another_id(records: Records) -> Records:
    chosen = one_accepted(records)
    again = replace(chosen, accepted=False, body=chosen.body.replace(b'{"id":"evt_', b'{"id":"evt_x'))
    return replace(records, posts=(again, *records.posts))


def other_bytes(records: Records) -> Records:
    chosen = one_accepted(records)
    again = replace(chosen, accepted=False, body=chosen.body.replace(b'"number":', b'"number": '))
    return replace(records, posts=(again, *records.posts))


def no_signature(records: Records) -> Records:
    return changed(records, verified_by=())


def out_of_order(records: Records) -> Records:
    """An earlier change of a phone that was sent, refused, and never accepted, though a later one was."""
    chosen = next(post for post in records.posts if post.accepted and b'"status":"delivered"' in post.body)
    earlier = chosen.body.replace(b'"status":"delivered"', b'"status":"unknown"').replace(
        b'"sequence":', b'"sequence":-'
    )
    return replace(records, posts=(replace(chosen, body=earlier, accepted=False), *records.posts))


def a_slow_neighbour(records: Records) -> Records:
    return replace(records, lags_ms=((20, 30), (20, 30_000)))


def a_phone_logged(records: Records) -> Records:
    line = f'{{"event":"polled","phone":"{records.tracked[0].phones[0]}"}}'
    return replace(records, log_lines={**records.log_lines, "worker.log": (line,)})


def a_secret_logged(records: Records) -> Records:
    line = f"signing with {records.subscribers[0].secrets[0].value}"
    return replace(records, log_lines={**records.log_lines, "worker.log": (line,)})


def a_call_to_a_refused_address(records: Records) -> Records:
    return replace(records, refused_connections=("http://127.0.0.2:80/canary",))


def a_repetition(records: Records) -> Records:
    chosen = one_accepted(records)
    again = replace(chosen, at_ms=chosen.at_ms + 2_000, decided_ms=chosen.decided_ms + 2_000)
    return replace(records, posts=(*records.posts, again))


ALTERED: Mapping[Callable[[Records], Records], str] = {
    a_session_gone: "I1",
    a_session_open: "I1",
    a_session_never_asked: "I1",
    a_delivery_absent: "I2",
    a_delivery_noted_but_never_made: "I2",
    something_left: "I2",
    a_word_never_said: "I3",
    a_status_invented: "I3",
    a_receipt_of_another_time: "I3",
    another_account_told: "I3",
    a_phone_back_from_erasure: "I3",
    another_id: "I4",
    other_bytes: "I4",
    no_signature: "I5",
    out_of_order: "I6",
    a_slow_neighbour: "I7",
    a_phone_logged: "I8",
    a_secret_logged: "I8",
    a_call_to_a_refused_address: "I9",
    a_repetition: "I10",
}


@pytest.mark.timeout(300)
def test_what_went_well_is_right_and_comes_once(right: Records) -> None:
    assert check(right) == []
    assert not any(list(repeats(group)) for group in Evidence(right).heard.values())
    assert all(right.lags_ms), "a well receiver was watched without a neighbour that hangs, and beside one"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("alter", ALTERED, ids=lambda alter: alter.__name__)
def test_what_was_altered_is_named(right: Records, alter: Callable[[Records], Records]) -> None:
    found = {violation.invariant for violation in check(alter(right))}
    assert ALTERED[alter] in found


def test_an_empty_queue_is_no_excuse(right: Records) -> None:
    """Were the store to have forgotten all queues, every change would be absent, but for what receivers accepted."""
    forgotten = replace(right, store=replace(right.store, queues={name: Queue() for name in right.store.queues}))
    assert check(replace(forgotten, posts=())) != []
    assert Evidence(right).changes
