"""The checker against records that were altered, one thing at a time: each must be named."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
import pytest

from tests.faults.checker import check, repeats
from tests.faults.evidence import Evidence, Heard
from tests.faults.lost import Lost
from tests.faults.plans import Plan
from tests.faults.records import Action, Asked, Attempt, Ended, Fault, Harm, Hindrance, Kind, Post, Queue, Records
from tests.faults.run import play
from tests.faults.watchers import EVENTS, SENTRY

replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def right() -> Records:
    """A run in which all went well."""
    applications = ("well", "moody", "batches", "failures", "pushed", "masked", "hashed", "sessions")
    plan = Plan(sessions=20, per_s=10, words_over_s=2, applications=applications, neighbours=True)
    return play(plan)


def heard_of(records: Records) -> list[list[Heard]]:
    evidence = Evidence(records)
    return [*evidence.heard.values(), *evidence.others.values()]


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


def a_phone_told_to_sentry(records: Records) -> Records:
    line = f'{{"message":"no answer for {records.tracked[0].phones[0]}"}}'
    return replace(records, log_lines={**records.log_lines, SENTRY: (*records.log_lines[SENTRY], line)})


def a_phone_shown_by_flower(records: Records) -> Records:
    line = f'{{"type":"task-received","args":"[\'{records.tracked[0].phones[0]}\']"}}'
    return replace(records, log_lines={**records.log_lines, EVENTS: (*records.log_lines[EVENTS], line)})


def a_phone_in_full_where_masked(records: Records) -> Records:
    masked = next(one.id for one in records.subscribers if one.phones == "masked")
    phone = records.tracked[0].phones[0].encode()
    return with_posts(records, lambda post: replace(post, body=phone) if post.subscription == masked else post)


def a_completion_unrecorded(records: Records) -> Records:
    events = tuple(event for event in records.store.events if event.type != 2)
    return replace(records, store=replace(records.store, events=events))


def a_completion_miscounted(records: Records) -> Records:
    return rewritten(records, b'"statuses":{"delivered":', b'"statuses":{"delivered":9')


def a_push_of_another_status(records: Records) -> Records:
    return rewritten(records, b'"ReceiptResult":"Fail"', b'"ReceiptResult":"SubmitFail"')


def a_hash_of_nobody(records: Records) -> Records:
    hashed = [replace(one, phone_key="00" * 32) if one.phones == "hashed" else one for one in records.subscribers]
    return replace(records, subscribers=tuple(hashed))


def a_process_that_gave_up(records: Records) -> Records:
    return replace(records, ended=(Ended(pid=1, kind="worker", at_ms=1, how="by itself", code=1),))


def again_of(records: Records, **fields: object) -> Records:
    """One accepted POST came again two seconds later, as another attempt; ``fields`` alter what is known of the first.
    All the while workers are killed and the network fails, but others than those that this concerns."""
    chosen = one_accepted(records)
    first = records.journal.attempts[chosen.attempt]
    second = replace(first, name="1-1", pid=1, sent_ms=first.sent_ms + 2_000, heard_ms=first.heard_ms + 2_000)
    attempts = {**records.journal.attempts, first.name: replace(first, **fields), "1-1": second}
    later = {"at_ms": chosen.at_ms + 2_000, "decided_ms": chosen.decided_ms + 2_000, "attempt": "1-1"}
    names = ("kill -9 of a worker", "receivers' replies cut", "store stalled", "SIGSTOP of a worker")
    return replace(
        records,
        posts=(*records.posts, replace(chosen, **later)),
        journal=replace(records.journal, attempts=attempts),
        faults=tuple(
            Fault(name=name, kind=Kind.LOSES_OUTCOMES, at_ms=at_ms, until_ms=at_ms + 1_000)
            for name in names
            for at_ms in range(first.sent_ms - 3_000, first.sent_ms + 5_000, 1_000)
        ),
        ended=(Ended(pid=2, kind="worker", at_ms=first.heard_ms, how="killed"),),
        harms=(Harm(link="receivers", port=0, at_ms=first.heard_ms, how="cut"),),
    )


def sent_again(records: Records, harm: Harm) -> Records:
    """libcurl sent it once more, was refused, and tells of that; it came a third time by another attempt."""
    chosen = one_accepted(records)
    refused = replace(
        chosen, at_ms=chosen.at_ms + 20, decided_ms=chosen.decided_ms + 20, status=503, accepted=False, port=1
    )
    again = again_of(records, status=503)
    return replace(again, posts=(*again.posts, refused), harms=(harm,))


def leased_anew(records: Records, apart: int) -> Records:
    """While a master is replaced it comes again, from a lease by a server so far from the one that was told."""
    again = again_of(records)
    first = records.journal.attempts[one_accepted(records).attempt]
    told, lane = told_of(records)
    lease = replace(
        told, pid=1, script="claim_lanes", asked_ms=first.sent_ms + 1_990, accepted=(), lanes=(lane,), reply=1
    )
    lease = replace(lease, server=told.server + apart, answered_ms=first.sent_ms + 1_995)
    over = Fault(
        name="SENTINEL FAILOVER", kind=Kind.HARMLESS, at_ms=first.sent_ms - 100, until_ms=first.sent_ms + 3_000
    )
    return replace(again, journal=replace(again.journal, asked=(*again.journal.asked, lease)), faults=(over,))


def told_of(records: Records) -> tuple[Asked, str]:
    """The call that wrote down the outcome of the one accepted POST, and that event's lane."""
    evidence, chosen = Evidence(records), one_accepted(records)
    ((shard, position),) = next(
        evidence.places_of(one) for one in evidence.heard[chosen.subscription] if one.post is chosen
    )
    call = next(
        call
        for call in records.journal.asked
        if position in call.accepted and (call.subscription, call.shard) == (chosen.subscription, shard)
    )
    return call, call.lanes[call.accepted.index(position)]


def a_repetition(records: Records) -> Records:
    return again_of(records)


def an_outcome_never_written(records: Records) -> Records:
    return unwritten(again_of(records))


def an_answer_taken_for_a_failure(records: Records) -> Records:
    return again_of(records, code=56)


def a_time_out_before_its_time(records: Records) -> Records:
    return again_of(records, code=28)


def a_repetition_after_anothers_cut(records: Records) -> Records:
    """libcurl sent it again, though nothing befell that connection."""
    chosen = one_accepted(records)
    return sent_again(records, Harm(link="receivers", port=0, at_ms=chosen.at_ms, how="cut"))


def a_lease_by_who_was_told(records: Records) -> Records:
    """A master was replaced at the time, but this one server took the outcome, and gave the lane out again."""
    return leased_anew(records, apart=0)


def leases_by_two_at_peace(records: Records) -> Records:
    """Two servers for one shard, though nothing replaced any."""
    return replace(leased_anew(records, apart=1), faults=())


def unwritten(records: Records) -> Records:
    """Nobody told the store of any outcome."""
    asked = tuple(replace(call, accepted=()) for call in records.journal.asked)
    return replace(records, journal=replace(records.journal, asked=asked))


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
    a_phone_told_to_sentry: "I8",
    a_phone_shown_by_flower: "I8",
    a_phone_in_full_where_masked: "I8",
    a_completion_unrecorded: "I2",
    a_completion_miscounted: "I3",
    a_push_of_another_status: "I3",
    a_hash_of_nobody: "I3",
    a_process_that_gave_up: "no crash loop",
    a_repetition: "I10",
    an_outcome_never_written: "I10",
    an_answer_taken_for_a_failure: "I10",
    a_time_out_before_its_time: "I10",
    a_repetition_after_anothers_cut: "I10",
    a_lease_by_who_was_told: "I10",
    leases_by_two_at_peace: "I10",
}


@pytest.mark.timeout(300)
def test_what_went_well_is_right_and_comes_once(right: Records) -> None:
    assert check(right) == []
    assert not any(list(repeats(group)) for group in heard_of(right))
    assert all(right.lags_ms), "a well receiver was watched without a neighbour that hangs, and beside one"


@pytest.mark.timeout(300)
def test_every_delivery_is_in_a_journal_and_its_outcome_too(right: Records) -> None:
    """Else a rule that asks the journal would find nothing, and say nothing."""
    assert all(post.attempt in right.journal.attempts for post in right.posts)
    handed_over = {position for call in right.journal.asked for position in call.accepted}
    assert {event.position for event in right.store.events} <= handed_over
    assert all(call.answered_ms for call in right.journal.asked)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("alter", ALTERED, ids=lambda alter: alter.__name__)
def test_what_was_altered_is_named(right: Records, alter: Callable[[Records], Records]) -> None:
    found = {violation.invariant for violation in check(alter(right))}
    assert ALTERED[alter] in found


def first_of(records: Records) -> tuple[Post, Attempt]:
    post = one_accepted(records)
    return post, records.journal.attempts[post.attempt]


def killed_before_its_answer(records: Records) -> Records:
    _, first = first_of(records)
    again = again_of(records, heard_ms=0)
    return replace(again, ended=(Ended(pid=first.pid, kind="worker", at_ms=first.sent_ms + 5, how="killed"),))


def killed_before_it_wrote(records: Records) -> Records:
    _, first = first_of(records)
    ended = (Ended(pid=first.pid, kind="worker", at_ms=first.heard_ms + 5, how="died"),)
    return replace(unwritten(again_of(records)), ended=ended)


def cut_on_its_way(records: Records) -> Records:
    post, first = first_of(records)
    harms = (Harm(link="receivers", port=post.port, at_ms=first.heard_ms, how="cut"),)
    return replace(again_of(records, code=56), harms=harms)


def answered_too_late(records: Records) -> Records:
    post, first = first_of(records)
    again = again_of(records, code=28, heard_ms=first.sent_ms + 1_001)
    return with_posts(again, lambda one: replace(one, decided_ms=first.sent_ms + 1_010) if one is post else one)


def outlived_its_lease(records: Records) -> Records:
    _, first = first_of(records)
    again = again_of(records)
    still = Hindrance(pid=first.pid, what="stood still", since_ms=first.heard_ms, until_ms=first.heard_ms + 3_500)
    # Nor did it renew its hold then.
    asked = tuple(
        late(call, 3_500) if call.accepted and call.pid == first.pid else call
        for call in again.journal.asked
        if call.script != "claim_lanes" or call.asked_ms < first.heard_ms
    )
    return replace(again, journal=replace(again.journal, asked=asked, hindrances=(still,)))


def claimed_again_before_it_was_written(records: Records) -> Records:
    """By a slice that stood still for longer than its lease, and asked for what is due before it told of the answer."""
    _, first = first_of(records)
    again = again_of(records)
    still = Hindrance(pid=first.pid, what="stood still", since_ms=first.sent_ms - 500, until_ms=first.sent_ms + 1_600)
    return replace(again, journal=replace(again.journal, hindrances=(still,)))


def sent_after_its_lease(records: Records) -> Records:
    """It looked at the time, stood still, and sent: the lane was claimed anew meanwhile, and sent again at once."""
    _, first = first_of(records)
    again = again_of(records)
    attempts = dict(again.journal.attempts)
    attempts["1-1"] = replace(attempts["1-1"], sent_ms=first.sent_ms + 400)
    asked = tuple(
        replace(call, answered_ms=call.answered_ms + 1_000) if call.accepted and call.pid == first.pid else call
        for call in again.journal.asked
    )
    still = Hindrance(pid=first.pid, what="stood still", since_ms=first.sent_ms - 3_500, until_ms=first.sent_ms - 5)
    return replace(again, journal=replace(again.journal, attempts=attempts, asked=asked, hindrances=(still,)))


def late(call: Asked, by_ms: int) -> Asked:
    return replace(call, asked_ms=call.asked_ms + by_ms, answered_ms=call.answered_ms + by_ms, reply=-1)


def sent_again_by_libcurl(records: Records) -> Records:
    post, first = first_of(records)
    return sent_again(records, Harm(link="receivers", port=post.port, at_ms=first.sent_ms + 1, how="cut"))


def told_to_another_master(records: Records) -> Records:
    return leased_anew(records, apart=1)


def leased_by_a_new_master(records: Records) -> Records:
    """The lane was given out again before its outcome was written: the new master had not heard of its lease."""
    told, _ = told_of(records)
    anew = leased_anew(records, apart=1)
    late = replace(told, server=told.server + 1, answered_ms=told.answered_ms + 3_000)
    asked = tuple(late if call == told else call for call in anew.journal.asked)
    return replace(anew, journal=replace(anew.journal, asked=asked))


def gone_with_the_store(records: Records) -> Records:
    """The store's note is of the second delivery only."""
    post, first = first_of(records)
    again = again_of(records)
    queues = dict(again.store.queues)
    queues[post.subscription] = replace(queues[post.subscription], told_ms={})
    crash = Fault(name="x", kind=Kind.ROLLS_BACK, at_ms=first.heard_ms + 900, until_ms=first.heard_ms + 1_500)
    return replace(again, store=replace(again.store, queues=queues), faults=(crash,))


EXCUSED: Mapping[Callable[[Records], Records], str] = {
    killed_before_its_answer: "worker killed before it had the answer",
    killed_before_it_wrote: "worker killed before it wrote the outcome",
    cut_on_its_way: "answer cut on its way",
    answered_too_late: "answered after the time-out",
    outlived_its_lease: "lease outlived: stood still",
    claimed_again_before_it_was_written: "lease outlived: stood still, claimed again",
    sent_after_its_lease: "lease outlived: stood still before it was sent",
    sent_again_by_libcurl: "answer cut on its way, sent again by libcurl",
    told_to_another_master: "two masters: store: SENTINEL FAILOVER",
    leased_by_a_new_master: "lease lost: store: SENTINEL FAILOVER",
    gone_with_the_store: "store lost its last second",
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("alter", EXCUSED, ids=lambda alter: alter.__name__)
def test_what_lost_an_outcome_is_named(right: Records, alter: Callable[[Records], Records]) -> None:
    altered = alter(right)
    evidence = Evidence(altered)
    lost = Lost(evidence)
    causes = [lost.cause_of(name, *pair) for name, group in evidence.heard.items() for pair in repeats(group)]
    assert set(causes) == {EXCUSED[alter]}
    assert "I10" not in {violation.invariant for violation in check(altered)}


def test_an_empty_queue_is_no_excuse(right: Records) -> None:
    """Were the store to have forgotten all queues, every change would be absent, but for what receivers accepted."""
    forgotten = replace(right, store=replace(right.store, queues={name: Queue() for name in right.store.queues}))
    assert check(replace(forgotten, posts=())) != []
    assert Evidence(right).changes
