"""The checks of ``bridge doctor``: first of the server as it describes itself, then of the bridge that lives in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, cast

import msgspec

from bridge.domain.accounts import DEFAULT_ACCOUNT
from bridge.domain.durations import format_duration_ms
from bridge.domain.events import iso_millis
from bridge.domain.policy import MEMORY_SHORT
from bridge.domain.subscriptions import SubscriptionState
from bridge.errors import (
    BridgeError,
    SecretsUnreadable,
    StoreEmptied,
    Unreachable,
)

if TYPE_CHECKING:
    from bridge.store.client import Client
    from bridge.store.wire import Node
    from bridge.wiring import Bridge

MOST_CLOCK_DIFFERENCE_MS = 5_000
"""Receivers refuse timestamps that are minutes off (Standard Webhooks says 5), and people compare logs by them."""

CERTIFICATE_WARNS_MS = 14 * 86_400_000
"""How long before a client certificate ends: as long as most authorities take at worst."""

MEMORY_WARNS = 0.75
"""Part of maxmemory."""

LISTPACK_BYTES = 200
"""A lane's value grows to about this before most of its events are delivered; beyond the server's limit its hash
takes three times the memory."""

_FULL_LOG = 0.9
"""A part of BRIDGE_LOG_BYTES. Trimming leaves a log a page of events below it."""

_LOWEST_VERSION = {"Valkey": 8, "Redis": 7}


class Verdict(StrEnum):
    """How a check went; only ``fail`` makes the command fail."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(msgspec.Struct, frozen=True):
    """What a check found, and what to do about it ("" where nothing is, or the detail says so)."""

    check: str
    verdict: Verdict
    detail: str
    action: str = ""


def ok(check: str, detail: str) -> Finding:
    return Finding(check, Verdict.OK, detail)


def warn(check: str, detail: str, action: str = "") -> Finding:
    return Finding(check, Verdict.WARN, detail, action)


def fail(check: str, detail: str, action: str = "") -> Finding:
    return Finding(check, Verdict.FAIL, detail, action)


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
        yield ok("memory", f"{_megabytes(used)} used, no maxmemory: the machine's memory is the limit")
        return
    said = f"{_megabytes(used)} of {_megabytes(most)} used ({used / most:.0%})"
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


def _schema(bridge: Bridge) -> Iterator[Finding]:
    from bridge.store.client import SCHEMA

    # Opening the bridge has compared both with the store's.
    yield ok("schema", f"schema {SCHEMA}, {bridge.settings.shards} shards")


def _identity(bridge: Bridge) -> Iterator[Finding]:
    identity = bridge.identity
    try:
        identity.check()
    except StoreEmptied as error:
        what, _, to_do = str(error).partition(". ")
        yield fail("store id", what, to_do)
        return
    if identity.unkept:
        yield warn(
            "store id",
            f"{identity.unkept}: an emptied store would not be noticed",
            "give BRIDGE_DATA_DIR a directory that is kept, and can be written",
        )
    else:
        yield ok("store id", f"the store is the one that {identity.path} remembers")


def _provider(bridge: Bridge) -> Iterator[Finding]:
    from bridge.accounts import Class, account_names, check

    stored = {one.name for one in bridge.accounts.all()}
    tracked = set(bridge.tracking.accounts())
    judged = {Class.OK: Verdict.OK, Class.THROTTLED: Verdict.WARN}
    for name in account_names(bridge):
        # One that is not used needs no keys: an operator may have accounts of other names alone.
        if name == DEFAULT_ACCOUNT and stored and name not in tracked and bridge.settings.public_key is None:
            continue
        checked = check(bridge, name)
        verdict = judged.get(checked.result, Verdict.FAIL)
        yield Finding("provider", verdict, checked.detail, checked.action)


def _secrets(bridge: Bridge) -> Iterator[Finding]:
    signing_keys = bridge.signing_keys
    registered = bridge.subscriptions.load().by_id().values()
    closed = []
    for one in registered:
        try:
            signing_keys.of(one)
        except SecretsUnreadable:
            closed.append(one.id)
    if closed:
        yield fail(
            "secret keys",
            f"BRIDGE_SECRET_KEYS opens no secret of {', '.join(closed)}: nothing can be sent there",
            "add the key that they were written with",
        )
    else:
        yield ok("secret keys", f"open the secrets of {_many(len(registered), 'subscription')}")


def _beat(bridge: Bridge) -> Iterator[Finding]:
    last_ms = bridge.index.last_tick_ms()
    if last_ms is not None:
        ago = max(0, bridge.clock.now_ms() - last_ms) / 1000
        yield ok("workers", f"last tick {ago:.1f} s ago: beat, broker and a worker are alive")
        return
    waiting = 0
    if bridge.settings.broker_url is None:
        # The broker is the store: its queue tells which of the two is missing.
        (waiting,) = cast("list[int]", bridge.client.commands([["LLEN", "bridge.control"]]))
    if waiting:
        yield fail(
            "workers", f"no tick for 10 s, and {_many(waiting, 'message')} for a worker", "start `bridge worker`"
        )
    else:
        yield fail(
            "workers", "no tick for 10 s: nothing is polled or delivered", "start `bridge beat` and `bridge worker`"
        )


def _accounts(bridge: Bridge) -> Iterator[Finding]:
    from bridge.accounts import account_names

    accounts = account_names(bridge)
    paused = False
    for account in accounts:
        one = bridge.rate.standing(account)
        if one.refused:
            paused = True
            since = format_duration_ms(max(1000, (bridge.clock.now_ms() - one.since_ms) // 1000 * 1000))
            yield fail(
                "accounts",
                f"{account} has been refused by the provider for {since}, and is only probed: {one.reason}",
                "its sessions wait, and none is lost; what is due is polled once a probe succeeds",
            )
        elif one.pause_ms:
            paused = True
            span = format_duration_ms(max(1000, one.pause_ms // 1000 * 1000))
            failures = f"failure {one.failures} in a row"
            yield warn("accounts", f"{account} is not polled for another {span} ({failures}): {one.reason}")
    if not paused:
        yield ok("accounts", f"none is paused: {', '.join(accounts)}")


def _rejected(bridge: Bridge) -> Iterator[Finding]:
    from bridge.accounts import account_names

    count = sum(1 for account in account_names(bridge) for _ in bridge.tracking.rejected(account))
    if count:
        yield warn(
            "rejected",
            f"{_many(count, 'item')} that senders wanted tracked and could not be",
            "see `bridge rejected list`, and correct the senders",
        )
    else:
        yield ok("rejected", "no items")


def _subscriptions(bridge: Bridge) -> Iterator[Finding]:
    registered = bridge.subscriptions.load().by_id()
    names = list(registered)
    if not names:
        yield warn("subscriptions", "none: changes are recorded, and nobody is told", "`bridge subscriptions add URL`")
        return
    waiting = sum(bridge.queues.lengths(names).values())
    tallies = bridge.queues.tallies(names)
    dead = sum(tally.dead for tally in tallies.values())
    said = f"{_many(len(names), 'subscription')}, {_many(waiting, 'phone')} waiting, {_many(dead, 'dead letter')}"
    limited = {name: tally for name, tally in tallies.items() if tally.limited}
    for name, tally in limited.items():
        yield warn(
            "subscriptions",
            f"{name}: too much waited: {_many(tally.over_backlog + tally.over_kept, 'event')} became dead letters, "
            f"and {_many(tally.dead_dropped, 'dead letter')} were dropped",
            "mend the receiver, or raise BRIDGE_MAX_BACKLOG",
        )
    for name, one in registered.items():
        if one.state is SubscriptionState.FILLING:
            yield warn(
                "subscriptions",
                f"{name} is being filled with past events, or that was cut short: it is told nothing yet",
                f"wait for `bridge subscriptions add` to end; if it was stopped: `bridge subscriptions resume {name}`",
            )
    if dead:
        yield warn("subscriptions", said, "`bridge deliveries list --state dead` shows why")
    else:
        yield ok("subscriptions", said)


def _certificates(bridge: Bridge) -> Iterator[Finding]:
    """Client certificates, of which a receiver that asks for one takes no other."""
    now_ms = bridge.clock.now_ms()
    ends = {
        one.id: one.identity.expires_ms
        for one in bridge.subscriptions.load().by_id().values()
        if one.identity is not None and one.identity.expires_ms
    }
    soon = {name: end_ms for name, end_ms in ends.items() if end_ms < now_ms + CERTIFICATE_WARNS_MS}
    for name, end_ms in soon.items():
        # An id and a secret belong to one subscription: with another certificate it is another one.
        action = "get a new certificate, add a subscription with it, and remove this one"
        if end_ms <= now_ms:
            yield fail("certificates", f"{name}: its client certificate ended on {iso_millis(end_ms)}", action)
        else:
            days = (end_ms - now_ms) / 86_400_000
            yield warn("certificates", f"{name}: its client certificate ends in {days:.1f} days", action)
    if ends and not soon:
        yield ok("certificates", f"{_many(len(ends), 'client certificate')}, none ends within 14 days")


def _log(bridge: Bridge) -> Iterator[Finding]:
    size, most = bridge.log.size(bridge.tracking.accounts()), bridge.settings.log_bytes
    said = f"{_megabytes(size)} of {_megabytes(most)} (BRIDGE_LOG_BYTES)"
    if size > _FULL_LOG * most:
        yield warn("log", f"{said}: its oldest events leave it early", "raise BRIDGE_LOG_BYTES, if memory allows")
    else:
        yield ok("log", said)


BRIDGE_CHECKS: dict[str, Callable[[Bridge], Iterator[Finding]]] = {
    "schema": _schema,
    "store id": _identity,
    "provider": _provider,
    "secret keys": _secrets,
    "workers": _beat,
    "accounts": _accounts,
    "rejected": _rejected,
    "subscriptions": _subscriptions,
    "certificates": _certificates,
    "log": _log,
}


def _maxmemory(server: Server) -> int:
    return int(server.info.get("maxmemory", 0))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.1f} GB"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
