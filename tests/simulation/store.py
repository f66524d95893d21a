"""The model as the rules are given it: a server that may fail between any two scripts, and the ports of its parts."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, NoReturn, TypeVar, TypeVarTuple

import msgspec

from bridge.domain.credentials import Credentials, SigningKey
from bridge.domain.deliveries import Claimed, Lane, Part, Ready, Settlement
from bridge.domain.deliveries import Wanted as WantedLanes
from bridge.domain.events import EVENT_TYPES
from bridge.domain.policy import Limits
from bridge.domain.rate import Slowed
from bridge.domain.receipts import Status
from bridge.domain.subscriptions import Subscription, SubscriptionState
from bridge.errors import StoreUnreachable
from bridge.store.index import DueNow, Standing
from bridge.store.subscriptions import Registry
from tests.simulation.queues import Place, QueueModel
from tests.simulation.sessions import SessionModel
from tests.simulation.upkeep import UpkeepModel

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

SHARDS = 2


class Crash(BaseException):
    """The process is gone: nothing that it would have done is done, and nobody catches this but the simulation."""


class Odds(msgspec.Struct, frozen=True):
    """How often, of so many scripts: the process dies, the script is run twice, or is not heard of."""

    crash: float = 1 / 120
    twice: float = 1 / 12
    lost: float = 1 / 300


class Server:
    """Runs scripts, each whole; before and after any of them things may go wrong."""

    def __init__(self, chance: random.Random, odds: Odds) -> None:
        self.now_ms = 0
        self.ran = 0
        self.calm = False
        """Nothing goes wrong: what is to be judged is being looked at, or the run is to come to its end."""
        self._random = chance.random
        self._crash, self._twice = odds.crash, odds.crash + odds.twice
        self._any = self._twice + odds.lost

    def run(self, name: str, script: Callable[[*Ts], T], *args: *Ts) -> T:
        self.ran += 1
        if self.calm:
            return script(*args)
        drawn = self._random()
        if drawn >= self._any:
            return script(*args)
        if drawn >= self._twice:
            if self._random() < 0.5:
                script(*args)
            raise StoreUnreachable(f"no answer to {name}")
        if drawn >= self._crash:
            script(*args)  # the reply was lost, and the client asks again
            return script(*args)
        if self._random() < 0.5:
            script(*args)
        raise Crash(name)


class Queues(QueueModel):
    """The queues, as a slice is given them."""

    registries: Registries

    def park(self, name: str, versions: Mapping[int, bytes]) -> None:
        """Take a queue out of service, where the registry still has the version that says so."""
        for shard, version in versions.items():
            self._scripts.run("park_queue", self._park, name, shard, version)

    def _park(self, name: str, shard: int, version: bytes) -> None:
        if self.registries.versions[shard] == version:
            self.park_shards(name, [shard])

    def remove(self, subscription: str, versions: Mapping[int, bytes] | None = None) -> NoReturn:
        """Nothing here removes subscriptions."""
        raise AssertionError(f"{subscription} is in no registry, by {versions}")


class Registries:
    """The registry. ``sure`` is what was told to every shard: a change that is half told is in neither."""

    def __init__(self, server: Server, sessions: SessionModel) -> None:
        self._server = server
        self._sessions = sessions
        self._bumps = 0
        self._loaded: Registry | None = None
        self.subscriptions: dict[str, Subscription] = {}
        self.sure: dict[str, Subscription] = {}
        self.erased: dict[bytes, int] = {}

    @property
    def versions(self) -> dict[int, bytes]:
        return {shard: here.registry for shard, here in enumerate(self._sessions.shards)}

    def load(self) -> Registry:
        """The registry as it is now."""
        if self._loaded is None or self._loaded.versions != self.versions:
            self._loaded = registry_of(self.subscriptions, self.versions, dict(self.erased))
        return self._loaded

    def put(self, one: Subscription) -> None:
        """Add or replace a subscription, then tell every shard."""
        self._server.run("swap_field", self._put, one)
        self.bump()

    def change(self, name: str, changed: Callable[[Subscription], Subscription | None]) -> bool:
        """Replace a subscription by what ``changed`` makes of it, None for nothing. Returns whether it did."""
        after = changed(self.subscriptions[name])
        if after is None or after == self.subscriptions[name]:
            return False
        self.put(after)
        return True

    def bump(self) -> None:
        """Tell every shard that there is another registry."""
        told = dict(self.subscriptions)
        for shard in range(len(self._sessions.shards)):
            self._server.run("bump_registry", self._bump, shard)
        self.sure = told

    def disable(self, subscription: str, reason: str, now_ms: int) -> bool:
        """Disable a subscription that is active."""
        return self.change(
            subscription,
            lambda one: (
                msgspec.structs.replace(one, state=SubscriptionState.DISABLED, reason=reason, since_ms=now_ms)
                if one.is_active
                else None
            ),
        )

    def _put(self, one: Subscription) -> None:
        self.subscriptions[one.id] = one
        self._loaded = None

    def _bump(self, shard: int) -> None:
        self._bumps += 1
        self._sessions.shards[shard].registry = b"%d" % self._bumps


def registry_of(
    subscriptions: Mapping[str, Subscription], versions: Mapping[int, bytes], erased: Mapping[bytes, int]
) -> Registry:
    """The registry that these make."""
    groups: dict[str, tuple[Subscription, ...]] = {}
    for one in subscriptions.values():
        groups[one.account] = (*groups.get(one.account, ()), one)
    listening = {account: [one for one in group if not one.implicit] for account, group in groups.items()}
    return Registry(
        versions=versions,
        by_account=groups,
        listeners={
            account: tuple(tuple(one.id for one in group if one.wants(status)) for status in Status)
            for account, group in listening.items()
        },
        implied={account: frozenset(one.id for one in group if one.implicit) for account, group in groups.items()},
        hearers={
            account: {kind: tuple(one.id for one in group if one.hears(name)) for kind, name in EVENT_TYPES.items()}
            for account, group in listening.items()
        },
        erased=erased,
    )


class Rates:
    """An account's calls: its bucket, and its pauses."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._tokens: dict[str, tuple[float, int]] = {}
        self._standing: dict[str, Standing] = {}
        self._until: dict[str, int] = {}

    def take(self, account: str, per_second: float) -> int:
        """Take a call: 0, or in how many ms to ask again."""
        now, burst = self._server.now_ms, max(1.0, per_second)
        tokens, at = self._tokens.get(account, (burst, now))
        tokens = min(burst, tokens + (now - at) * per_second / 1000)
        self._tokens[account] = (tokens - 1 if tokens >= 1 else tokens, now)
        return 0 if tokens >= 1 else math.ceil((1 - tokens) * 1000 / per_second)

    def standing(self, account: str) -> Standing:
        """How the account stands now."""
        pause_ms = max(0, self._until.get(account, 0) - self._server.now_ms)
        return msgspec.structs.replace(self._standing.get(account, Standing()), pause_ms=pause_ms)

    def pause(self, account: str, reason: str, pause_ms: int, *, refused: bool = False) -> tuple[int, bool]:
        """Make no call for a while."""
        known = self.standing(account)
        first = refused and not known.refused
        if first or not known.pause_ms:
            self._until[account] = self._server.now_ms + pause_ms
            self._standing[account] = msgspec.structs.replace(
                known, failures=known.failures + 1, reason=reason, refused=known.refused or first
            )
        return self._standing[account].failures, first

    def slow(self, account: str, slowed: Slowed) -> None:
        """Make calls more slowly."""
        self._standing[account] = msgspec.structs.replace(self.standing(account), slowed=slowed)

    def resume(self, account: str) -> None:
        """Forget the failures."""
        self._standing[account] = Standing(slowed=self.standing(account).slowed)
        self._until.pop(account, None)


class Done(Generic[T]):
    """An errand that is done."""

    def __init__(self, result: T) -> None:
        self._result = result

    def done(self) -> bool:
        return True

    def result(self) -> T:
        return self._result


class Line:
    """What a slice asks. ``settled`` hears of every outcome that was written down, or found overtaken."""

    def __init__(self, store: Store, settled: Callable[[Place, Sequence[Settlement], int], None]) -> None:
        self._store = store
        self._settled = settled

    def due(self, now_ms: int, limit: int) -> Done[DueNow]:
        """The queues to look at, by shard and how long they are due."""
        found: list[tuple[int, int, str]] = []
        for (name, shard), queue in self._store.queues.queues.items():
            at = queue.due_at()
            if at is not None and at <= now_ms:
                found.append((shard, at, name))
        names = tuple((name, shard) for shard, _, name in sorted(found)[:limit])
        return Done(DueNow(frozenset(), names, self._store.sessions.shards[SHARDS - 1].registry))

    def claim(self, token: bytes, wanted: Sequence[WantedLanes], hold_ms: int) -> Done[Claimed]:
        """Claim lanes, and read their first events."""
        store, now_ms = self._store, self._store.server.now_ms
        places = [(one.part.subscription, one.shard, one.most) for one in wanted]
        _, replies = store.queues.claim(token, places, hold_ms)
        held: list[tuple[Part, int]] = []
        refused: list[tuple[Part, int]] = []
        lanes: dict[Part, list[Ready]] = {}
        for one, reply in zip(wanted, replies, strict=True):
            (refused if reply is None else held).append((one.part, one.shard))
            if reply:
                found = store.queues.peek(one.part.subscription, one.shard, reply)
                ready = [Ready(lane, store.record(one, lane), now_ms + hold_ms) for lane in found]
                lanes.setdefault(one.part, []).extend(ready)
        for group in lanes.values():
            group.sort(key=lambda ready: ready.lane.position)
        return Done(Claimed(now_ms=now_ms, held=held, refused=refused, ready=lanes))

    def settle(self, token: bytes, settled: Mapping[Place, Sequence[Settlement]]) -> Done[Mapping[Place, int]]:
        """Write outcomes down."""
        counts: dict[Place, int] = {}
        for place, group in settled.items():
            counts |= self._store.queues.settle(token, {place: group})
            self._settled(place, group, counts[place])
        return Done(counts)

    def close(self) -> None:
        """There is no connection to give back."""


class Store:
    """All of it."""

    def __init__(self, server: Server, limits: Limits) -> None:
        self.server = server
        self.queues = Queues(server, SHARDS, limits)
        self.sessions = SessionModel(server, SHARDS, self.queues)
        self.upkeep = UpkeepModel(server, self.queues, self.sessions, limits)
        self.registries = self.queues.registries = Registries(server, self.sessions)
        self.rates = Rates(server)

    def record(self, wanted: WantedLanes, lane: Lane) -> bytes | None:
        """A lane's first event: of the log, or kept beside the queue."""
        logged = self.sessions.shards[lane.shard].log.get(wanted.account, {}).get(lane.position)
        if logged is not None:
            return logged.record
        return self.queues.at(wanted.part.subscription, lane.shard).kept.get(lane.position)

    # the clock, and what else needs no more than a method

    def now_ms(self) -> int:
        return self.server.now_ms

    def note(self, now_ms: int) -> None:
        """It is this clock's time."""

    def add(self, attempts: Sequence[object]) -> None:
        """Failed attempts are for people to read."""

    def of(self, subscription: Subscription) -> Credentials:
        """A subscription's key."""
        return Credentials(keys=(SigningKey(subscription.id.encode().ljust(32)),))
