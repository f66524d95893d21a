"""What ``bridge doctor`` asks of servers beside the checks of every store: for durable trackings, and of a broker."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from bridge.cli.doctor_checks import SERVER_CHECKS, Finding, Server, Verdict, fail, ok

_WAITS_FOR_DISK = (7, 2)
"""As ``redis_version`` says it, which Valkey 8 has as 7.2.4."""

_OF_A_BROKER = ("store", "eviction")


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
