"""What ``bridge doctor`` asks of each server, as it describes itself: a store, one for durable trackings, a broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, cast

import msgspec

from bridge.cli.doctor_findings import Finding, Verdict, fail, megabytes, ok, warn
from bridge.domain.policy import MEMORY_SHORT
from bridge.errors import BridgeError, Unreachable

if TYPE_CHECKING:
    from bridge.store.client import Client
    from bridge.store.wire import Node

MOST_CLOCK_DIFFERENCE_MS = 5_000
"""Receivers refuse timestamps that are minutes off (Standard Webhooks says 5), and people compare logs by them."""

MEMORY_WARNS = 0.75
"""Part of maxmemory."""

LISTPACK_BYTES = 200
"""A lane's value grows to about this before most of its events are delivered; beyond the server's limit its hash
takes three times the memory."""

_LOWEST_VERSION = {"Valkey": 8, "Redis": 7}

_WAITS_FOR_DISK = (7, 2)
"""As ``redis_version`` says it, which Valkey 8 has as 7.2.4."""

_OF_A_BROKER = ("store", "eviction")


class Server(msgspec.Struct, frozen=True):
    """A server as it describes itself. ``config`` lacks what it would not say: hosted ones refuse CONFIG."""

    url: str
    info: Mapping[str, str]
    config: Mapping[str, str]
    ahead_ms: float
    """How far its clock is before this machine's."""


def read_server(client: Client, node: Node, name: str) -> Server:
    """Ask a server about itself; ``name`` is what it is called. Raises StoreUnreachable."""
    (info,) = client.ask_node(node, [["INFO"]])
    before = time.time()
    (now,) = client.ask_node(node, [["TIME"]])
    here_ms = (before + time.time()) * 500
    seconds, micros = cast("list[bytes]", now)
    lines = cast("bytes", info).decode(errors="replace").splitlines()
    fields = (line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))
    return Server(
        url=name,
        info={name: value.strip() for name, value in fields},
        config=_config(client, node, "save", "hash-max-listpack-value"),
        ahead_ms=int(seconds) * 1000 + int(micros) / 1000 - here_ms,
    )


def _config(client: Client, node: Node, *names: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        try:
            (reply,) = client.ask_node(node, [["CONFIG", "GET", name]])
        except Unreachable:
            raise
        except BridgeError:
            continue
        pair = [part.decode() for part in cast("list[bytes]", reply)]
        found |= dict(zip(pair[::2], pair[1::2], strict=True))
    return found


def _version(server: Server) -> Iterator[Finding]:
    kind = "Valkey" if "valkey_version" in server.info else "Redis"
    version = server.info.get(f"{kind.lower()}_version", "0")
    lowest = _LOWEST_VERSION[kind]
    said = f"{kind} {version} at {server.url}"
    if int(version.partition(".")[0]) >= lowest:
        yield ok("store", said)
    else:
        yield fail("store", f"{said} is too old", f"upgrade it to {kind} {lowest} or newer")


def _eviction(server: Server) -> Iterator[Finding]:
    policy = server.info.get("maxmemory_policy", "unknown")
    action = "set maxmemory-policy to noeviction: the server would drop, to make room, what nobody asked it to"
    if policy == "noeviction":
        yield ok("eviction", policy)
    elif _maxmemory(server):
        yield fail("eviction", f"maxmemory-policy is {policy}", action)
    else:
        yield warn("eviction", f"maxmemory-policy is {policy}, without effect as long as there is no maxmemory", action)


def _persistence(server: Server) -> Iterator[Finding]:
    info = server.info
    broken = "see the server's log and its disk: what it cannot write is lost when it ends"
    if info.get("aof_enabled") == "1":
        if info.get("aof_last_write_status", "ok") == "ok":
            yield ok("persistence", "append-only file")
        else:
            yield fail("persistence", "the append-only file cannot be written", broken)
    elif server.config.get("save"):
        if info.get("rdb_last_bgsave_status", "ok") == "ok":
            yield ok("persistence", "snapshots: a crash repeats, and may lose, what came since the last one")
        else:
            yield fail("persistence", "the last snapshot failed", broken)
    elif "save" in server.config:
        yield warn(
            "persistence",
            "neither an append-only file nor snapshots: a restart of the server loses everything",
            "set appendonly yes in the server's configuration",
        )
    else:
        yield warn(
            "persistence", "no append-only file, and the server does not say whether it makes snapshots", "see its host"
        )


def _memory(server: Server) -> Iterator[Finding]:
    used, most = int(server.info.get("used_memory", 0)), _maxmemory(server)
    if not most:
        yield ok("memory", f"{megabytes(used)} used, no maxmemory: the machine's memory is the limit")
        return
    said = f"{megabytes(used)} of {megabytes(most)} used ({used / most:.0%})"
    action = "raise maxmemory, or find out what piles up: `bridge subscriptions list` shows what waits"
    if used >= MEMORY_SHORT * most:
        yield fail(
            "memory", f"{said}: tracking refuses and polling pauses until it is below {MEMORY_SHORT:.0%}", action
        )
    elif used >= MEMORY_WARNS * most:
        yield warn("memory", said, action)
    else:
        yield ok("memory", said)


def _listpack(server: Server) -> Iterator[Finding]:
    value = server.config.get("hash-max-listpack-value")
    if value is None:
        return
    if int(value) >= LISTPACK_BYTES:
        yield ok("packing", f"hash-max-listpack-value is {value}")
    else:
        yield warn(
            "packing",
            f"hash-max-listpack-value is {value}: phones with several events waiting take three times the memory",
            "set it to 256 in the server's configuration",
        )


def _clock(server: Server) -> Iterator[Finding]:
    apart = abs(server.ahead_ms)
    said = (
        f"the store's clock is {apart / 1000:,.1f} s {'ahead of' if server.ahead_ms > 0 else 'behind'} this machine's"
    )
    if apart <= MOST_CLOCK_DIFFERENCE_MS:
        yield ok("clocks", f"the store's and this machine's agree within {MOST_CLOCK_DIFFERENCE_MS // 1000} s")
    else:
        yield warn("clocks", said, "synchronise both (NTP): receivers refuse callbacks whose time is minutes off")


SERVER_CHECKS: tuple[Callable[[Server], Iterator[Finding]], ...] = (
    _version,
    _eviction,
    _persistence,
    _memory,
    _listpack,
    _clock,
)


def tracking_durable(server: Server) -> Iterator[Finding]:
    """For BRIDGE_TRACK_DURABLE: whether the server can say what is on its disk."""
    redis_version = tuple(int(part) for part in server.info.get("redis_version", "0").split(".")[:2])
    if server.info.get("aof_enabled") != "1":
        yield fail(
            "durable",
            "BRIDGE_TRACK_DURABLE is set, and the server has no append-only file: nothing can be tracked",
            "set appendonly yes in the server's configuration, or unset BRIDGE_TRACK_DURABLE",
        )
    elif redis_version < _WAITS_FOR_DISK:
        yield fail(
            "durable",
            "BRIDGE_TRACK_DURABLE is set, and the server has no WAITAOF: nothing can be tracked",
            "upgrade it to Redis 7.2 or Valkey 8, or unset BRIDGE_TRACK_DURABLE",
        )
    else:
        yield ok("durable", "trackings are acknowledged once they are on the server's disk")


def broker_findings(server: Server) -> Iterator[Finding]:
    """What a broker of its own lacks: it must be as new as a store, and drop nothing by itself either."""
    for check in SERVER_CHECKS:
        for finding in check(server):
            if finding.check in _OF_A_BROKER and finding.verdict is not Verdict.OK:
                yield msgspec.structs.replace(finding, check="broker")


def _maxmemory(server: Server) -> int:
    return int(server.info.get("maxmemory", 0))
