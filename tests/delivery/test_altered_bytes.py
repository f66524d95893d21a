"""Any bytes of the store, altered at random: every task goes on, or ends with an error of ours that says what it is."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any, cast

import redis
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import BridgeError
from bridge.store import keys
from bridge.wiring import Bridge
from tasks.process import Process
from tests.commands import deliveries_in_every_state, track
from tests.examples import examples
from tests.parts import Parts
from tests.polling.scripted import Everywhere, Scripted, receipt


def _altered(value: bytes, chance: random.Random) -> bytes:
    changed = bytearray(value)
    how = chance.randrange(4)
    if how == 0 and value:
        changed[chance.randrange(len(value))] ^= 1 << chance.randrange(8)
    elif how == 1:
        del changed[chance.randrange(len(value) + 1) :]
    elif how == 2:
        changed = bytearray(chance.randbytes(chance.randrange(40)))
    else:
        changed += chance.randbytes(3)
    return bytes(changed)


def _alter(store: redis.Redis, key: bytes, chance: random.Random) -> None:
    """Change one value of a key at random; what a member of a sorted set is due at stays."""
    match store.type(key):
        case b"string":
            store.set(key, _altered(cast("bytes", store.get(key)), chance), keepttl=True)
        case b"hash":
            fields = cast("dict[bytes, bytes]", store.hgetall(key))
            field = chance.choice(sorted(fields))
            store.hset(key, cast("str", field), cast("str", _altered(fields[field], chance)))
        case b"zset":
            members = cast("list[tuple[bytes, float]]", store.zrange(key, 0, -1, withscores=True))
            member, score = chance.choice(members)
            store.zrem(key, member)
            store.zadd(key, {_altered(member, chance): score})
        case b"stream":
            entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", store.xrange(key))
            victim = chance.randrange(len(entries))
            store.delete(key)
            for place, (number, fields) in enumerate(entries):
                kept = {name: _altered(one, chance) if place == victim else one for name, one in fields.items()}
                store.xadd(key, cast("Any", kept), id=number)


def _work(bridge: Bridge) -> list[str]:
    """Run every task once; what went wrong, in our own words."""
    provider = Scripted()
    provider.says = {f"s{number}": [receipt()] for number in range(4)}
    bridge.__dict__["providers"] = Everywhere(provider)
    process = Process(lambda _name, _args: None)
    process.__dict__["bridge"] = bridge

    def deliver() -> None:
        timer = threading.Timer(0.1, process.stop)
        timer.start()
        process.deliver()
        timer.join()

    said: list[str] = []
    tasks: list[Callable[[], object]] = [
        process.tick,
        lambda: process.poll("default"),
        deliver,
        process.trim,
        lambda: process.track(["s1", "new"], "default"),
    ]
    for task in tasks:
        try:
            task()
        except BridgeError as error:
            said.append(str(error))
    return said


def _keys(store: redis.Redis) -> list[bytes]:
    """All but the store's own id, without which it is another store."""
    return sorted(set(cast("list[bytes]", store.keys("*"))) - {keys.STORE.encode()})


@examples(15, shared=True)
@given(seed=st.integers(0, 2**32))
def test_no_altered_bytes_raise_anything_but_an_error_of_ours(bridge: Bridge, store_url: str, seed: int) -> None:
    chance = random.Random(seed)
    parts = Parts(store_url, bridge.settings.shards)
    deliveries_in_every_state(bridge)
    track(bridge, *[{"session_no": f"s{number}", "phone_count": 1, "metadata": {"a": 1}} for number in range(4)])
    _alter(parts.redis, chance.choice(_keys(parts.redis)), chance)
    parts.make_due()
    said = _work(bridge)
    parts.redis.delete(*_keys(parts.redis))
    parts.close()
    for line in said:
        assert "cannot be read" in line or "refused a command" in line
