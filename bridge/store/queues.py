"""Subscriptions' queues: lanes that are due, the hold on a queue, and what becomes of a delivery.

::

    waiting → claimed → accepted
                      → retrying → claimed …
                      → dead
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

import msgspec

from bridge.domain import events
from bridge.domain.breaker import WELL, Health
from bridge.domain.deliveries import DeadLetter, Lane, Part, Settlement, Tally, Waiting
from bridge.domain.policy import DEFAULT_LIMITS, Limits
from bridge.domain.subscriptions import Deliver
from bridge.store import keys, positions
from bridge.store.client import Argument, Call, Client, Steps
from bridge.store.reading import health_of, is_ours, letter, whole
from bridge.store.settling import settle_call

_packer = msgspec.msgpack.Encoder()
_Page = list[tuple[bytes, list[bytes]]]
_HOUR_MS = 3_600_000
_COUNTS = ("w", "x", "o", "k", "d", "qo", "qk", "qd")


class QueueStore:
    """The queues of all subscriptions, by shard."""

    def __init__(self, client: Client, shards: int, limits: Limits = DEFAULT_LIMITS) -> None:
        self._client = client
        self._shards = shards
        self._limits = limits.share(shards)
        self._hour = 0

    def claim(
        self, token: bytes, wanted: Sequence[tuple[str, int, int]], hold_ms: int
    ) -> tuple[int, list[list[bytes] | None]]:
        """Hold queues and lease their due lanes for as long: ``wanted`` is (subscription, shard, most lanes).

        Returns (now in Unix ms, a list of lanes for each wanted), None where another slice holds that queue. 0 lanes
        only takes or renews the hold.
        """
        times_ms, claimed = self._client.drive(self.claiming(token, wanted, hold_ms))
        return max(times_ms, default=0), claimed

    def claiming(
        self, token: bytes, wanted: Sequence[tuple[str, int, int]], hold_ms: int
    ) -> Steps[tuple[list[int], list[list[bytes] | None]]]:
        """The steps of ``claim``, which return when each was claimed by its own server.

        While one of several is replaced, what the others gave out waits for its answer: those leases end all the same.
        """
        calls = [
            Call(
                "claim_lanes",
                _places(shard, name),
                [keys.queue_member(name), token, hold_ms, hold_ms, most],
            )
            for name, shard, most in wanted
        ]
        times_ms: list[int] = []
        claimed: list[list[bytes] | None] = []
        for reply in (yield calls):
            at_ms, held, *lanes = cast("tuple[int, int, *tuple[bytes, ...]]", tuple(cast("list[object]", reply)))
            times_ms.append(at_ms)
            claimed.append(lanes if held else None)
        # Which outcomes are put together: no promise hangs on a few seconds more or less.
        self._hour = max(times_ms, default=0) // _HOUR_MS
        return times_ms, claimed

    def peek(self, wanted: Sequence[tuple[str, int, Sequence[bytes]]]) -> list[list[Lane]]:
        """Read claimed lanes: ``wanted`` is (subscription, shard, lanes). Lanes that are gone are left out.

        So is one that is too short to name an event: its lease ends, and whoever claims it next leaves it out, too.
        """
        return self._client.drive(self.peeking(wanted))

    def peeking(self, wanted: Sequence[tuple[str, int, Sequence[bytes]]]) -> Steps[list[list[Lane]]]:
        """The steps of ``peek``."""
        calls = [
            Call("peek_lanes", [keys.lanes(shard, name, lane) for lane in lanes], lanes)
            for name, shard, lanes in wanted
        ]
        read: list[list[Lane]] = []
        for (_, shard, lanes), call, reply in zip(wanted, calls, (yield calls), strict=True):
            values = cast("list[bytes]", reply)
            read.append(
                [
                    Lane(shard, lane, bucket, value[1 : 1 + positions.SIZE], value[0])
                    for lane, bucket, value in zip(lanes, call.keys, values, strict=True)
                    if len(value) > positions.SIZE
                ]
            )
        return read

    def settle(
        self, token: bytes, settled: Mapping[tuple[str, int], Sequence[Settlement]]
    ) -> dict[tuple[str, int], int]:
        """Write outcomes down, by (subscription, shard). Returns how many applied, -1 where the hold was lost."""
        return self._client.drive(self.settling(token, settled))

    def settling(
        self, token: bytes, settled: Mapping[tuple[str, int], Sequence[Settlement]]
    ) -> Steps[dict[tuple[str, int], int]]:
        """The steps of ``settle``."""
        calls = [settle_call(part, token, group, self._limits, self._hour) for part, group in settled.items()]
        return dict(zip(settled, cast("list[int]", (yield calls)), strict=True))

    def release(self, token: bytes, held: Iterable[tuple[str, int]]) -> None:
        """Let go of queues: (subscription, shard)."""
        self._client.run([Call("release_hold", [keys.hold(shard, name)], [token]) for name, shard in held])

    def held(self, wanted: Sequence[tuple[str, int]]) -> list[bool]:
        """Whether some slice holds each queue: (subscription, shard)."""
        replies = self._client.commands([["EXISTS", keys.hold(shard, name)] for name, shard in wanted])
        return [bool(reply) for reply in replies]

    def health(self, parts: Sequence[Part]) -> list[Health]:
        """How each receiver has been, as the last holder of that part noted."""
        replies = self._client.commands(
            [["HGET", keys.state(part.home(self._shards), part.subscription), "health"] for part in parts]
        )
        return [health_of(cast("bytes | None", reply)) for reply in replies]

    def note_health(self, token: bytes, part: Part, health: Health, *, held: bool = True) -> bool:
        """Note how a receiver is, and gate its queue in the part's shards. Returns whether the caller was the one to.

        ``held``: only if the caller holds the part's home shard; else also if nobody does.
        """
        home = part.home(self._shards)
        packed = b"" if health == WELL else _packer.encode(health)
        args: list[Argument] = [keys.queue_member(part.subscription), token, health.gate_ms]
        due = "due" if health.hastening else ""  # though every lane's retry lies ahead
        first = Call("gate_queue", _places(home, part.subscription), [*args, packed, "held" if held else "", due])
        # First, and alone: of a subscription that was removed nothing may be left behind in the others.
        if self._client.run([first]) != [1]:
            return False
        others = [shard for shard in part.shards(self._shards) if shard != home]
        self._client.run(
            [Call("gate_queue", _places(shard, part.subscription), [*args, "keep", "", due]) for shard in others]
        )
        return True

    def forget_health(self, subscription: str, token: bytes) -> None:
        """Forget how a receiver was, in every shard that nobody holds: its parts are cut anew."""
        args: list[Argument] = [keys.queue_member(subscription), token, 0, "", "", ""]
        self._client.run([Call("gate_queue", _places(shard, subscription), args) for shard in range(self._shards)])

    def hasten(self, token: bytes, part: Part, limit: int) -> bool:
        """Make retries due now, at most ``limit`` a shard. Returns whether there may be more of them.

        The caller has no lane of the part leased.
        """
        args: list[Argument] = [keys.queue_member(part.subscription), token, limit]
        shards = part.shards(self._shards)
        calls = [Call("hasten_lanes", _places(shard, part.subscription), args) for shard in shards]
        return any(cast("int", reply) >= limit for reply in self._client.run(calls))

    def park(self, subscription: str, versions: Mapping[int, bytes]) -> None:
        """Take a queue out of every index, where the registry still has the version that says so."""
        self._client.run(
            [
                Call(
                    "park_queue",
                    [keys.index(shard), keys.state(shard, subscription), keys.registry(shard)],
                    [keys.queue_member(subscription), version],
                )
                for shard, version in versions.items()
            ]
        )

    def start_anew(self, subscription: str, deliver: Deliver) -> int:
        """Let a parked queue's events start anew, or drop some of them. Returns how many were dropped."""
        dropped = 0
        for shard in range(self._shards):
            cursor: object = 0
            while cursor != b"0":
                (reply,) = self._client.commands(
                    [["ZSCAN", keys.queue(shard, subscription), cast("bytes", cursor), "COUNT", 500]]
                )
                cursor, flat = cast("tuple[bytes, list[bytes]]", reply)
                if lanes := flat[::2]:
                    buckets = [keys.lanes(shard, subscription, lane) for lane in lanes]
                    whole = [make(shard, subscription) for make in (keys.queue, keys.state, keys.kept, keys.counts)]
                    (count,) = self._client.run([Call("release_lanes", [*whole, *buckets], [deliver.value, *lanes])])
                    dropped += cast("int", count)
        return dropped

    def unpark(self, subscription: str) -> None:
        """Serve a queue again."""
        self._client.run(
            [
                Call(
                    "unpark_queue",
                    [keys.index(shard), keys.state(shard, subscription), keys.queue(shard, subscription)],
                    [keys.queue_member(subscription)],
                )
                for shard in range(self._shards)
            ]
        )

    def dropped(self, subscription: str) -> int:
        """How many events an operator ever dropped of a queue."""
        replies = self._client.commands(
            [["HGET", keys.state(shard, subscription), "dropped"] for shard in range(self._shards)]
        )
        return sum(whole(cast("bytes | None", reply)) for reply in replies)

    def kept(self, subscription: str, wanted: Mapping[int, Sequence[bytes]]) -> dict[tuple[int, bytes], bytes]:
        """Records that the log has dropped but this queue still refers to."""
        return self._client.drive(self.reading_kept(subscription, wanted))

    def reading_kept(
        self, subscription: str, wanted: Mapping[int, Sequence[bytes]]
    ) -> Steps[dict[tuple[int, bytes], bytes]]:
        """The steps of ``kept``."""
        shards = [shard for shard, group in wanted.items() if group]
        replies = yield [["HMGET", keys.kept(shard, subscription), *wanted[shard]] for shard in shards]
        return {
            (shard, position): record
            for shard, reply in zip(shards, replies, strict=True)
            for position, record in zip(wanted[shard], cast("list[bytes | None]", reply), strict=True)
            if record is not None
        }

    def lengths(self, subscriptions: Sequence[str]) -> dict[str, int]:
        """How many lanes wait for each subscription, over all shards."""
        replies = cast(
            "list[int]",
            self._client.commands(
                [["ZCARD", keys.queue(shard, name)] for name in subscriptions for shard in range(self._shards)]
            ),
        )
        return {name: sum(replies[i * self._shards : (i + 1) * self._shards]) for i, name in enumerate(subscriptions)}

    def tallies(self, subscriptions: Sequence[str]) -> dict[str, Tally]:
        """What waits, is dead, and was dropped by a limit, of each subscription, over all shards."""
        commands: list[list[Argument]] = []
        for name in subscriptions:
            for shard in range(self._shards):
                commands.append(["HMGET", keys.counts(shard, name), *_COUNTS])
                commands.append(["XLEN", keys.dead(shard, name)])
        replies = self._client.commands(commands)
        found: dict[str, Tally] = {}
        for place, name in enumerate(subscriptions):
            own = replies[2 * place * self._shards : 2 * (place + 1) * self._shards]
            rows = [[whole(value) for value in cast("list[bytes | None]", reply)] for reply in own[::2]]
            waiting, exhausted, *limits = (sum(column) for column in zip(*rows, strict=True))
            ours = (limits[3], limits[4], limits[5])
            over_backlog, over_kept, dropped = (limits[place] + ours[place] for place in range(3))
            dead = sum(cast("list[int]", own[1::2]))
            found[name] = Tally(waiting, dead, over_backlog, over_kept, dropped, ours, exhausted)
        return found

    def take_out(self, subscription: str, shard: int, records: Mapping[bytes, bytes], *, dry: bool) -> int:
        """Take events (position: record) out of a queue without a trace. Returns how many were there; ``dry``, are."""
        return self.bury(subscription, shard, records, "?" if dry else "")

    def all_kept(self, subscription: str, shard: int) -> dict[bytes, bytes]:
        """All that is kept aside for a queue in one shard: record by position."""
        (flat,) = self._client.commands([["HGETALL", keys.kept(shard, subscription)]])
        values = cast("list[bytes]", flat)
        return dict(zip(values[::2], values[1::2], strict=True))

    def bury(
        self, subscription: str, shard: int, records: Mapping[bytes, bytes], error: str, *, apart: bool = False
    ) -> int:
        """Take events (position: record) out of a queue, and make dead letters of them. Returns how many were there.

        ``apart``: they are operators' events, and counted apart.
        """
        if not records:
            return 0
        names = [keys.index(shard)]
        names += [make(shard, subscription) for make in (keys.queue, keys.dead, keys.kept, keys.counts, keys.state)]
        args: list[Argument] = [keys.queue_member(subscription), error, self._limits.dead, "q" if apart else ""]
        for position, record in records.items():
            event = events.readable(record)
            if event is None:
                continue  # whose lane it is in is not known: it dies there, once it is to be sent
            # In its phone's lane, or in one of its own where it was sent again.
            for lane in (events.lane_id(event.session_no, event.phone), events.resend_lane(position)):
                names.append(keys.lanes(shard, subscription, lane))
                args += (lane, position, record)
        return cast("int", self._client.run([Call("bury_lanes", names, args)])[0])

    def waiting(self, subscription: str, limit: int) -> list[Waiting]:
        """Lanes by their due time, the next one first, at most ``limit`` a shard."""
        found: list[Waiting] = []
        for shard in range(self._shards):
            (reply,) = self._client.commands([["ZRANGE", keys.queue(shard, subscription), 0, limit - 1, "WITHSCORES"]])
            flat = cast("list[bytes]", reply)
            due = {flat[i]: int(float(flat[i + 1])) for i in range(0, len(flat), 2)}
            if not due:
                continue
            buckets = [keys.lanes(shard, subscription, lane) for lane in due]
            values = cast("list[bytes]", self._client.run([Call("peek_lanes", buckets, list(due))])[0])
            for (lane, due_ms), value in zip(due.items(), values, strict=True):
                if value:
                    attempts, places = positions.split(value)
                    if places:
                        found.append(Waiting(shard, lane, attempts, due_ms, tuple(places)))
        return sorted(found, key=lambda lane: lane.due_ms)

    def dead_letters(self, subscription: str, in_shard: int | None = None) -> Iterator[DeadLetter]:
        """Dead letters, of every shard or of one, the newest first within a shard."""
        for shard in range(self._shards) if in_shard is None else (in_shard,):
            high = "+"
            while True:
                (reply,) = self._client.commands(
                    [["XREVRANGE", keys.dead(shard, subscription), high, "-", "COUNT", 500]]
                )
                page = cast("_Page", reply)
                for stream_id, flat in page:
                    yield letter(shard, stream_id, flat)
                if len(page) < 500:
                    break
                high = f"({page[-1][0].decode()}"

    def last_error(self, subscription: str) -> str:
        """Why the last of its events was given up after an attempt, "" if none was lately."""
        replies = self._client.commands(
            [["XREVRANGE", keys.dead(shard, subscription), "+", "-", "COUNT", 20] for shard in range(self._shards)]
        )
        letters = [
            letter(shard, stream_id, flat)
            for shard, reply in enumerate(replies)
            for stream_id, flat in cast("_Page", reply)
        ]
        tried = [one for one in letters if one.attempts and not is_ours(one.record)]
        return max(tried, key=lambda one: one.died_ms).error if tried else ""

    def trim_dead(self, subscriptions: Sequence[str], before_ms: int) -> int:
        """Drop dead letters older than ``before_ms`` (Unix ms). Returns how many."""
        replies = self._client.commands(
            [
                ["XTRIM", keys.dead(shard, name), "MINID", f"{before_ms}-0"]
                for name in subscriptions
                for shard in range(self._shards)
            ]
        )
        return sum(cast("list[int]", replies))

    def remove(self, subscription: str, versions: Mapping[int, bytes]) -> list[int]:
        """Remove all that is kept for a subscription that the registry, at these versions of its shards, has not.

        Returns the shards whose version is another by now, in which nothing was removed.
        """
        replies = self._client.run([_removal(shard, subscription, version) for shard, version in versions.items()])
        return [shard for shard, removed in zip(versions, replies, strict=True) if not removed]


def _removal(shard: int, subscription: str, version: bytes) -> Call:
    lanes = keys.lanes(shard, subscription, bytes(8))[:-1]
    whole = (keys.queue, keys.kept, keys.dead, keys.counts, keys.hold, keys.state)
    names = [keys.index(shard), keys.registry(shard), *(make(shard, subscription) for make in whole)]
    names += [f"{lanes}{bucket}" for bucket in range(keys.LANE_BUCKETS)]
    return Call("remove_queue", names, [keys.queue_member(subscription), version])


def _places(shard: int, name: str) -> list[str]:
    return [keys.index(shard), keys.hold(shard, name), keys.queue(shard, name), keys.state(shard, name)]
