"""Replies that are slow, cut or lost: everything may be asked again, and nothing is done twice."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from bridge.domain.commits import CommitResult, Entry, Write
from bridge.domain.deliveries import Settlement
from bridge.domain.outcome import Verdict
from bridge.domain.packing import Wanted
from bridge.errors import StoreUnreachable
from bridge.store.client import Client
from bridge.store.outcomes import Told
from bridge.store.server import EmbeddedServer
from tests.hostile import Connection, serving
from tests.parts import OPEN, SHARDS, SUB, Parts, entry, until
from tests.proxy import Proxy, proxied
from tests.store.counting import counting

KINDS = ("valkey",)
MINE = b"m" * 16
CUTS = (0, 1, 3)
"""Bytes of a reply that still arrive."""


@pytest.fixture
def proxy(parts: Parts) -> Iterator[Proxy]:
    with proxied(urlsplit(parts.url).port or 0) as made:
        yield made


@pytest.fixture
def afar(parts: Parts, proxy: Proxy) -> Iterator[Parts]:
    """The store's parts by way of the proxy, with their scripts known to the server."""
    made = through(parts, proxy)
    made.write("warm", entry("warm"), due=1)
    made.claim_due({0: 1}, 60_000)
    (lane,) = made.take(MINE, "warm")
    made.queues.settle(MINE, {(SUB, lane.shard): [Settlement(lane, Verdict.ACCEPTED)]})
    parts.empty()
    yield made
    made.close()


def through(parts: Parts, proxy: Proxy) -> Parts:
    where = urlsplit(parts.url)
    return Parts(parts.url.replace(f":{where.port}", f":{proxy.port}"))


def write_of(name: str, *entries: Entry) -> Write:
    return Write(name, b"", OPEN, 1, None, entries)


@pytest.mark.parametrize("after", CUTS)
def test_a_commit_whose_reply_was_cut_is_done_once(parts: Parts, afar: Parts, proxy: Proxy, after: int) -> None:
    """Repeated by the client, it finds its own version there, and calls that a conflict: the caller looks again."""
    proxy.cut_after(after)
    done = afar.sessions.commit("default", [write_of(f"s{n}", entry(f"s{n}")) for n in range(8)])

    assert proxy.cuts == 1
    assert set(done.values()) <= {CommitResult.WRITTEN, CommitResult.CONFLICT}
    assert CommitResult.CONFLICT in done.values()
    assert len(list(parts.log.read("default"))) == 8
    assert parts.queues.lengths([SUB]) == {SUB: 8}
    parts.assert_index_is_right()


@pytest.mark.parametrize("after", CUTS)
def test_a_claim_whose_reply_was_cut_gives_nothing_to_two(parts: Parts, afar: Parts, proxy: Proxy, after: int) -> None:
    """What it leased, and could not tell of, comes due again when its lease ends."""
    for number in range(12):
        parts.write(f"s{number}", due=1)
    one_each = dict.fromkeys(range(SHARDS), Wanted(1, 0, 0))
    lease_end_ms = parts.now_ms() + 60_000
    proxy.cut_after(after)
    first = afar.sessions.claim("default", one_each, lease_end_ms, 0)[1]
    second = parts.claim_due(dict.fromkeys(range(SHARDS), 99), 60_000)

    assert proxy.cuts == 1
    assert not set(first) & set(second)
    assert len(first) + len(second) == 12 - SHARDS, "a repeated claim leases the next ones"
    parts.make_due()
    assert len(parts.claim_due(dict.fromkeys(range(SHARDS), 99), 60_000)) == 12


@pytest.mark.parametrize("after", CUTS)
def test_a_settlement_whose_reply_was_cut_applies_once(parts: Parts, afar: Parts, proxy: Proxy, after: int) -> None:
    parts.write("s1", entry("s1", sequence=1), entry("s1", sequence=2))
    (lane,) = afar.take(MINE, "s1")
    proxy.cut_after(after)
    applied = afar.queues.settle(MINE, {(SUB, lane.shard): [Settlement(lane, Verdict.ACCEPTED)]})

    assert proxy.cuts == 1
    assert applied == {(SUB, lane.shard): 0}, "it was done before"
    first, second = parts.log.read("default")
    now_ms = parts.now_ms()
    told = parts.outcomes.fate(SUB, lane.shard, first.position, first.record, now_ms).told
    assert [one.attempt for one in told] == [1]
    assert isinstance(told[0], Told)
    assert parts.outcomes.fate(SUB, lane.shard, second.position, second.record, now_ms).told == ()
    (following,) = parts.take(MINE, "s1")
    assert following.position == second.position


def test_a_second_for_each_reply_is_waited_for(parts: Parts, afar: Parts, proxy: Proxy) -> None:
    proxy.delay_s = 1.0
    afar.write("s1", entry("s1"), due=1)
    assert afar.claim_due({parts.shard("s1"): 1}, 60_000) == ["s1"]
    (lane,) = afar.take(MINE, "s1")
    assert afar.queues.settle(MINE, {(SUB, lane.shard): [Settlement(lane, Verdict.ACCEPTED)]}) == {(SUB, lane.shard): 1}
    proxy.delay_s = 0.0
    assert len(list(parts.log.read("default"))) == 1
    assert parts.queues.lengths([SUB]) == {SUB: 0}


def test_what_takes_longer_than_the_time_out_is_said_and_done_once(parts: Parts, afar: Parts, proxy: Proxy) -> None:
    hurried = Client(afar.url, timeout_s=0.2)
    hurried.commands([["PING"]])
    afar.sessions._client = hurried
    proxy.delay_s = 1.0
    with pytest.raises(StoreUnreachable):
        afar.sessions.commit("default", [write_of("s1", entry("s1"))])
    until(lambda: parts.sessions.read("default", ["s1"])["s1"].state is not None)
    proxy.delay_s = 0.0
    assert afar.sessions.commit("default", [write_of("s1", entry("s1"))]) == {"s1": CommitResult.CONFLICT}
    assert len(list(parts.log.read("default"))) == 1
    hurried.close()


def test_a_server_that_is_killed_and_started_again_loses_a_second_at_most_and_doubles_nothing(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path, durable=True) as first:
        where = urlsplit(first.url)
        parts = Parts(first.url)
        with counting(parts) as counter:
            until(lambda: counter.reached > 50)
            process = first._process
            assert process is not None
            process.kill()
            process.wait(10)
            with EmbeddedServer(tmp_path, durable=True, port=where.port, password=unquote(where.password or "")):
                before = counter.reached
                until(lambda: counter.reached > before + 50)
                counter.stop()
                events = list(parts.log.read("default"))
        assert max(counter.steps) == 1, "a commit was done twice"
        assert len(events) in {counter.reached, counter.reached + 1}, "state and log were kept, or lost, together"
        parts.close()


def test_what_answers_but_is_no_redis_is_said_to_be_unreachable() -> None:
    """A garbled reply ended workers with the words of a refused command, which nobody retries."""

    def babble(connection: Connection) -> None:
        connection.sock.recv(65_536)
        connection.sock.sendall(b"?what\r\n")

    with serving(babble) as server:
        client = Client(f"redis://127.0.0.1:{urlsplit(server.url).port}")
        with pytest.raises(StoreUnreachable, match="garbled"):
            client.commands([["PING"]])
        client.close()


def test_a_server_that_is_no_master_is_left_and_tried_again(tmp_path: Path) -> None:
    """Behind one address a failover shows as READONLY: what is connected is let go, and the name asked anew."""
    with EmbeddedServer(tmp_path) as server:
        parts = Parts(server.url)
        parts.write("s1", due=1)
        parts.redis.replicaof("127.0.0.1", "1")
        with pytest.raises(StoreUnreachable):
            parts.write("s2", due=1)
        parts.redis.replicaof("NO", "ONE")
        assert parts.write("s2", due=1) is CommitResult.WRITTEN
        parts.close()


def test_a_process_out_of_descriptors_cannot_reach_the_store_and_later_can(parts: Parts) -> None:
    """redis-py reads its own version from disk for each new connection, where that is not given to it: what could not
    be opened then was no failure of the store's, and ended a slice with its callbacks under way."""
    client = Client(parts.url)
    client.commands([["PING"]])
    pool = client.redis.connection_pool
    in_use = pool.get_connection()  # the next to ask needs one of its own
    with without_descriptors(), pytest.raises(StoreUnreachable):
        client.commands([["PING"]])
    assert client.commands([["PING"]]) == [b"PONG"]
    pool.release(in_use)
    client.close()


@contextmanager
def without_descriptors() -> Iterator[None]:
    """This process can open nothing."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
