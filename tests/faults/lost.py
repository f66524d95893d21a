"""Why an accepted event came again: where its outcome was lost, by what the process that had it wrote down.

An outcome goes a way: a POST is sent, its answer is heard, the outcome is handed to the store, and the store keeps it.
Each step has a record: the receiver's, the process's journal, and at the end the store's own note of the delivery. The
step that is missing must have a cause of its own, of that very process or connection. That something happened somewhere
at about that time is none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from tests.faults.evidence import Evidence, Heard
from tests.faults.failovers import FAILOVERS
from tests.faults.records import TO_RECEIVERS, Asked, Attempt, Ended, Harm, Hindrance, Place, Post, name_of

_NEVER_MS = 2**63
_TIMED_OUT = 28
_CLOSED_BY_US = 23
"""libcurl's name for a body of which no more is read: the status stands."""
_EARLY_MS = 60
"""How much earlier than it was set to a time-out may come, or a process end than what it did last: the clocks of a run
are read apart."""
_WRITTEN_WITHIN_MS = 300
"""An outcome is written down within 10 ms, and no call of the store takes as long, where nothing hinders."""
_BREAK_OFF = frozenset({"cut", "garbled", "reset"})
_REPEATED_FOR_MS = 6_000
"""What the store does not answer is given up after 5 s, and asked again."""


class Lost:
    """The causes of a run's duplicates."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._records = evidence.records
        self._attempts = self._records.journal.attempts
        self._timeout_ms = self._records.callback_timeout_ms

    def cause_of(self, subscription: str, before: Heard, again: Heard) -> str | None:
        """Why what was accepted as ``before`` came ``again``; None where there is no reason."""
        first, second = self._attempts.get(before.post.attempt), self._attempts.get(again.post.attempt)
        if first is None or second is None:
            return None
        by_arrival = self._cause(subscription, before, first, second)
        if second.sent_ms >= first.sent_ms:
            return by_arrival
        # What was sent earlier arrived later: then it may be its outcome that was lost, or came too late.
        by_sending = self._cause(subscription, again, second, first)
        return by_sending if self._over_ms(second) <= first.sent_ms else by_arrival or by_sending

    def _cause(self, subscription: str, before: Heard, first: Attempt, second: Attempt) -> str | None:
        """Why there was a ``second`` attempt, though the ``first`` had been accepted as ``before``."""
        if first is second or before.post is not self._last_posts[first.name]:
            return self._sent_twice(first, before)
        if not first.heard_ms:
            return self._unheard(first)
        if first.code not in {0, _CLOSED_BY_US}:
            return self._misheard(first, before)
        return self._unwritten(subscription, first, second, before)

    def _over_ms(self, one: Attempt) -> int:
        """When an attempt was over for the process that had sent it."""
        end = self._end_of(one.pid, one.sent_ms)
        return one.heard_ms or one.dropped_ms or (end.at_ms if end else _NEVER_MS)

    # The answer was not heard.

    def _unheard(self, one: Attempt) -> str | None:
        """The process never came to hear of an end of this attempt."""
        if one.dropped_ms:
            broken = self._hindrance(one.pid, "store", one.sent_ms - _REPEATED_FOR_MS, one.dropped_ms)
            return f"let go of: {broken}" if broken else None
        end = self._end_of(one.pid, one.sent_ms)
        if end is None:
            return None
        # By then libcurl would have given it up, had it been asked.
        overdue_ms = one.sent_ms + self._timeout_ms + _WRITTEN_WITHIN_MS
        alive_ms = _alive_ms(end)
        if alive_ms > overdue_ms and not self._hindrance(one.pid, "", overdue_ms - _WRITTEN_WITHIN_MS, alive_ms):
            return None
        return "worker killed before it had the answer"

    def _misheard(self, one: Attempt, before: Heard) -> str | None:
        """libcurl told of a failure, though the receiver had answered."""
        harms = self._harms_of(one, before)
        if one.code != _TIMED_OUT:
            cut = sorted(harms & _BREAK_OFF)
            return f"answer {cut[0]} on its way" if cut else None
        if one.heard_ms - one.sent_ms < self._timeout_ms - _EARLY_MS:
            return None  # it was given up before its time
        if before.post.decided_ms - one.sent_ms >= self._timeout_ms - _EARLY_MS:
            return "answered after the time-out"
        if harms:
            return f"answer {min(harms)} on its way"
        if self._was_held_up(one, before):
            return "answer held up on its way"
        still = self._hindrance(one.pid, "stood", one.sent_ms, one.heard_ms)
        return f"answer in time, heard after the time-out: {still}" if still else None

    def _sent_twice(self, one: Attempt, before: Heard) -> str | None:
        """libcurl itself sends again what had a used connection that was closed without a line of an answer; what it
        tells of is what came of the last time."""
        lost = sorted({"cut", "reset"} & self._harms_of(one, before))
        return f"answer {lost[0]} on its way, sent again by libcurl" if lost else None

    def _harms_of(self, one: Attempt, heard: Heard) -> set[str]:
        """What the proxy did to the connection that a POST came by, while it was under way."""
        until_ms = (one.heard_ms or one.dropped_ms or one.sent_ms + self._timeout_ms) + _EARLY_MS
        harms = self._harms.get(heard.post.port, ())
        return {harm.how for harm in harms if one.sent_ms - _EARLY_MS <= harm.at_ms <= until_ms}

    def _was_held_up(self, one: Attempt, heard: Heard) -> bool:
        """Whether the proxy, which shares its process with the receivers, came to pass on an answer too late."""
        passages = self._passages.get(heard.post.port)
        if passages is None:
            return False  # it came by no proxy
        passed_ms = min((at_ms for at_ms in passages if at_ms >= heard.post.decided_ms), default=None)
        return passed_ms is None or passed_ms >= one.sent_ms + self._timeout_ms - _EARLY_MS

    # The answer was heard.

    def _unwritten(self, subscription: str, one: Attempt, second: Attempt, before: Heard) -> str | None:
        places = self._evidence.places_of(before)
        settled = [
            call
            for place in places
            for call in self._settled.get((subscription, name_of(place)), ())
            # What the same process says of the second delivery says nothing of the first.
            if call.pid == one.pid
            and one.heard_ms - _EARLY_MS <= call.asked_ms
            and (second.pid != one.pid or not second.heard_ms or call.asked_ms < second.heard_ms)
        ]
        if not settled:
            return self._cut_amid_headers(one, before) or self._never_handed_over(subscription, one, second, before)
        answered = [call for call in settled if call.reply is not None]
        if not answered:
            return self._not_answered(settled[-1])
        if all(call.reply == -1 for call in answered):
            return self._held_no_more(answered[-1], one, second)
        if elsewhere := self._leased_elsewhere(answered[-1], places, one, second):
            return elsewhere
        if self._lease_rolled_back(answered[-1], places, one, second):
            return "lease lost with the store, claimed again"
        return self._written(subscription, one, second, places, settled)

    def _written(
        self, subscription: str, one: Attempt, second: Attempt, places: Sequence[Place], settled: Sequence[Asked]
    ) -> str | None:
        """The store said that it has the outcome."""
        last = [call for call in settled if call.reply is not None][-1]
        if second.sent_ms < last.answered_ms:
            return self._too_late(one, second, last.asked_ms)
        if self._is_kept(subscription, places, settled):
            return self._claimed_before(last, one, second)
        # It was written at some time in between: an answer may be read long after it was given.
        return self._gone_with_the_store(last.asked_ms, last.answered_ms) or self._forgotten_beneath(last, places, one)

    def _forgotten_beneath(self, told: Asked, places: Sequence[Place], one: Attempt) -> str | None:
        """Between the lease and the outcome the store went back in time: then the lane may begin with an earlier event
        again, that was done with, and of another one no outcome is taken."""
        lease = self._lease_of(one, told, self._lane_of(told, places))
        if lease is None:
            return None
        is_back = self._evidence.went_back(lease.asked_ms, told.answered_ms)
        return "store lost what came before it" if is_back else None

    def _leased_elsewhere(self, told: Asked, places: Sequence[Place], one: Attempt, second: Attempt) -> str | None:
        """While a master is replaced two servers may take themselves for it, or the new one lack what was written last:
        its lane was leased anew by another than was told of the outcome, or than had leased it until then."""
        lane = self._lane_of(told, places)
        before, anew = (self._lease_of(attempt, told, lane) for attempt in (one, second))
        if before is None or anew is None:
            return None
        over = self._failed_over(before.asked_ms, second.sent_ms)
        if over is None:
            return None
        if anew.server != told.server:
            return f"two masters: {over}"
        is_lost = before.server != anew.server and second.sent_ms < told.answered_ms
        return f"lease lost: {over}" if is_lost else None

    def _lease_rolled_back(self, told: Asked, places: Sequence[Place], one: Attempt, second: Attempt) -> bool:
        """Whether a store that went back in time had forgotten the lease, and gave the lane out anew before it was told
        of the outcome."""
        lane = self._lane_of(told, places)
        before, anew = (self._lease_of(attempt, told, lane) for attempt in (one, second))
        if before is None or anew is None or not before.asked_ms < anew.asked_ms <= (told.answered_ms or 0):
            return False
        return self._evidence.went_back(before.asked_ms, anew.answered_ms)

    @staticmethod
    def _lane_of(told: Asked, places: Sequence[Place]) -> str:
        names = {name_of(place) for place in places}
        firsts = zip(told.accepted, told.lanes, strict=True)
        return next(lane for position, lane in firsts if name_of((told.shard, position)) in names)

    def _lease_of(self, one: Attempt, told: Asked, lane: str) -> Asked | None:
        """The claim that gave the process of an attempt its lane."""
        claims = self._leases.get((one.pid, told.subscription, told.shard, lane), ())
        return max(
            (call for call in claims if call.asked_ms <= one.sent_ms), key=lambda call: call.asked_ms, default=None
        )

    def _cut_amid_headers(self, one: Attempt, before: Heard) -> str | None:
        """libcurl takes what breaks off there for whole; the bridge does not."""
        cut = sorted(self._harms_of(one, before) & _BREAK_OFF) if one.code == 0 else []
        return f"answer {cut[0]} amid its headers" if cut else None

    def _never_handed_over(self, subscription: str, one: Attempt, second: Attempt, before: Heard) -> str | None:
        """The answer was heard, and the store was never told of it."""
        end = self._end_of(one.pid, one.heard_ms)
        if end is not None and _alive_ms(end) - one.heard_ms <= _WRITTEN_WITHIN_MS:
            return "worker killed before it wrote the outcome"
        hindrance = self._hindrance(one.pid, "", one.heard_ms - _EARLY_MS, one.heard_ms + _WRITTEN_WITHIN_MS)
        if hindrance and end is not None:
            return f"worker killed before it wrote the outcome: {hindrance}"
        lost = [
            call
            for call in self._refused
            if call.pid == one.pid
            and call.subscription == subscription
            and one.sent_ms - self._timeout_ms <= call.answered_ms <= one.heard_ms + _REPEATED_FOR_MS
        ]
        for call in lost:
            if cause := self._held_no_more(call, one, second):
                return cause
        broken = self._hindrance(one.pid, "store", one.heard_ms - _EARLY_MS, one.heard_ms + _REPEATED_FOR_MS)
        if broken:
            return f"outcome not written: {broken}"
        committed_ms = [place[1][0] for place in self._evidence.places_of(before)]
        if committed_ms and min(committed_ms) > one.sent_ms and self._evidence.may_be_rolled_back(one.sent_ms):
            return "store rolled back, and saw the change anew"
        return None

    def _not_answered(self, call: Asked) -> str | None:
        if self._end_of(call.pid, call.asked_ms):
            return "worker killed as it wrote the outcome"
        broken = self._hindrance(call.pid, "store", call.asked_ms - _EARLY_MS, call.asked_ms + 3 * _REPEATED_FOR_MS)
        return f"outcome not written: {broken}" if broken else None

    def _held_no_more(self, refused: Asked, one: Attempt, second: Attempt) -> str | None:
        """Another slice had taken over: only where this one's hold had run out, or went with the store."""
        holds = self._holds.get((refused.token, refused.subscription, refused.shard), ())
        held = [call for call in holds if call.asked_ms < refused.asked_ms]
        until_ms = max((call.asked_ms + call.hold_ms for call in held), default=0)
        if until_ms and until_ms <= refused.answered_ms:
            return self._too_late(one, second, refused.answered_ms)
        over = self._failed_over(held[-1].asked_ms, refused.answered_ms) if held else None
        if over and held[-1].server != refused.server:
            return f"two masters: {over}"
        if self._evidence.may_be_rolled_back(until_ms) or self._gone_with_the_store(
            until_ms - self._hold_ms, until_ms - self._hold_ms
        ):
            return "hold lost with the store"
        return None

    def _too_late(self, one: Attempt, second: Attempt, written_ms: int) -> str | None:
        """It was sent again before its outcome was written: whose lease ran out, was hindered for all of it."""
        if second.sent_ms - one.sent_ms < self._timeout_ms - _EARLY_MS:
            # Nothing is sent that late in its lease, but by a process that stood still between its look at the time and
            # the sending: for as long as the lease went on after the one, and up to the other.
            stood = self._hindrance(one.pid, "stood", one.sent_ms - _WRITTEN_WITHIN_MS, one.sent_ms, self._timeout_ms)
            return f"lease outlived: {stood} before it was sent" if stood else None
        hindrance = self._hindrance(one.pid, "", one.sent_ms - self._hold_ms, written_ms)
        return f"lease outlived: {hindrance}" if hindrance else None

    def _claimed_before(self, written: Asked, one: Attempt, second: Attempt) -> str | None:
        """It was claimed again before its outcome was written, and then sent: its lease was over by then."""
        least_ms = self._hold_ms - self._timeout_ms
        stood = self._hindrance(one.pid, "stood", one.sent_ms, written.asked_ms, least_ms)
        is_soon = second.sent_ms <= (written.answered_ms or 0) + self._hold_ms
        return f"lease outlived: {stood}, claimed again" if stood and is_soon else None

    # What is known.

    def _is_kept(self, subscription: str, places: Iterable[Place], settled: Sequence[Asked]) -> bool:
        """Whether the store has the note of it at the end that one of these calls made."""
        queue = self._evidence.queue(subscription)
        noted = [at for place in places for at in queue.told_ms.get(name_of(place), ())]
        spans = [(call.asked_ms % 2**32, (call.answered_ms or call.asked_ms + 5_000) % 2**32) for call in settled]
        return any(since - 5 <= at <= until + 5 for at in noted for since, until in spans)

    def _gone_with_the_store(self, since_ms: int, until_ms: int) -> str | None:
        """Whether what was done at some time in between may have gone with the store's last second."""
        return "store lost its last second" if self._evidence.may_be_rolled_back(since_ms, until_ms) else None

    def _end_of(self, pid: int, since_ms: int) -> Ended | None:
        """The end of a process, where it came suddenly and after this.

        One that kills itself at a named point notes the time before that, and its other threads go on for a moment.
        """
        return next(
            (
                one
                for one in self._records.ended
                if one.pid == pid and one.how != "stopped" and one.at_ms >= since_ms - _EARLY_MS
            ),
            None,
        )

    def _hindrance(self, pid: int, start: str, since_ms: int, until_ms: int, least_ms: int = 0) -> str | None:
        """What hindered a process in that time, by how it begins: of several the one that took longest."""
        found = [
            one
            for one in (*self._hindrances.get(pid, ()), *self._failovers)
            if one.what.startswith(start)
            and one.since_ms <= until_ms
            and one.until_ms >= since_ms
            and one.until_ms - one.since_ms >= least_ms
        ]
        return max(found, key=lambda one: one.until_ms - one.since_ms).what if found else None

    def _failed_over(self, since_ms: int, until_ms: int) -> str | None:
        """What last replaced a master in that time. (A moved slot takes along all that it had.)"""
        found = [
            one
            for one in self._failovers
            if one.since_ms <= until_ms and one.until_ms >= since_ms and "slot" not in one.what
        ]
        return found[-1].what if found else None

    @cached_property
    def _failovers(self) -> list[Hindrance]:
        """While a master is replaced its shards answer nobody, and whoever waits for one lets all others wait."""
        return [
            Hindrance(pid=0, what=f"store: {fault.name}", since_ms=fault.at_ms, until_ms=fault.until_ms)
            for fault in self._records.faults
            if fault.name in FAILOVERS
        ]

    @cached_property
    def _hindrances(self) -> Mapping[int, list[Hindrance]]:
        found: dict[int, list[Hindrance]] = defaultdict(list)
        for one in self._records.journal.hindrances:
            found[one.pid].append(one)
        for end in self._records.ended:
            last_ms = self._records.journal.last_ms.get(end.pid, end.at_ms)
            if end.at_ms - last_ms > _WRITTEN_WITHIN_MS:
                still = Hindrance(pid=end.pid, what="stood still until its end", since_ms=last_ms, until_ms=end.at_ms)
                found[end.pid].append(still)
        for call in self._records.journal.asked:
            until_ms = call.answered_ms or call.asked_ms + _REPEATED_FOR_MS
            if until_ms - call.asked_ms > _WRITTEN_WITHIN_MS:
                found[call.pid].append(
                    Hindrance(pid=call.pid, what="store slow", since_ms=call.asked_ms, until_ms=until_ms)
                )
        return found

    @cached_property
    def _settled(self) -> Mapping[tuple[str, str], list[Asked]]:
        """Calls that wrote an acceptance down, by subscription and place."""
        found: dict[tuple[str, str], list[Asked]] = defaultdict(list)
        for call in self._records.journal.asked:
            for position in call.accepted:
                found[call.subscription, name_of((call.shard, position))].append(call)
        return found

    @cached_property
    def _holds(self) -> Mapping[tuple[str, str, int], list[Asked]]:
        """Claims that were granted, by who held what."""
        found: dict[tuple[str, str, int], list[Asked]] = defaultdict(list)
        for call in self._records.journal.asked:
            if call.script == "claim_lanes" and call.reply == 1:
                found[call.token, call.subscription, call.shard].append(call)
        return found

    @cached_property
    def _leases(self) -> Mapping[tuple[int, str, int, str], list[Asked]]:
        """Claims of lanes, by who was given which."""
        found: dict[tuple[int, str, int, str], list[Asked]] = defaultdict(list)
        for call in self._records.journal.asked:
            if call.script == "claim_lanes":
                for lane in call.lanes:
                    found[call.pid, call.subscription, call.shard, lane].append(call)
        return found

    @cached_property
    def _last_posts(self) -> Mapping[str, Post]:
        """Of each attempt the POST that came last: libcurl may send one twice."""
        return {post.attempt: post for post in sorted(self._records.posts, key=lambda post: post.at_ms)}

    @cached_property
    def _refused(self) -> list[Asked]:
        """Calls by slices that had held a queue, and held it no more."""
        return [
            call
            for call in self._records.journal.asked
            if call.reply == (-1 if call.script == "settle_lanes" else 0)
            and (call.token, call.subscription, call.shard) in self._holds
        ]

    @cached_property
    def _hold_ms(self) -> int:
        return max((call.hold_ms for call in self._records.journal.asked), default=0)

    @cached_property
    def _harms(self) -> Mapping[int, list[Harm]]:
        found: dict[int, list[Harm]] = defaultdict(list)
        for harm in self._records.harms:
            if harm.link in TO_RECEIVERS:
                found[harm.port].append(harm)
        return found

    @cached_property
    def _passages(self) -> Mapping[int, list[int]]:
        found: dict[int, list[int]] = defaultdict(list)
        for one in self._records.passages:
            found[one.port].append(one.at_ms)
        return found


def _alive_ms(end: Ended) -> int:
    """Until when a process was certainly alive."""
    return end.since_ms or end.at_ms
