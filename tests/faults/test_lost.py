"""What lost an outcome is recognised by what that very attempt, process or connection left behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from tests.faults.altered import again_of, first_of, leased_anew, replace, sent_again, told_of, unwritten, with_posts
from tests.faults.checker import check, repeats
from tests.faults.evidence import Evidence
from tests.faults.lost import Lost
from tests.faults.records import Asked, Ended, Fault, Harm, Hindrance, Kind, Passage, Records


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
    passages = tuple(Passage(port=post.port, at_ms=first.sent_ms + at_ms) for at_ms in (0, 1_010))
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


EXCUSED: Mapping[Callable[[Records], Records], str] = {
    killed_before_its_answer: "worker killed before it had the answer",
    killed_itself_as_another_thread_sent: "worker killed before it had the answer",
    killed_before_it_wrote: "worker killed before it wrote the outcome",
    cut_on_its_way: "answer cut on its way",
    cut_amid_its_headers: "answer cut amid its headers",
    answered_too_late: "answered after the time-out",
    held_up_by_the_proxy: "answer held up on its way",
    outlived_its_lease: "lease outlived: stood still",
    claimed_again_before_it_was_written: "lease outlived: stood still, claimed again",
    sent_after_its_lease: "lease outlived: stood still before it was sent",
    sent_again_by_libcurl: "answer cut on its way, sent again by libcurl",
    told_to_another_master: "two masters: store: SENTINEL FAILOVER",
    leased_by_a_new_master: "lease lost: store: SENTINEL FAILOVER",
    lease_gone_with_the_store: "lease lost with the store, claimed again",
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


@pytest.mark.timeout(300)
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
