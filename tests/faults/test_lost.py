"""What lost an outcome is recognised by what that very attempt, process or connection left behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from tests.faults.altered import again_of, first_of, leased_anew, replace, sent_again, told_of, unwritten, with_posts
from tests.faults.checker import check, repeats
from tests.faults.evidence import Evidence
from tests.faults.lost import Lost
from tests.faults.records import Asked, Attempt, Ended, Fault, Harm, Hindrance, Kind, Passage, Records


def killed_before_its_answer(records: Records) -> Records:
    _, first = first_of(records)
    again = again_of(records, heard_ms=0)
    return replace(again, ended=(Ended(pid=first.pid, kind="worker", at_ms=first.sent_ms + 5, how="killed"),))


def killed_itself_as_another_thread_sent(records: Records) -> Records:
    """It notes when it dies at a named point before it does."""
    _, first = first_of(records)
    again = again_of(records, heard_ms=0)
    return replace(again, ended=(Ended(pid=first.pid, kind="worker", at_ms=first.sent_ms - 1, how="died"),))


def killed_before_it_wrote(records: Records) -> Records:
    _, first = first_of(records)
    ended = (Ended(pid=first.pid, kind="worker", at_ms=first.heard_ms + 5, how="died"),)
    return replace(unwritten(again_of(records)), ended=ended)


def killed_at_some_time(records: Records) -> Records:
    """Between the harness's looks at the time before and after its signal it had no turn."""
    _, first = first_of(records)
    ended = Ended(pid=first.pid, kind="worker", since_ms=first.heard_ms + 5, at_ms=first.heard_ms + 900, how="killed")
    return replace(unwritten(again_of(records)), ended=(ended,))


def killed_while_it_stood_still(records: Records) -> Records:
    """It had had no turn for a while, of which it could not tell any more."""
    _, first = first_of(records)
    ended = Ended(pid=first.pid, kind="worker", at_ms=first.heard_ms + 900, how="killed")
    again = unwritten(again_of(records))
    return replace(again, ended=(ended,), journal=replace(again.journal, last_ms={first.pid: first.heard_ms + 20}))


def arrived_after_the_next_one(records: Records) -> Records:
    """It was given up, and sent anew; only then was the first read by its receiver."""
    _, first = first_of(records)
    early = Attempt(name="1-1", pid=1, sent_ms=first.sent_ms - 1_100, heard_ms=first.sent_ms - 90, code=28)
    again = again_of(records)
    return replace(again, journal=replace(again.journal, attempts={**again.journal.attempts, early.name: early}))


def cut_on_its_way(records: Records) -> Records:
    post, first = first_of(records)
    harms = (Harm(link="receivers", port=post.port, at_ms=first.heard_ms, how="cut"),)
    return replace(again_of(records, code=56), harms=harms)


def cut_amid_its_headers(records: Records) -> Records:
    """Which libcurl takes for the end of an answer, and the bridge does not."""
    post, first = first_of(records)
    harms = (Harm(link="receivers", port=post.port, at_ms=first.heard_ms, how="cut"),)
    return replace(unwritten(again_of(records)), harms=harms)


def answered_too_late(records: Records) -> Records:
    post, first = first_of(records)
    again = again_of(records, code=28, heard_ms=first.sent_ms + 1_001)
    return with_posts(again, lambda one: replace(one, decided_ms=first.sent_ms + 1_010) if one is post else one)


def held_up_by_the_proxy(records: Records) -> Records:
    """Which ran out of its turns at the processor."""
    post, first = first_of(records)
    passages = tuple(Passage(port=post.port, at_ms=first.sent_ms + at_ms) for at_ms in (-1, 1_010))
    return replace(again_of(records, code=28, heard_ms=first.sent_ms + 1_001), passages=passages)


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


def stood_still_as_it_sent(records: Records) -> Records:
    """Begun, and sent when it went on: by then another had had the lane, and was done."""
    told, _ = told_of(records)
    _, first = first_of(records)
    again = again_of(records)
    early = replace(again.journal.attempts["1-1"], sent_ms=first.sent_ms - 3_050)
    still = Hindrance(pid=1, what="stood still", since_ms=early.sent_ms - 5, until_ms=first.sent_ms + 1_995)
    refused = replace(told, pid=1, asked_ms=early.heard_ms + 2, answered_ms=early.heard_ms + 4, reply=0)
    journal = replace(
        again.journal,
        attempts={**again.journal.attempts, early.name: early},
        asked=(*again.journal.asked, refused),
        hindrances=(still,),
    )
    return replace(again, journal=journal)


def late(call: Asked, by_ms: int) -> Asked:
    return replace(call, asked_ms=call.asked_ms + by_ms, answered_ms=call.answered_ms + by_ms, reply=-1)


def sent_again_by_libcurl(records: Records) -> Records:
    post, first = first_of(records)
    return sent_again(records, Harm(link="receivers", port=post.port, at_ms=first.sent_ms + 1, how="cut"))


def told_to_another_master(records: Records) -> Records:
    return leased_anew(records, apart=1)


def sent_first_by_another_master(records: Records) -> Records:
    """Each of two masters gave the lane out: what was sent first arrived last, and was not over when the other was."""
    told, lane = told_of(records)
    _, first = first_of(records)
    anew = leased_anew(records, apart=1)
    early = replace(anew.journal.attempts["1-1"], sent_ms=first.sent_ms - 30, code=28)
    lease = next(call for call in anew.journal.asked if call.pid == 1 and lane in call.lanes)
    asked = tuple(
        replace(lease, asked_ms=first.sent_ms - 50, answered_ms=first.sent_ms - 40) if call is lease else call
        for call in anew.journal.asked
    )
    journal = replace(anew.journal, asked=asked, attempts={**anew.journal.attempts, early.name: early})
    assert told.answered_ms < early.heard_ms
    return replace(anew, journal=journal)


def leased_by_a_new_master(records: Records) -> Records:
    """The lane was given out again before its outcome was written: the new master had not heard of its lease."""
    told, _ = told_of(records)
    anew = leased_anew(records, apart=1)
    late = replace(told, server=told.server + 1, answered_ms=told.answered_ms + 3_000)
    asked = tuple(late if call == told else call for call in anew.journal.asked)
    return replace(anew, journal=replace(anew.journal, asked=asked))


def lease_gone_with_the_store(records: Records) -> Records:
    """The lane was given out again before its outcome was written, by a store that had forgotten its lease."""
    _, first = first_of(records)
    anew = told_late(leased_anew(records, apart=0))
    crash = Fault(name="x", kind=Kind.ROLLS_BACK, at_ms=first.heard_ms + 100, until_ms=first.heard_ms + 500)
    return replace(anew, faults=(crash,))


def told_late(records: Records) -> Records:
    told, _ = told_of(records)
    asked = tuple(
        replace(call, answered_ms=call.answered_ms + 3_000) if call == told else call for call in records.journal.asked
    )
    return replace(records, journal=replace(records.journal, asked=asked))


def gone_with_the_store(records: Records) -> Records:
    """The store's note is of the second delivery only."""
    post, first = first_of(records)
    again = again_of(records)
    queues = dict(again.store.queues)
    queues[post.subscription] = replace(queues[post.subscription], told_ms={})
    crash = Fault(name="x", kind=Kind.ROLLS_BACK, at_ms=first.heard_ms + 900, until_ms=first.heard_ms + 1_500)
    return replace(again, store=replace(again.store, queues=queues), faults=(crash,))


def gone_before_its_answer_was_read(records: Records) -> Records:
    """It was given before the store went back in time, and read after."""
    gone = gone_with_the_store(records)
    told, _ = told_of(records)
    _, first = first_of(records)
    late = replace(told, answered_ms=first.sent_ms + 1_990)  # and it was sent again after that
    asked = tuple(late if call == told else call for call in gone.journal.asked)
    span = told.asked_ms - 1_000, told.asked_ms + 2
    return replace(gone, journal=replace(gone.journal, asked=asked), faults=(), rolled_back=(span,))


def written_to_a_store_that_went_back(records: Records) -> Records:
    """It had forgotten that the phone's event before was done with, and took no outcome of this one."""
    gone = gone_with_the_store(records)
    told, lane = told_of(records)
    _, first = first_of(records)
    lease = next(call for call in records.journal.asked if call.script == "claim_lanes" and lane in call.lanes)
    late = replace(told, asked_ms=told.asked_ms + 1_000, answered_ms=told.answered_ms + 1_000)
    asked = tuple(late if call == told else call for call in gone.journal.asked)
    span = lease.asked_ms - 10, first.heard_ms + 500
    return replace(gone, journal=replace(gone.journal, asked=asked), faults=(), rolled_back=(span,))


EXCUSED: Mapping[Callable[[Records], Records], str] = {
    killed_before_its_answer: "worker killed before it had the answer",
    killed_itself_as_another_thread_sent: "worker killed before it had the answer",
    killed_before_it_wrote: "worker killed before it wrote the outcome",
    killed_at_some_time: "worker killed before it wrote the outcome",
    killed_while_it_stood_still: "worker killed before it wrote the outcome: stood still until its end",
    arrived_after_the_next_one: "answered after the time-out",
    cut_on_its_way: "answer cut on its way",
    cut_amid_its_headers: "answer cut amid its headers",
    answered_too_late: "answered after the time-out",
    held_up_by_the_proxy: "answer held up on its way",
    outlived_its_lease: "lease outlived: stood still",
    claimed_again_before_it_was_written: "lease outlived: stood still, claimed again",
    sent_after_its_lease: "lease outlived: stood still before it was sent",
    stood_still_as_it_sent: "lease outlived: stood still",
    sent_again_by_libcurl: "answer cut on its way, sent again by libcurl",
    told_to_another_master: "two masters: store: SENTINEL FAILOVER",
    sent_first_by_another_master: "two masters: store: SENTINEL FAILOVER",
    leased_by_a_new_master: "lease lost: store: SENTINEL FAILOVER",
    lease_gone_with_the_store: "lease lost with the store, claimed again",
    gone_with_the_store: "store lost its last second",
    gone_before_its_answer_was_read: "store lost its last second",
    written_to_a_store_that_went_back: "store lost what came before it",
}


@pytest.mark.parametrize("alter", EXCUSED, ids=lambda alter: alter.__name__)
def test_what_lost_an_outcome_is_named(right: Records, alter: Callable[[Records], Records]) -> None:
    altered = alter(right)
    evidence = Evidence(altered)
    lost = Lost(evidence)
    causes = [lost.cause_of(name, *pair) for name, group in evidence.heard.items() for pair in repeats(group)]
    assert set(causes) == {EXCUSED[alter]}
    assert "I10" not in {violation.invariant for violation in check(altered)}


def test_who_had_time_enough_before_it_was_killed_is_not_excused_by_that(right: Records) -> None:
    """It was awake until then, and had not told the store of its answer."""
    altered = killed_while_it_stood_still(right)
    ((pid, last_ms),) = altered.journal.last_ms.items()
    accused = replace(altered, journal=replace(altered.journal, last_ms={pid: last_ms + 800}))
    assert "I10" in {violation.invariant for violation in check(accused)}


def test_a_lease_that_was_over_is_none_that_went_with_the_store(right: Records) -> None:
    """Whose lane was leased to the other before is told of nothing by a store that went back in time since."""
    altered = lease_gone_with_the_store(right)
    _, first = first_of(right)
    asked = tuple(
        replace(call, asked_ms=first.sent_ms - 10_000, answered_ms=first.sent_ms - 9_990)
        if call.script == "claim_lanes" and call.pid == 1
        else call
        for call in altered.journal.asked
    )
    attempts = dict(altered.journal.attempts)
    attempts["1-1"] = replace(attempts["1-1"], sent_ms=first.sent_ms + 500)
    crash = replace(altered.faults[0], at_ms=first.sent_ms - 12_000)
    journal = replace(altered.journal, attempts=attempts, asked=asked)
    accused = replace(altered, journal=journal, faults=(crash,))
    assert "I10" in {violation.invariant for violation in check(accused)}
