"""The store at the end of a run, read key by key with nothing of the bridge's: only by its catalogue of keys.

A record is a MessagePack array whose places never change (a new field comes last), a session four bytes of version and
such an array, a lane a count and positions of 12 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, cast

import msgspec
import redis

from tests.faults.records import Logged, Place, Queue, Session, Store, digits_of, name_of

_STATUSES = ("tracked", "unknown", "delivered", "undelivered", "expired", "failed", "no_receipt")


class Reader:
    """Reads a store, not through any proxy."""

    def __init__(self, client: Any, shards: int) -> None:
        # Any: redis-py's replies are typed as awaitable or not, whichever way it is used.
        self.redis = client
        self._shards = shards

    def close(self) -> None:
        self.redis.close()

    def read(self) -> Store:
        """All of it."""
        accounts = {name.decode() for name in self.redis.smembers("u:accounts")} | {"default"}
        subscriptions = {name.decode() for name in self.redis.hkeys("u:subscriptions")}
        return Store(
            sessions={key: one for account in accounts for key, one in self.sessions(account)},
            events=tuple(event for account in sorted(accounts) for event in self._events(account)),
            queues={name: self.queue(name) for name in subscriptions},
            erased=frozenset(place for account in accounts for place in self._erased(account)),
            subscriptions=frozenset(subscriptions),
            failed_attempts={name: tuple(self._attempts(name)) for name in subscriptions},
        )

    def sessions(self, account: str) -> Iterator[tuple[tuple[str, str], Session]]:
        """Sessions by (account, SessionNo)."""
        for shard in range(self._shards):
            prefix = f"u{{{shard}}}:s:{account}:"
            names = list(self.redis.scan_iter(match=f"{prefix}*", count=1000))
            for name, value in zip(names, self.redis.mget(names) if names else [], strict=True):
                if value is not None:
                    yield (account, name.decode()[len(prefix) :]), _session(value)

    def lengths(self, broker_url: str) -> dict[str, int]:
        """How many messages wait in each of the broker's queues."""
        with redis.Redis.from_url(broker_url, socket_timeout=30) as broker:
            broker_queues = ("bridge.track", "bridge.control", "bridge.poll", "bridge.deliver")
            return {name: cast("int", broker.llen(name)) for name in broker_queues}

    def calls(self) -> dict[str, str]:
        """What keeps the account's calls to the provider, if anything does."""
        return {name.decode(): value.decode() for name, value in self.redis.hgetall("u:rate:default").items()}

    def implicit(self) -> list[str]:
        """Ids of the subscriptions that exist because sessions name their URL."""
        found = {name: cast("Any", msgspec.msgpack.decode(value)) for name, value in self._registry().items()}
        return [name.decode() for name, one in found.items() if one.get("implicit")]

    def _registry(self) -> dict[bytes, bytes]:
        registry: dict[bytes, bytes] = self.redis.hgetall("u:subscriptions")
        return registry

    def _events(self, account: str) -> Iterator[Logged]:
        for shard in range(self._shards):
            for name, fields in self.redis.xrange(f"u{{{shard}}}:log:{account}"):
                yield _logged(account, shard, _position(name), fields[b"r"])

    def queue(self, name: str) -> Queue:
        """What waits for a subscription, and what became of the rest."""
        waiting: set[Place] = set()
        dead: set[Place] = set()
        told: set[Place] = set()
        told_ms: dict[str, list[int]] = {}
        parked, dropped, limited = False, 0, 0
        for shard in range(self._shards):
            own = f"u{{{shard}}}:"
            waiting |= {(shard, position) for position in self._waiting(shard, name)}
            for _, fields in self.redis.xrange(f"{own}dead:{name}"):
                dead.add((shard, cast("tuple[int, int]", struct.unpack(">QI", fields[b"p"]))))
            for key in self.redis.scan_iter(match=f"{own}told:{name}:*", count=1000):
                for at_ms, position in _told(self.redis.get(key) or b""):
                    told.add((shard, position))
                    told_ms.setdefault(name_of((shard, position)), []).append(at_ms)
            state = self.redis.hgetall(f"{own}state:{name}")
            parked |= b"parked" in state
            dropped += int(state.get(b"dropped", 0))
            counts = self.redis.hgetall(f"{own}count:{name}")
            limited += sum(int(counts.get(field, 0)) for field in (b"o", b"k", b"d"))
        return Queue(
            waiting=frozenset(waiting),
            parked=parked,
            dead=frozenset(dead),
            told=frozenset(told),
            told_ms={place: tuple(times) for place, times in told_ms.items()},
            dropped=dropped,
            limited=limited,
        )

    def _waiting(self, shard: int, name: str) -> Iterator[tuple[int, int]]:
        """From the lanes themselves: one that the queue has lost would wait for ever, and must not be overlooked."""
        for key in self.redis.scan_iter(match=f"u{{{shard}}}:l:{name}:*", count=5000):
            for value in self.redis.hvals(key):
                for at in range(1, len(value), 12):
                    yield struct.unpack(">QI", value[at : at + 12])

    def _erased(self, account: str) -> Iterator[tuple[str, Place]]:
        for shard in range(self._shards):
            for member in self.redis.zrange(f"u{{{shard}}}:erased:{account}", 0, -1):
                yield account, (shard, cast("tuple[int, int]", struct.unpack(">QI", member)))

    def _attempts(self, name: str) -> Iterator[tuple[int, str]]:
        for at, fields in self.redis.xrange(f"u:attempts:{name}"):
            yield int(at.split(b"-")[0]), str(msgspec.msgpack.decode(fields[b"a"]))


def low(position: tuple[int, int]) -> tuple[int, int]:
    """A position as the record of accepted deliveries has it."""
    return position[0] % 2**32, position[1]


def _position(stream_id: bytes) -> tuple[int, int]:
    millis, _, sequence = stream_id.partition(b"-")
    return int(millis), int(sequence)


def _session(value: bytes) -> Session:
    state = cast("list[Any]", msgspec.msgpack.decode(value[4:]))
    return Session(
        sent_ms=state[0],
        settled_ms=state[3],
        phones={(digits_of(phone[0]), phone[1]): _STATUSES[phone[2]] for phone in state[6]},
    )


def _logged(account: str, shard: int, position: tuple[int, int], record: bytes) -> Logged:
    fields = cast("list[Any]", msgspec.msgpack.decode(record))
    return Logged(
        account=account,
        shard=shard,
        position=position,
        type=fields[17] if len(fields) > 17 else 0,
        session_no=fields[1],
        phone=fields[2],
        user_id=fields[3],
        status=_STATUSES[fields[4]],
        previous=_STATUSES[fields[5]],
        sequence=fields[6],
        receipt_time=fields[12],
        observed_ms=fields[14],
        of_provider=fields[9] is not None,
        data=fields[16],
    )


def _told(noted: bytes) -> Iterator[tuple[int, tuple[int, int]]]:
    """When each delivery was settled (ms, the lowest 32 bits), and its position's."""
    at = 0
    while at < len(noted):
        at_ms, count = struct.unpack_from(">IH", noted, at)
        at += 6
        for _ in range(count):
            yield at_ms, struct.unpack_from(">II", noted, at)
            at += 10
