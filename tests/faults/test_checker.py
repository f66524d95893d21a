"""The checker against records that were altered, one thing at a time: each must be named."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from tests.faults.altered import again_of, leased_anew, one_accepted, replace, sent_again, unwritten, with_posts
from tests.faults.checker import check, repeats
from tests.faults.evidence import Evidence, Heard
from tests.faults.records import Action, Ended, Fault, Harm, Kind, Passage, Post, Queue, Records
from tests.faults.watchers import EVENTS, SENTRY


def heard_of(records: Records) -> list[list[Heard]]:
    evidence = Evidence(records)
    return [*evidence.heard.values(), *evidence.others.values()]


def without_posts(records: Records, keep: Callable[[Post], bool]) -> Records:
    return replace(records, posts=tuple(post for post in records.posts if keep(post)))


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
    return replace(records, actions=(Action(name="erase", subject=phone, asked_ms=2**53, done_ms=1),))


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


def a_repetition(records: Records) -> Records:
    return again_of(records)


def an_outcome_never_written(records: Records) -> Records:
    return unwritten(again_of(records))


def an_answer_taken_for_a_failure(records: Records) -> Records:
    return again_of(records, code=56)


def a_time_out_before_its_time(records: Records) -> Records:
    return again_of(records, code=28)


def an_answer_passed_on_in_time(records: Records) -> Records:
    """And yet the attempt timed out."""
    chosen = one_accepted(records)
    first = records.journal.attempts[chosen.attempt]
    again = again_of(records, code=28, heard_ms=first.sent_ms + 1_001)
    return replace(again, passages=(Passage(port=chosen.port, at_ms=first.sent_ms + 500),))


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
    an_answer_passed_on_in_time: "I10",
    a_repetition_after_anothers_cut: "I10",
    a_lease_by_who_was_told: "I10",
    leases_by_two_at_peace: "I10",
}


def test_what_went_well_is_right_and_comes_once(right: Records) -> None:
    assert check(right) == []
    assert not any(list(repeats(group)) for group in heard_of(right))
    assert all(right.lags_ms), "a well receiver was watched without a neighbour that hangs, and beside one"


def test_every_delivery_is_in_a_journal_and_its_outcome_too(right: Records) -> None:
    """Else a rule that asks the journal would find nothing, and say nothing."""
    assert all(post.attempt in right.journal.attempts for post in right.posts)
    handed_over = {position for call in right.journal.asked for position in call.accepted}
    assert {event.position for event in right.store.events} <= handed_over
    assert all(call.answered_ms for call in right.journal.asked)


@pytest.mark.parametrize("alter", ALTERED, ids=lambda alter: alter.__name__)
def test_what_was_altered_is_named(right: Records, alter: Callable[[Records], Records]) -> None:
    found = {violation.invariant for violation in check(alter(right))}
    assert ALTERED[alter] in found


def test_an_empty_queue_is_no_excuse(right: Records) -> None:
    """Were the store to have forgotten all queues, every change would be absent, but for what receivers accepted."""
    forgotten = replace(right, store=replace(right.store, queues={name: Queue() for name in right.store.queues}))
    assert check(replace(forgotten, posts=())) != []
    assert Evidence(right).changes


def test_what_a_store_lost_was_observed_when_others_say_so(right: Records) -> None:
    """The provider's own push format does not say when: what came of it a moment later was taken for invented."""
    evidence = Evidence(right)
    pushed = next(one.id for one in evidence.subscribers.values() if one.format == "usms")
    observed_ms = {
        one.what: one.observed_ms for name, group in evidence.heard.items() if name != pushed for one in group
    }
    late = next(one for one in evidence.heard[pushed] if observed_ms.get(one.what, one.post.at_ms) < one.post.at_ms - 2)
    left = tuple(event for event in right.store.events if event.what != late.what)
    assert len(left) == len(right.store.events) - 1
    seen_ms = observed_ms[late.what]
    crash = Fault(name="x", kind=Kind.ROLLS_BACK, at_ms=seen_ms + 1, until_ms=seen_ms + 1)
    lost = replace(right, store=replace(right.store, events=left), faults=(crash,))
    assert "I3" not in {violation.invariant for violation in check(lost)}
    assert "I3" in {violation.invariant for violation in check(replace(lost, faults=()))}


def test_what_was_sent_before_a_phone_was_erased_may_be_read_long_after(right: Records) -> None:
    """A receiver that has no turn at the processor reads late what was sent in time."""
    phone = right.tracked[0].phones[0]
    last_ms = max(post.at_ms for post in right.posts)
    erased = replace(right, actions=(Action(name="erase", subject=phone, asked_ms=last_ms, done_ms=last_ms),))
    late = with_posts(
        erased, lambda post: replace(post, at_ms=post.at_ms + 60_000, decided_ms=post.decided_ms + 60_000)
    )
    assert "I3" not in {violation.invariant for violation in check(late)}
    attempts = {name: replace(one, sent_ms=one.sent_ms + 60_000) for name, one in right.journal.attempts.items()}
    sent_late = replace(late, journal=replace(late.journal, attempts=attempts))
    assert "I3" in {violation.invariant for violation in check(sent_late)}


def test_what_was_still_in_the_queue_when_its_phone_was_erased_is_sent_after_that(right: Records) -> None:
    """Nobody said when it was sent, so it counts as sent when its tracking was recorded."""
    first = right.tracked[0]
    key = first.account, first.session_no
    recorded_ms = right.store.sessions[key].sent_ms

    def accused(asked_ms: int) -> bool:
        erase = Action(name="erase", subject=first.phones[0], asked_ms=asked_ms, done_ms=recorded_ms - 60_000)
        return "I3" in {violation.invariant for violation in check(replace(right, actions=(erase,)))}

    assert not accused(recorded_ms - 1)
    assert accused(recorded_ms)


def test_the_order_of_what_a_store_lost_is_excused_by_when_others_heard_of_it(right: Records) -> None:
    evidence = Evidence(right)
    pushed = next(one.id for one in evidence.subscribers.values() if one.format == "usms")
    group = evidence.heard[pushed]
    corrected = {one.phone for one in group if one.sequence > 1}
    # By its own record it was observed when it arrived, and that is later than the store's crash.
    first = next(
        one
        for one in group
        if one.sequence == 1 and one.phone in corrected and evidence.observed_ms[one.what] < one.post.at_ms - 2
    )
    refused = with_posts(right, lambda post: replace(post, accepted=False) if post.message_id == first.id else post)
    events = tuple(event for event in right.store.events if event.what != first.what)
    seen_ms = evidence.observed_ms[first.what]
    crash = Fault(name="x", kind=Kind.ROLLS_BACK, at_ms=seen_ms + 1, until_ms=seen_ms + 1)
    lost = replace(refused, store=replace(right.store, events=events), faults=(crash,))
    assert "I6" not in {violation.invariant for violation in check(lost)}
    assert "I6" in {violation.invariant for violation in check(replace(lost, faults=()))}
