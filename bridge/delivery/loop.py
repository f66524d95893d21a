"""The delivery loop: one slice serves many queues at once, and a slow receiver costs it sockets, not threads.

look (what is due) → claim (lanes, under the queue's hold) → read (records) → start (render, sign, POST) → judge →
settle. A crash anywhere leaves lanes to come due again at the end of their lease; a POST whose outcome was not yet
settled then happens twice, under the same id.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

import msgspec

from bridge.delivery.compose import Composer, Flight
from bridge.delivery.intake import Intake
from bridge.delivery.ports import Ports
from bridge.delivery.queue import HeldQueue
from bridge.delivery.transport import Request, Transport
from bridge.domain import events
from bridge.domain.deliveries import KEPT_BODY, FailedAttempt, Ready, Settlement
from bridge.domain.formats import understood
from bridge.domain.outcome import ABORTED, Answer, Outcome, Verdict, is_accepted, judge, of_batch
from bridge.domain.policy import DeliveryPolicy
from bridge.errors import BridgeError

MAX_IN_FLIGHT = 512
_SLICE_MS = 10_000
_LONGEST_MS = 28_000
"""After this a slice starts nothing more, even of queues that never run empty: with the longest time-out of 30 s it
ends within a minute."""
_LINGER_MS = 250
_QUICK_LOOK_MS = 2
_SLOW_LOOK_MS = 10
_FULL_LOOK_MS = 25
_SETTLE_AT = 256
_SETTLE_AFTER_MS = 10
_NOTE_AT = 256
_NOTE_AFTER_MS = 500
"""Failed attempts are noted for people: a later note costs nobody anything, a round trip for each would."""
_STAY_AWAKE_MS = 500
_ABORT_AFTER_MS = 15_000
_REFRESH_MS = 100
"""How soon a slice hears that a subscription was edited, paused or disabled, or that a key leaked."""
_TURN = 8
"""POSTs that one queue may start before the next has its turn."""
_MOST_BYTES = 32_000_000
"""Of bodies under way: batches are large, and a slice's memory is bounded."""
_SHARE = 8
"""A queue may have one part in so many of what is free under way: with little free it is little, for each alike. So
many receivers that hang leave room for those that do not, and one that is alone has all that it may."""
_FOR_NEW = 32
"""Places under way that are never free for a second attempt of any queue: each has one, and so has who comes next."""


class Attempted(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt, as observers hear of it: which subscription, which attempt (from 1), its answer and outcome."""

    subscription: str
    attempt: int
    answer: Answer
    outcome: Outcome


class Report(msgspec.Struct, kw_only=True):
    """What a slice did. ``unsettled`` attempts were made, but another slice had taken over; ``unnoted`` failed
    ones could not be kept for people.
    """

    accepted: int = 0
    retrying: int = 0
    dead: int = 0
    unsettled: int = 0
    unnoted: int = 0


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What a slice is given to act with, beside the store.

    ``chance`` is uniform in [0, 1); ``stopping`` says that the process is to end; ``observe`` hears of every failed
    attempt, ``complain`` of a subscription that cannot be served and why, ``disabled`` of one that this slice
    disabled and why. ``call_help`` asks for another slice beside this one. ``keep_awake`` tells others that somebody
    looks for new queues, ``hand_over`` that nobody does any more.
    """

    chance: Callable[[], float]
    user_agent: str
    stopping: Callable[[], bool]
    observe: Callable[[Attempted], None]
    complain: Callable[[str, str], None]
    disabled: Callable[[str, str], None]
    call_help: Callable[[], None]
    keep_awake: Callable[[], None]
    hand_over: Callable[[], None]


class Slice:
    """One run of the loop. Used once."""

    def __init__(
        self, ports: Ports, transport: Transport, policy: DeliveryPolicy, around: Surroundings, *, shards: int
    ) -> None:
        self._clock = ports.clock
        self._attempts = ports.attempts
        self._failures: list[tuple[str, FailedAttempt]] = []
        self._transport = transport
        self._policy = policy
        self._around = around
        self._intake = Intake(
            ports,
            policy,
            shards=shards,
            complain=around.complain,
            disabled=around.disabled,
            call_help=around.call_help,
        )
        self._unwell: list[HeldQueue] = []
        self._turns: deque[HeldQueue] = deque()
        self._composer = Composer(policy, around.user_agent, self._unreadable)
        self._report = Report()
        self._began_ms = self._looked_ms = self._renewed_ms = self._worked_ms = self._settled_ms = self._woke_ms = 0
        self._noted_ms = 0
        self._bytes = 0  # of the bodies that are under way
        self._refreshed_ms = 0
        self._look_every_ms = _QUICK_LOOK_MS
        self._handed_over = False

    def run(self) -> Report:
        """Serve what is due until nothing is, or the slice's time is over.

        Raises:
            StoreUnreachable: no answer; what was under way comes due again when its lease ends.
        """
        now_ms = self._began_ms = self._renewed_ms = self._worked_ms = self._refreshed_ms = self._clock.now_ms()
        try:
            while not self._is_over(now_ms):
                self._look(now_ms)
                self._start()
                now_ms = self._turn(1 if self._intake.looking else self._look_every_ms)
            self._wind_up(now_ms)
        finally:
            self._transport.abort()
            self._intake.close()
        self._report.unsettled += self._intake.unsettled
        return self._report

    @property
    def _busy(self) -> bool:
        """Whether there is something to go on with while the store is asked.

        Lanes that wait behind receivers that hang are nothing to go on with: beside them the store is waited for, or
        each of its answers would be looked at only when the loop's next wait is over.
        """
        return any(queue.may_start for queue in self._intake.queues.values())

    def _is_over(self, now_ms: int) -> bool:
        if self._around.stopping() or now_ms - self._began_ms >= _LONGEST_MS:
            return True
        if self._intake.waiting or any(not queue.idle for queue in self._intake.queues.values()):
            self._worked_ms = now_ms
            return False
        return now_ms - self._worked_ms >= _LINGER_MS or now_ms - self._began_ms >= _SLICE_MS

    def _look(self, now_ms: int) -> None:
        queues = self._intake.queues.values()
        # Even with no room for more of what is held: a receiver that hangs must not hide queues that came due since.
        every_ms = _FULL_LOOK_MS if queues and not any(queue.room for queue in queues) else self._look_every_ms
        if now_ms - self._looked_ms < every_ms and not self._intake.looking:
            return
        self._looked_ms = now_ms
        # Once handed over it stays so, wherever the clock goes: two slices would both look for new queues.
        accept_new = not self._handed_over and now_ms - self._began_ms < _SLICE_MS
        if accept_new:
            self._stay_awake(now_ms)
        elif not self._handed_over:
            # Only stragglers keep this slice: new queues are another one's from here on.
            self._handed_over = True
            self._around.hand_over()
        found = self._intake.look(now_ms, accept_new=accept_new, aside=self._busy)
        if self._intake.looking:
            return
        self._look_every_ms = _QUICK_LOOK_MS if found else min(_SLOW_LOOK_MS, self._look_every_ms + 1)
        self._unwell += [queue for queue in queues if queue.health.hastening and queue not in self._unwell]
        if len(self._turns) != len(queues):
            self._turns = deque(queues)

    def _stay_awake(self, now_ms: int) -> None:
        if now_ms - self._woke_ms >= _STAY_AWAKE_MS:
            self._woke_ms = now_ms
            self._around.keep_awake()

    def _start(self) -> None:
        """Start what is ready, in turns, so that a long queue does not keep a short one waiting."""
        waiting = len(self._turns)
        kept = max(_FOR_NEW, sum(bool(queue.ready) and not queue.in_flight for queue in self._turns))
        while waiting and self._transport.in_flight < MAX_IN_FLIGHT and self._bytes < _MOST_BYTES:
            queue = self._turns[0]
            self._turns.rotate(-1)
            # By the time of each turn: the store may have been waited for, or this process have stood still, for
            # longer than what is ready is leased.
            waiting = len(self._turns) if self._serve(queue, self._clock.now_ms(), kept) else waiting - 1

    def _serve(self, queue: HeldQueue, now_ms: int, kept: int) -> int:
        share = max(1, (MAX_IN_FLIGHT - kept - self._transport.in_flight) // _SHARE)
        for started in range(_TURN):
            ready = queue.next(now_ms, share)
            if ready is None:
                return started
            self._post(queue, ready, now_ms)
        return _TURN

    def _post(self, queue: HeldQueue, ready: Ready, now_ms: int) -> None:
        request = self._composer.compose(queue, ready, now_ms)
        if request is not None:
            queue.in_flight += 1
            queue.host.in_flight += 1
            self._bytes += len(request.body)
            self._transport.start(request)

    def _unreadable(self, queue: HeldQueue, error: str) -> None:
        self._around.complain(queue.id, error)
        self._report.dead += 1

    def _turn(self, wait_ms: int) -> int:
        """Let transfers go on for at most ``wait_ms``, then settle and renew as it is time to. Returns now."""
        if self._transport.in_flight:
            self._judge(self._transport.perform(wait_ms))
        else:
            time.sleep(wait_ms / 1000)  # the transport waits for nothing where nothing is under way
        now_ms = self._clock.now_ms()
        self._settle(now_ms)
        if self._unwell:
            self._unwell = [queue for queue in self._unwell if not self._intake.tend(queue, now_ms)]
        if now_ms - self._refreshed_ms >= _REFRESH_MS:
            self._refreshed_ms = now_ms
            for queue in self._intake.refresh():
                queue.hand_all_back(now_ms)
            # Whoever resumes them waits for that, and so do the holders of other parts.
            queues = self._intake.queues.values()
            self._let_go([queue for queue in queues if (queue.parked or queue.leaving) and queue.idle])
        if self._handed_over:
            # Beside stragglers: another slice can serve them for longer than this one.
            self._let_go([queue for queue in self._intake.queues.values() if queue.idle])
        if now_ms - self._renewed_ms >= self._policy.renew_ms:
            self._renewed_ms = now_ms
            self._intake.renew()
            # Queues that went idle are free for others, who may have room for more at once.
            self._let_go([queue for queue in self._intake.queues.values() if queue.idle])
        return now_ms

    def _let_go(self, queues: list[HeldQueue]) -> None:
        if queues:
            self._intake.release(queues)
            self._turns = deque(self._intake.queues.values())

    def _judge(self, finished: list[tuple[Request, Answer]]) -> None:
        if not finished:
            return
        now_ms = self._clock.now_ms()
        for request, received in finished:
            flight = cast("Flight", request.key)
            queue = flight.queue
            self._landed(request)
            answer = understood(queue.subscription.format, received)
            if not is_accepted(answer):
                self._failed(queue, flight.members, answer, now_ms)
                continue
            self._report.accepted += len(flight.members)
            for ready in flight.members:
                queue.settled.append(Settlement(ready.lane, Verdict.ACCEPTED, status=answer.status))
            queue.sent(len(flight.members), accepted=True)
            if queue.succeeded(now_ms):
                self._unwell.append(queue)

    def _landed(self, request: Request) -> None:
        queue = cast("Flight", request.key).queue
        queue.in_flight -= 1
        queue.host.in_flight -= 1
        self._bytes -= len(request.body)

    def _failed(self, queue: HeldQueue, members: Sequence[Ready], answer: Answer, now_ms: int) -> None:
        """One attempt that was not accepted: each of its events has its own schedule, the queue has one failure."""
        if len(members) > 1:
            answer = of_batch(answer)
        chance = self._around.chance()  # the same for all: what is to come again together comes due together
        for place, ready in enumerate(members):
            attempt = ready.lane.attempts + 1
            outcome = judge(answer, attempt, queue.retry_ms, now_ms, chance)
            self._failures.append((queue.id, _note_of(queue, ready, outcome, answer, now_ms, whole=not place)))
            if outcome.verdict is Verdict.DISABLE:
                # It stays the first of its lane, and its attempts what they were: it is parked, not failed.
                queue.ending = queue.ending or outcome.error
                queue.settled.append(Settlement(ready.lane, None, due_ms=now_ms))
                continue
            self._report.retrying += outcome.verdict is Verdict.RETRY
            self._report.dead += outcome.verdict is Verdict.DEAD
            queue.settled.append(
                Settlement(ready.lane, outcome.verdict, attempt, outcome.due_ms, ready.record or b"", outcome.error)
            )
        self._around.observe(Attempted(subscription=queue.id, attempt=attempt, answer=answer, outcome=outcome))
        queue.sent(len(members), accepted=False)
        # An abort is the receiver's word on one event, and says that it is well.
        concerns = queue.ending or (outcome.error != ABORTED and queue.failed(outcome, self._policy.breaker, now_ms))
        if concerns and not queue.lost:
            self._unwell.append(queue)
            queue.hand_all_back(now_ms)

    def _note(self) -> None:
        """Keep failed attempts for people. Never in the way of delivery: a server that refuses them loses them."""
        failed, self._failures = self._failures, []
        try:
            self._attempts.add(failed)
        except BridgeError:
            self._report.unnoted += len(failed)

    def _settle(self, now_ms: int) -> None:
        if len(self._failures) >= _NOTE_AT or (self._failures and now_ms - self._noted_ms >= _NOTE_AFTER_MS):
            self._noted_ms = now_ms
            self._note()
        waiting = sum(len(queue.settled) for queue in self._intake.queues.values())
        if not waiting:
            self._settled_ms = now_ms
            if self._intake.settling:
                # Nothing may follow for long: a refused call is to be repeated, and a queue that is idle let go.
                self._intake.settle(aside=True)
        elif waiting >= _SETTLE_AT or now_ms - self._settled_ms >= _SETTLE_AFTER_MS:
            self._intake.settle(aside=self._busy)
            self._settled_ms = now_ms

    def _wind_up(self, now_ms: int) -> None:
        """Start nothing more, wait for what is under way, hand back the rest."""
        self._intake.finish()
        for queue in self._intake.queues.values():
            queue.hand_all_back(now_ms)
        self._handed_over = True
        patience_ms = _ABORT_AFTER_MS if self._around.stopping() else self._policy.timeout_ms + 1000
        deadline_ms = now_ms + patience_ms
        while self._transport.in_flight and now_ms < deadline_ms:
            now_ms = self._turn(100)
        for request in self._transport.abort():
            # Whether it arrived is not known: it is tried again, under the same id.
            flight = cast("Flight", request.key)
            self._landed(request)
            flight.queue.settled += [Settlement(ready.lane, None, due_ms=now_ms) for ready in flight.members]
        self._intake.settle(aside=False)
        if self._failures:
            self._note()
        self._intake.release(list(self._intake.queues.values()))


def _note_of(
    queue: HeldQueue, ready: Ready, outcome: Outcome, answer: Answer, now_ms: int, *, whole: bool
) -> FailedAttempt:
    """What is kept of a failed attempt; the answer's body only where ``whole``: once for all events of a batch."""
    event = events.unpack(ready.record or b"")
    return FailedAttempt(
        now_ms,
        events.event_id(queue.subscription.account, event),
        ready.lane.attempts + 1,
        answer.status,
        answer.elapsed_ms,
        outcome.error,
        answer.body[:KEPT_BODY] if whole else b"",
        events.phone_tag(event.phone),
    )
