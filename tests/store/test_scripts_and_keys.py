"""Scripts and keys are documented, and both survive what servers do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import redis
from redis.exceptions import RedisClusterException

from bridge.domain.breaker import Health
from bridge.domain.commits import ABSENT, Due, Write
from bridge.domain.deliveries import FailedAttempt, Part, Settlement
from bridge.domain.outcome import Verdict
from bridge.errors import BridgeError, IncompatibleStore, StoreUnreachable
from bridge.store import keys
from bridge.store.client import Call, Client, open_store, script, translated
from bridge.store.server import EmbeddedServer
from bridge.store.wire import UNSERVED
from tests.catalogue import catalogue, fault_of
from tests.parts import OPEN, PHONE, SHARDS, Parts, account, entry, subscription

SCRIPTS = sorted(file.name for file in files("bridge.store").joinpath("lua").iterdir() if file.name.endswith(".lua"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_what_it_takes_and_gives_and_what_a_crash_leaves(name: str) -> None:
    source = script(name.removesuffix(".lua")).source
    header = "\n".join(line for line in source.splitlines() if line.startswith("--"))

    assert source.startswith("#!lua"), "without a shebang, old rules for undeclared keys hold"
    for word in ("KEYS", "ARGV", "Returns"):
        assert re.search(rf"^--.*\b{word}\b", header, re.MULTILINE), f"{name} does not document {word}"
    if "no-writes" not in source.splitlines()[0]:
        assert "crash" in header, f"{name} does not say what a crash leaves"


@pytest.mark.parametrize("name", SCRIPTS)
def test_only_what_adds_data_is_refused_when_memory_is_short(name: str) -> None:
    first, *_ = script(name.removesuffix(".lua")).source.splitlines()
    assert ("allow-oom" in first or "no-writes" in first) == (
        name not in {"add_subscription.lua", "announce.lua", "commit.lua", "fill_lanes.lua", "use_callback.lua"}
    )


def test_the_catalogue_is_read_whole() -> None:
    rows = (keys.__doc__ or "").count("\nu:") + (keys.__doc__ or "").count("\nu{")
    assert len(catalogue()) == rows > 15


def test_the_catalogue_tells_strangers_from_its_own() -> None:
    assert fault_of("u{3}:index", "zset", -1) is None
    assert fault_of("u:wake:poll:default", "string", 2) is None
    assert "no row" in str(fault_of("u{3}:nonsense", "zset", -1))
    assert "not a zset" in str(fault_of("u{3}:index", "hash", -1))
    assert "no TTL" in str(fault_of("u{3}:hold:sub_a", "string", -1))
    assert "no TTL" in str(fault_of("u:wake:deliver", "string", -1))
    assert "has a TTL" in str(fault_of("u:store", "hash", 9))


def test_every_kind_of_key_is_in_the_catalogue(parts: Parts) -> None:
    """The fixture looks at what is left; this leaves one of each."""
    open_store(parts.client, SHARDS)
    parts.subscriptions.put(subscription())
    parts.tracking.note_account("default")
    with parts.audit.noted("ops@here", "rewrap"):
        pass
    parts.tracking.reject("default", [("{}", "empty")])
    parts.accounts.add(account())
    parts.origins.number("sender-1")
    parts.wakes.take("poll:default", 2_000)
    parts.index.note_tick(1)
    parts.attempts.add([("sub_a", FailedAttempt(1, "evt_a", 1, 500, 1, "", b"", b""))])
    parts.rate.take("default", 5)
    parts.rate.pause("default", "down", 1_000)
    parts.sessions.set_aside("default", ["s1"])
    parts.sessions.commit("default", [Write("s9", ABSENT, OPEN, 1, None, watch_ms=1_700_000_000_000)])
    parts.write("s1", entry("s1", sequence=1), entry("s1", "18500000002"))
    parts.write("s2", due=Due.NONE, expires_ms=9)
    parts.pushes.take("default", ["s2"], 1)
    (first, second) = parts.take(b"t" * 16, "s1")
    parts.redis.hset(keys.TOMBSTONES, "t", 1)
    parts.redis.set(keys.durable(0), 1, px=60_000)
    parts.redis.zadd(keys.erased(0, "default"), {"p": 1})
    parts.write("s3", entry("s3"))
    (third,) = parts.take(b"t" * 16, "s3")
    parts.queues.settle(b"t" * 16, {("sub_a", third.shard): [Settlement(third, Verdict.ACCEPTED)]})
    parts.redis.set(keys.begin(0, "default"), "1-1")
    parts.redis.hset(keys.kept(first.shard, "sub_a"), second.position.hex(), "r")
    parts.queues.note_health(b"t" * 16, Part("sub_a"), Health(1), held=False)
    parts.redis.xadd(keys.dead(first.shard, "sub_a"), {"r": b"", "e": "", "a": "1", "p": ""})

    names = {key.decode() for key in parts.client.scan("*")}
    unused = [row.name for row in catalogue() if not any(re.fullmatch(row.pattern, name) for name in names)]
    assert set(unused) <= {"u:account:<a>", "u:callbacks:<a>", "u:erasure"}, "a row for which nothing makes a key"


def test_a_server_that_forgot_its_scripts_is_taught_them_again(parts: Parts) -> None:
    parts.write("s1", entry("s1"))
    parts.redis.script_flush()

    parts.write("s1", entry("s1", PHONE, sequence=2))
    assert len(parts.take(b"t" * 16, "s1")) == 1
    assert len(list(parts.log.read("default"))) == 2


def test_of_several_calls_only_the_forgotten_ones_are_sent_again(parts: Parts) -> None:
    """claim_sessions is known, take_token is not: the first call must not run twice."""
    parts.write("s1", due=1)
    parts.redis.script_flush()
    parts.claim_due({0: 1}, 1_000, "nobody")
    due = keys.due(parts.shard("s1"), "default")

    claim = Call(
        "claim_sessions", [keys.index(parts.shard("s1")), due], ["p:default", parts.now_ms() + 60_000, 1, 0, 0, 0]
    )
    claimed, wait_ms = parts.client.run([claim, Call("take_token", [keys.rate("default")], ["5", "5"])])

    assert isinstance(claimed, list)
    assert claimed[1:] == [b"s1", b"1"]
    assert wait_ms == 0


def test_a_restarted_server_goes_on_where_it_was(tmp_path: Path) -> None:
    """The same port and password, its append-only file, and no script loaded: one client lives through it."""
    with EmbeddedServer(tmp_path, durable=True) as first:
        where = urlsplit(first.url)
        parts = Parts(first.url)
        parts.write("s1", entry("s1"), due=1)
    password = unquote(where.password or "")
    with EmbeddedServer(tmp_path, durable=True, port=where.port, password=password):
        assert parts.claim_due({parts.shard("s1"): 10}, 60_000) == ["s1"]
        (lane,) = parts.take(b"t" * 16, "s1")
        assert parts.log.fetch("default", {lane.shard: [lane.position]})
        parts.assert_index_is_right()
    parts.close()


def test_a_server_that_is_gone_is_said_to_be_unreachable(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        parts = Parts(server.url)
        parts.write("s1")
    with pytest.raises(StoreUnreachable, match="BRIDGE_REDIS_URL"):
        parts.write("s1")
    with pytest.raises(StoreUnreachable):
        list(parts.sessions.scan("default"))
    parts.close()


def _errors(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for sub in kind.__subclasses__():
        yield from _errors(sub)


@pytest.mark.parametrize("kind", sorted({*_errors(redis.RedisError), *_errors(RedisClusterException)}, key=str))
def test_every_error_of_the_library_becomes_one_of_ours(kind: type[Exception]) -> None:
    error = kind.__new__(kind)
    error.args = ("said the server",)
    no_answer = (redis.ConnectionError, redis.TimeoutError, redis.InvalidResponse, RedisClusterException)
    unreachable = issubclass(kind, (*no_answer, *UNSERVED))

    with pytest.raises(BridgeError) as caught, translated():
        raise error

    assert isinstance(caught.value, StoreUnreachable) == unreachable


def test_what_the_library_raises_outside_its_tree_is_of_parts_that_are_not_used() -> None:
    """A lock's after a fork, and a policy of commands: whoever starts to use those must translate them."""
    named = {one for one in vars(redis.exceptions).values() if isinstance(one, type) and issubclass(one, Exception)}
    ours = (redis.RedisError, RedisClusterException)
    assert {one.__name__ for one in named if not issubclass(one, ours)} <= {
        "ChildDeadlockedError",
        "IncorrectPolicyType",
    }


def test_a_refused_command_is_not_quoted(parts: Parts) -> None:
    """Fault: a refused XADD's message held the rejected item, phones and all, and was logged.

    redis-py puts a pipeline's command into the text of its error. Errors are taken from it without that.
    """
    parts.redis.set(keys.rejected("default"), "no stream")
    with pytest.raises(BridgeError, match="WRONGTYPE") as caught:
        parts.tracking.reject("default", [('{"phones": ["18512345678"]}', "bad")])
    assert "18512345678" not in str(caught.value)
    assert "18512345678" not in str(caught.value.__cause__)
    parts.redis.delete(keys.rejected("default"))


def test_memory_that_is_short_is_named_and_deliveries_go_on(tmp_path: Path) -> None:
    """At maxmemory nothing is half-written: commits are refused whole, claims and settles still run."""
    with EmbeddedServer(tmp_path, options={"maxmemory": "100mb"}) as server:
        parts = Parts(server.url)
        parts.write("s1", entry("s1"), due=1)
        parts.redis.config_set("maxmemory", "1")
        with pytest.raises(BridgeError, match="maxmemory"):
            parts.write("s2", entry("s2"), due=1)
        assert parts.claim_due({parts.shard("s1"): 1}, 60_000) == ["s1"]
        assert len(parts.take(b"t" * 16, "s1")) == 1
        parts.redis.config_set("maxmemory", "0")
        assert parts.sessions.read("default", ["s2"])["s2"].state is None
        parts.assert_index_is_right()
        parts.close()


def test_a_store_of_another_shape_is_refused(parts: Parts) -> None:
    open_store(parts.client, SHARDS)
    open_store(parts.client, SHARDS)
    with pytest.raises(IncompatibleStore, match=f"BRIDGE_SHARDS={SHARDS}"):
        open_store(parts.client, SHARDS + 1)
    parts.redis.hset(keys.STORE, "schema", "99")
    with pytest.raises(IncompatibleStore, match="newer release"):
        open_store(parts.client, SHARDS)


def test_a_valkey_url_is_understood(store_url: str) -> None:
    client = Client(store_url.replace("redis://", "valkey://"))
    assert client.commands([["PING"]]) == [b"PONG"]
    assert client.commands([]) == []
    client.close()
