"""Asking the provider about sessions that are due, and recording what changed.

claim → pack → fetch → transition → commit. A crash anywhere leaves the claimed sessions to come due again at the end
of their lease; what was committed is not done twice, because the transition finds nothing new.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from bridge.domain import rate as rates
from bridge.domain.commits import Stored
from bridge.domain.packing import in_turns, pack_calls, wanted
from bridge.domain.policy import PollPolicy
from bridge.domain.schedule import LONGEST_SOON_MS, rides_along
from bridge.errors import (
    AccountError,
    BridgeError,
    NotFound,
    ProviderError,
    RequestError,
    TransientProviderError,
    UsageError,
)
from bridge.polling.answers import Recorder
from bridge.polling.ports import Answered, Clock, Provider, Rate, Sessions

_DAMAGED_PAUSE_MS = 3_600_000
"""A session whose bytes cannot be read is looked at again after an hour: a newer release may have written it."""

_CALL_NEEDS = 3 / 4
"""The part of a lease that must be left when another call of a batch starts: half of it is the call's own bound."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What one step did.

    ``polled`` sessions were answered for, with ``changed`` events recorded, ``routed`` deliveries queued,
    ``regressed`` and ``conflicts`` words of the provider's ignored; ``skipped`` receipts were malformed, ``strangers``
    sessions not asked for, ``unseen_results`` are documented nowhere. ``refused`` sessions are in quarantine now,
    ``damaged`` ones cannot be read. ``left`` sessions are still due. ``wait_ms`` is how long to wait before the next
    step is of use. ``failure`` is why the provider's answer could not be used, ``failures`` how many came in a row,
    ``first`` whether it is the outage's first to say that the account is refused; ``resumed``, that an outage is over.
    """

    polled: int = 0
    changed: int = 0
    routed: int = 0
    regressed: int = 0
    conflicts: int = 0
    skipped: int = 0
    strangers: int = 0
    unseen_results: frozenset[str] = frozenset()
    refused: tuple[str, ...] = ()
    damaged: int = 0
    left: int = 0
    wait_ms: int = 0
    failure: ProviderError | None = None
    failures: int = 0
    first: bool = False
    resumed: bool = False


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Sessions that were claimed until ``lease_end_ms`` (Unix ms), in the calls to make for them.

    ``due_ms`` has the due time of each before; ``failures`` are those of the account at the time.
    """

    account: str
    calls: Sequence[Sequence[str]]
    stored: Mapping[str, Stored]
    due_ms: Mapping[str, int]
    lease_end_ms: int
    left: int
    failures: int
    damaged: int


class Poller:
    """Polls the sessions of accounts, a call at a time. Threads and processes may each have one, or share it.

    ``provider`` gives the client of an account; it may raise ``BridgeError`` where there is none.
    ``calls_per_second`` gives an account's rate.
    """

    def __init__(
        self,
        *,
        sessions: Sessions,
        recorder: Recorder,
        rate: Rate,
        clock: Clock,
        provider: Callable[[str], Provider],
        calls_per_second: Callable[[str], float],
        policy: PollPolicy,
        chance: Callable[[], float],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._sessions = sessions
        self._recorder = recorder
        self._rate = rate
        self._clock = clock
        self._provider = provider
        self._calls_per_second = calls_per_second
        self._policy = policy
        self._chance = chance
        self._sleep = sleep

    def step(self, account: str) -> Step:
        """Make at most one call for sessions that are due (more only to find one that the provider refuses)."""
        prepared = self.prepare(account)
        return prepared if isinstance(prepared, Step) else self.finish(prepared)

    def prepare(self, account: str) -> Batch | Step:
        """Take a token and claim sessions for a call; a ``Step`` where none is to be made."""
        now_ms = self._clock.now_ms()
        counts = self._sessions.due_counts(account, now_ms)
        total = sum(counts)
        if not total:
            return Step()
        standing = self._rate.standing(account)
        if standing.pause_ms:
            return Step(left=total, wait_ms=standing.pause_ms, failures=standing.failures)
        full = self._calls_per_second(account)
        wait_ms = self._rate.take(account, rates.allowed(full, standing.slowed, now_ms))
        if wait_ms:
            return Step(left=total, wait_ms=wait_ms)
        return self._claimed(account, counts, standing.failures)

    def finish(self, batch: Batch) -> Step:
        """Make the calls of a batch, and record what they bring."""
        step, unasked = self._ask(batch)
        handed_back = len(unasked)
        if step.failure is not None:
            step = self._put_off(batch, unasked, step)
        elif unasked:
            self._hand_back(batch, unasked)
        return msgspec.structs.replace(step, left=batch.left + handed_back, damaged=batch.damaged)

    def _claimed(self, account: str, counts: Sequence[int], failures: int) -> Batch | Step:
        lease_end_ms = self._clock.now_ms() + self._policy.lease_ms
        shares = wanted(counts, int(self._chance() * len(counts)))
        now_ms, due_ms = self._sessions.claim(account, shares, lease_end_ms, LONGEST_SOON_MS)
        self._clock.note(now_ms)
        stored = self._sessions.read(account, list(due_ms))
        due = [no for no in sorted(due_ms, key=due_ms.__getitem__) if due_ms[no] <= now_ms]
        total = sum(counts)
        left = max(0, total - len(due))
        damaged = [no for no in due_ms if stored[no].damaged]
        gone = [no for no in due_ms if stored[no].state is None and not stored[no].damaged]
        if gone:
            self._sessions.drop_due(account, gone)
        if left:
            due = in_turns(due[::-1])
        packed = pack_calls([(no, state) for no in due if (state := stored[no].state) is not None])
        calls, back = packed.calls, {no: due_ms[no] for no in packed.rest}
        self._take_along(calls, back, stored, due_ms, now_ms)
        if damaged:
            self._sessions.set_aside(account, damaged)
            back |= dict.fromkeys(damaged, now_ms + _DAMAGED_PAUSE_MS)
        if back:
            self._sessions.reschedule(account, back, lease_end_ms)
        left += len(packed.rest)
        if not calls:
            return Step(left=left, damaged=len(damaged))
        return Batch(
            account=account,
            calls=calls,
            stored=stored,
            due_ms=due_ms,
            lease_end_ms=lease_end_ms,
            left=left,
            failures=failures,
            damaged=len(damaged),
        )

    def _take_along(
        self,
        calls: list[list[str]],
        back: dict[str, int],
        stored: Mapping[str, Stored],
        due_ms: Mapping[str, int],
        now_ms: int,
    ) -> None:
        """Add to the call what comes due soon and fits; the rest goes back as it was."""
        soon = [no for no in sorted(due_ms, key=due_ms.__getitem__) if due_ms[no] > now_ms]
        known = [(no, state) for no in soon if (state := stored[no].state) is not None]
        back.update((no, due_ms[no]) for no, _ in known)
        if not calls or back.keys() - set(soon):
            return  # there is none to ride along with, or it is full
        riding = [(no, one) for no, one in known if rides_along(one, self._policy.ages_ms, due_ms[no], now_ms)]
        first = [(no, state) for no in calls[0] if (state := stored[no].state) is not None]
        if riding and not first[0][1].refused:
            calls[0] = pack_calls(first + riding).calls[0]
            for no in calls[0]:
                back.pop(no, None)

    def _ask(self, batch: Batch) -> tuple[Step, list[str]]:
        """Fetch and record; a request that is refused is halved until the session at fault stands alone.

        Returns what was done and the sessions that were not answered for: after a failure, or because time is up.
        """
        step = Step()
        groups = [list(call) for call in reversed(batch.calls)]
        suspected: RequestError | None = None
        token = True
        while groups and (token or self._may_call(batch)):
            token = False
            group = groups[-1]
            try:
                answered = self._client(batch.account).fetch_receipts(group)
            except RequestError as refusal:
                groups.pop()
                step = self._resumed(batch, step)
                half = len(group) // 2
                if half:
                    suspected = refusal
                    groups += [group[half:], group[:half]]
                else:
                    self._recorder.refuse(batch.account, {group[0]: batch.stored[group[0]]}, str(refusal))
                    step = msgspec.structs.replace(step, refused=(*step.refused, group[0]))
                continue
            except ProviderError as failure:
                step = msgspec.structs.replace(step, failure=failure)
                break
            groups.pop()
            step = self._heard(batch, group, answered, step)
        unasked = [no for group in reversed(groups) for no in group]
        if suspected is not None and unasked and step.failure is None:
            # Time is up amid halving. Asked for together they would be refused together, again and again.
            why = f"asked for alone, because a call with others was refused: {suspected}"
            self._recorder.refuse(batch.account, {no: batch.stored[no] for no in unasked}, why, suspected=True)
        return step, unasked

    def _heard(self, batch: Batch, group: Sequence[str], answered: Answered, step: Step) -> Step:
        """The step with what an answer brought."""
        step = self._resumed(batch, step)
        recorded = self._recorder.record(batch.account, {no: batch.stored[no] for no in group}, answered.by_session)
        return msgspec.structs.replace(
            step,
            polled=step.polled + recorded.polled,
            changed=step.changed + recorded.changed,
            routed=step.routed + recorded.routed,
            regressed=step.regressed + recorded.regressed,
            conflicts=step.conflicts + recorded.conflicts,
            skipped=step.skipped + answered.skipped,
            strangers=step.strangers + answered.strangers,
            unseen_results=step.unseen_results | answered.unseen_results,
        )

    def _resumed(self, batch: Batch, step: Step) -> Step:
        """The step with an outage ended, if there was one: the provider answers, be it by refusing a session."""
        if not batch.failures or step.resumed:
            return step
        self._rate.resume(batch.account)
        return msgspec.structs.replace(step, resumed=True)

    def _client(self, account: str) -> Provider:
        try:
            return self._provider(account)
        except (UsageError, NotFound) as missing:
            # Its keys are wrong or gone: for its sessions the same as keys that the provider refuses.
            raise AccountError(str(missing)) from missing

    def _may_call(self, batch: Batch) -> bool:
        """Wait for a token for one more call; False where the lease would not outlast it."""
        while True:
            now_ms = self._clock.now_ms()
            if now_ms + self._policy.lease_ms * _CALL_NEEDS > batch.lease_end_ms:
                return False
            standing = self._rate.standing(batch.account)
            full = self._calls_per_second(batch.account)
            wait_ms = self._rate.take(batch.account, rates.allowed(full, standing.slowed, now_ms))
            if not wait_ms:
                return True
            self._sleep(min(wait_ms / 1000, 1.0))

    def _put_off(self, batch: Batch, unasked: Sequence[str], step: Step) -> Step:
        """Hand the sessions back as they were, and make no call for a while."""
        failure, account = step.failure, batch.account
        assert failure is not None  # noqa: S101 - the caller's reason to call
        refused = isinstance(failure, AccountError)
        if isinstance(failure, TransientProviderError) and failure.throttled:
            slowed = self._rate.standing(account).slowed
            self._rate.slow(account, rates.slow_down(self._calls_per_second(account), slowed, self._clock.now_ms()))
        # Of an outage that a success ended a moment ago, the failures before it do not count.
        before = 0 if step.resumed else batch.failures
        pause_ms = rates.pause_ms(before, refused=refused, chance=self._chance())
        failures, first = self._rate.pause(account, str(failure), pause_ms, refused=refused)
        self._hand_back(batch, unasked)
        self._note(batch, unasked, failure)
        return msgspec.structs.replace(step, wait_ms=pause_ms, failures=failures, first=first)

    def _note(self, batch: Batch, unasked: Sequence[str], failure: ProviderError) -> None:
        try:
            self._recorder.note_failure(batch.account, {no: batch.stored[no] for no in unasked}, failure)
        except BridgeError:
            # What a person may read of it is not worth failing for: a server that is short of memory refuses this
            # write, and they are due again all the same.
            return

    def _hand_back(self, batch: Batch, unasked: Sequence[str]) -> None:
        self._sessions.reschedule(batch.account, {no: batch.due_ms[no] for no in unasked}, batch.lease_end_ms)
