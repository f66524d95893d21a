"""A slice whose receiver follows a script, and that can be abandoned at any point, as by ``kill -9``."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

import msgspec

from bridge.delivery.loop import Report, Slice
from bridge.delivery.ports import Clock, Errand, Line
from bridge.delivery.transport import Request, Transport
from bridge.domain.deliveries import Claimed, Settlement, Wanted
from bridge.domain.outcome import Answer
from bridge.domain.policy import DeliveryPolicy
from bridge.store.index import DueNow
from bridge.wiring import Bridge
from tests.delivery.slices import Around

T = TypeVar("T")


class Abandoned(BaseException):
    """The process is gone. No ``except Exception`` of the slice may see it."""


class Fuse:
    """Ends a slice at the n-th thing that it does outside of itself; never, where that is None."""

    def __init__(self, after: int | None) -> None:
        self._left = after

    def burn(self) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise Abandoned


class Heard(msgspec.Struct, frozen=True):
    """One event of one POST: of which phone, which one, and whether its receiver accepted it."""

    phone: tuple[str, str]
    sequence: int
    accepted: bool


class ScriptedReceivers:
    """Answers of all receivers, by chance: ``refuses`` of them are failures, ``gone`` 410. Remembers what it heard."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.refuses = self.gone = 0.0
        self.heard: dict[str, list[Heard]] = {}

    def answer(self, request: Request) -> Answer:
        """Take a request in, and decide what comes of it."""
        body = msgspec.json.decode(request.body)
        events = body["data"] if body["type"] == "bridge.batch" else [body]
        luck = self.chance.random()
        status = 500 if luck < self.refuses else 410 if luck < self.refuses + self.gone else 204
        name = request.url.rpartition("/")[2]
        self.heard.setdefault(name, []).extend(
            Heard((one["data"]["session_no"], one["data"]["phone"]), one["data"]["sequence"], status == 204)
            for one in events
        )
        return Answer(status, None, "", b"", 1)


class ScriptedTransport(Transport):
    """No sockets: what is under way is answered in any order, some of it at each turn."""

    def __init__(self, receivers: ScriptedReceivers, fuse: Fuse) -> None:  # nothing of the real one is wanted
        self._receivers = receivers
        self._fuse = fuse
        self._flying: list[Request] = []

    @property
    def in_flight(self) -> int:
        return len(self._flying)

    def start(self, request: Request) -> None:
        self._fuse.burn()
        self._flying.append(request)

    def perform(self, wait_ms: int) -> list[tuple[Request, Answer]]:
        del wait_ms
        self._fuse.burn()
        chance = self._receivers.chance
        chance.shuffle(self._flying)
        count = chance.randint(0, len(self._flying))
        landed, self._flying = self._flying[:count], self._flying[count:]
        answers = [(request, self._receivers.answer(request)) for request in landed]
        self._fuse.burn()  # the receiver knows, and nobody else ever will
        return answers

    def abort(self) -> list[Request]:
        aborted, self._flying = self._flying, []
        return aborted


class _FusedClock:
    def __init__(self, clock: Clock, fuse: Fuse) -> None:
        self._clock = clock
        self._fuse = fuse

    def now_ms(self) -> int:
        self._fuse.burn()
        return self._clock.now_ms()

    def note(self, now_ms: int) -> None:
        self._clock.note(now_ms)


class _FusedLine:
    """Ends before the store was asked, or after: then it may do it, and nobody hears."""

    def __init__(self, line: Line, fuse: Fuse) -> None:
        self._line = line
        self._fuse = fuse

    def due(self, now_ms: int, limit: int) -> Errand[DueNow]:
        self._fuse.burn()
        return cast("Errand[DueNow]", self._line.due(now_ms, limit))

    def claim(self, token: bytes, wanted: Sequence[Wanted], hold_ms: int) -> Errand[Claimed]:
        return self._asked(self._line.claim(token, wanted, hold_ms))

    def settle(
        self, token: bytes, settled: Mapping[tuple[str, int], Sequence[Settlement]]
    ) -> Errand[Mapping[tuple[str, int], int]]:
        return self._asked(self._line.settle(token, settled))

    def close(self) -> None:
        self._line.close()

    def _asked(self, errand: Errand[T]) -> Errand[T]:
        self._fuse.burn()
        return errand


class _FusedStore:
    """Any of the store's parts: each call may be the last thing that happens."""

    def __init__(self, part: object, fuse: Fuse) -> None:
        self._part = part
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:  # whatever the part has
        found = getattr(self._part, name)

        def call(*args: object) -> object:
            self._fuse.burn()
            result = found(*args)
            self._fuse.burn()
            return result

        return call


def run_scripted(
    bridge: Bridge, receivers: ScriptedReceivers, policy: DeliveryPolicy, *, abandoned_after: int | None = None
) -> Report | None:
    """One slice, from start to end; None if it was abandoned."""
    fuse, ports = Fuse(abandoned_after), bridge.delivery_ports
    fused = msgspec.structs.replace(
        ports,
        line=lambda: _FusedLine(ports.line(), fuse),
        queues=_FusedStore(ports.queues, fuse),
        registries=_FusedStore(ports.registries, fuse),
        clock=_FusedClock(ports.clock, fuse),
    )
    transport = ScriptedTransport(receivers, fuse)
    try:
        return Slice(fused, transport, policy, Around().surroundings(), shards=bridge.settings.shards).run()
    except Abandoned:
        return None
