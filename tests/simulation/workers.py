"""The bridge's own loops, a step at a time: what waits in them (for an answer, for more) waits in the simulation."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import msgspec

from bridge.delivery.compose import Flight
from bridge.delivery.loop import Attempted, Slice, Surroundings
from bridge.delivery.ports import Ports
from bridge.delivery.transport import Request
from bridge.delivery.transport import Transport as RealTransport
from bridge.domain.deliveries import Settlement
from bridge.domain.outcome import Answer, Verdict
from bridge.polling.poll import Batch, Step
from tests.simulation.queues import Place
from tests.simulation.store import Line
from tests.simulation.world import MINUTE, SECOND, Heard

if TYPE_CHECKING:
    from tests.simulation.run import Run

_STEP_MS = 10
_LINGER_MS = 260
_LOOK_MS = 1_000
_STOPS = 1 / 400
_STANDS_STILL = 1 / 400
"""In so many turns of a slice its worker is told to end, or stands still for a while."""


class Transport:
    """POSTs under way: each was decided on by its receiver when it was sent."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._landing: list[tuple[int, int, Request, Answer]] = []
        self._started = 0
        self.posts: dict[tuple[str, int, bytes], Heard] = {}

    @property
    def in_flight(self) -> int:
        return len(self._landing)

    @property
    def next_ms(self) -> int | None:
        """When the next answer is there."""
        return self._landing[0][0] if self._landing else None

    def start(self, request: Request) -> None:
        """Send one."""
        run, flight = self._run, cast("Flight", request.key)
        name, now_ms = flight.queue.id, run.server.now_ms
        answer, accepted = run.receivers.answer(name, request.timeout_ms)
        places = [(one.lane.shard, one.lane.position) for one in flight.members]
        carried = carried_by(request, len(places))
        is_heard = answer.failure is None
        heard = Heard(name, now_ms, carried, places, accepted, is_heard)
        run.evidence.posts.append(heard)
        run.note("post", name, *(what for what, _ in carried), answer.status)
        for place in places:
            self.posts[name, *place] = heard
        self._started += 1
        heapq.heappush(self._landing, (now_ms + answer.elapsed_ms, self._started, request, answer))

    def perform(self, _wait_ms: int) -> list[tuple[Request, Answer]]:
        """The answers that are there."""
        finished = []
        while self._landing and self._landing[0][0] <= self._run.server.now_ms:
            *_, request, answer = heapq.heappop(self._landing)
            finished.append((request, answer))
        return finished

    def abort(self) -> list[Request]:
        """Let go of what is under way: whether it arrived nobody hears."""
        requests = [request for _, _, request, _ in sorted(self._landing, key=lambda one: one[1])]
        self._landing.clear()
        for request in requests:
            flight = cast("Flight", request.key)
            for one in flight.members:
                self.posts[flight.queue.id, one.lane.shard, one.lane.position].lost = True
        return requests

    def close(self) -> None:
        """Nothing is open."""


def carried_by(request: Request, count: int) -> list[tuple[str, bytes]]:
    """The events of a POST, each with its id and its bytes."""
    message_id = next(line for line in request.headers if line.startswith(b"webhook-id: ")).decode()[12:]
    if message_id.startswith("evt_"):
        assert count == 1
        return [(message_id, request.body)]
    parts = members_of(request.body)
    assert len(parts) == count
    return parts


class _Envelope(msgspec.Struct):
    data: list[msgspec.Raw]


class _Head(msgspec.Struct):
    id: str


_envelope = msgspec.json.Decoder(_Envelope).decode
_head = msgspec.json.Decoder(_Head).decode


def members_of(body: bytes) -> list[tuple[str, bytes]]:
    """The events of a batch."""
    return [(one.id, bytes(raw)) for raw in _envelope(body).data for one in [_head(bytes(raw))]]


class SliceRun:
    """One slice, from its first look until it has let go of all."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.transport = Transport(run)
        store = run.store
        ports = Ports(
            line=lambda: Line(store, self._settled),
            queues=store.queues,
            attempts=store,
            registries=store.registries,
            secrets=store,
            clock=store,
        )
        self.is_dead = False
        self.is_over = False
        self.is_looking = True
        self._is_stopping = False
        self._deadline_ms: int | None = None
        self._slice = Slice(
            ports, cast("RealTransport", self.transport), run.delivery, self._surroundings(), shards=run.shards
        )
        now_ms = run.server.now_ms
        one = self._slice
        one._began_ms = one._renewed_ms = one._worked_ms = one._refreshed_ms = now_ms

    def _surroundings(self) -> Surroundings:
        run = self._run

        def attempted(one: Attempted) -> None:
            run.note("failed", one.subscription, one.attempt, one.outcome.verdict.value)

        def unserved(name: str, why: str) -> None:
            run.note("complaint", name, why)

        def disabled(name: str, why: str) -> None:
            run.note("disabled", name, why)

        def hand_over() -> None:
            self.is_looking = False

        return Surroundings(
            chance=run.chance.random,
            user_agent="simulation",
            stopping=lambda: self._is_stopping,
            observe=attempted,
            complain=unserved,
            disabled=disabled,
            call_help=run.start_slice,
            keep_awake=lambda: None,
            hand_over=hand_over,
        )

    def die(self) -> None:
        """The process is gone, or the slice ended by an error: what it sent and did not note is lost."""
        self.is_dead, self.is_looking = True, False
        for post in self.transport.posts.values():
            post.lost = True

    def _settled(self, place: Place, group: Sequence[Settlement], count: int) -> None:
        """Outcomes that did not apply were another holder's by then."""
        for one in group:
            post = self.transport.posts.get((*place, one.lane.position))
            if post is not None and count < len(group):
                post.lost = True
            if one.verdict is Verdict.ACCEPTED and count == len(group):
                self.transport.posts.pop((*place, one.lane.position), None)
        self._run.note("settled", *place, count, len(group))

    def turn(self) -> None:
        """Go on, and say when to go on again."""
        now_ms = self._run.server.now_ms
        one = self._slice
        drawn = self._run.chance.random()
        self._is_stopping = self._is_stopping or drawn < _STOPS
        if self._deadline_ms is None:
            if one._is_over(now_ms):
                self._begin_end(now_ms)
            else:
                one._look(now_ms)
                one._start()
        one._turn(0)
        if self._deadline_ms is not None and (not self.transport.in_flight or now_ms >= self._deadline_ms):
            self._end(now_ms)
            return
        # Now and then the machine stands still for longer than a lease: whoever took over meanwhile has it.
        pause_ms = MINUTE if drawn > 1 - _STANDS_STILL else self._pause_ms(now_ms)
        self._run.after(pause_ms, self, self.turn)

    def _pause_ms(self, now_ms: int) -> int:
        queues = self._slice._intake.queues.values()
        if any(queue.settled or queue.ready or queue.health.hastening for queue in queues) or self._slice._unwell:
            return _STEP_MS
        if self.transport.next_ms is None:
            return _STEP_MS if self._deadline_ms is not None else _LINGER_MS
        return max(1, min(_LOOK_MS, self.transport.next_ms - now_ms))

    def _begin_end(self, now_ms: int) -> None:
        """The first half of ``Slice._wind_up``."""
        one = self._slice
        one._intake.finish()
        for queue in one._intake.queues.values():
            queue.hand_all_back(now_ms)
        one._handed_over = True
        self.is_looking = False
        self._deadline_ms = now_ms + self._run.delivery.timeout_ms + SECOND

    def _end(self, now_ms: int) -> None:
        """The other half."""
        one = self._slice
        for request in self.transport.abort():
            flight = cast("Flight", request.key)
            one._landed(request)
            flight.queue.settled += [Settlement(ready.lane, None, due_ms=now_ms) for ready in flight.members]
        one._intake.settle(aside=False)
        one._intake.release(list(one._intake.queues.values()))
        self.is_over = True


class PollRun:
    """One call of the provider: what was claimed, until its answer is recorded."""

    def __init__(self, run: Run, account: str) -> None:
        self._run = run
        self._account = account
        self.is_dead = False
        run.polling.add(self)

    def begin(self) -> None:
        """Claim, and let the call be under way."""
        run = self._run
        prepared = run.poller.prepare(self._account)
        if isinstance(prepared, Step):
            run.polling.discard(self)
            run.poll_not_before[self._account] = run.server.now_ms + max(SECOND, prepared.wait_ms)
            return
        run.note("call", self._account, *(no for call in prepared.calls for no in call))
        # Most answers come soon; some after the lease has ended, when another may have asked.
        drawn = run.chance.random()
        wait_ms = int(50 + 400 * drawn) if drawn < 0.97 else int(drawn * run.chance.random() * 2 * MINUTE)
        if drawn > 0.9:  # amid a call somebody changes who wants to hear of what it brings
            run.after(wait_ms - 1, run.operators, run.operators.edit)
        run.after(wait_ms, self, lambda: self.finish(prepared))

    def finish(self, batch: Batch) -> None:
        """Record what was answered."""
        step = self._run.poller.finish(batch)
        self._run.polling.discard(self)
        self._run.note("polled", step.polled, step.changed, step.routed, len(step.refused))

    def die(self) -> None:
        """What it claimed is due again when the lease ends."""
        self.is_dead = True
        self._run.polling.discard(self)
