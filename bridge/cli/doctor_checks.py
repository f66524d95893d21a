"""What ``bridge doctor`` asks of the bridge that lives in a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

from bridge.cli.doctor_findings import Finding, Verdict, fail, many, megabytes, ok, warn
from bridge.domain.accounts import DEFAULT_ACCOUNT
from bridge.domain.durations import format_duration_ms
from bridge.domain.events import iso_millis
from bridge.domain.subscriptions import SubscriptionState
from bridge.errors import SecretsUnreadable, StoreEmptied

if TYPE_CHECKING:
    from bridge.wiring import Bridge

CERTIFICATE_WARNS_MS = 14 * 86_400_000
"""How long before a client certificate ends: as long as most authorities take at worst."""

_FULL_LOG = 0.9
"""A part of BRIDGE_LOG_BYTES. Trimming leaves a log a page of events below it."""


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
        yield ok("secret keys", f"open the secrets of {many(len(registered), 'subscription')}")


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
        yield fail("workers", f"no tick for 10 s, and {many(waiting, 'message')} for a worker", "start `bridge worker`")
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
            f"{many(count, 'item')} that senders wanted tracked and could not be",
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
    said = f"{many(len(names), 'subscription')}, {many(waiting, 'phone')} waiting, {many(dead, 'dead letter')}"
    limited = {name: tally for name, tally in tallies.items() if tally.limited}
    for name, tally in limited.items():
        yield warn(
            "subscriptions",
            f"{name}: too much waited: {many(tally.over_backlog + tally.over_kept, 'event')} became dead letters, "
            f"and {many(tally.dead_dropped, 'dead letter')} were dropped",
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
        action = f"get a new one: `bridge subscriptions edit {name} --client-cert F --client-key F`"
        if end_ms <= now_ms:
            yield fail("certificates", f"{name}: its client certificate ended on {iso_millis(end_ms)}", action)
        else:
            days = (end_ms - now_ms) / 86_400_000
            yield warn("certificates", f"{name}: its client certificate ends in {days:.1f} days", action)
    if ends and not soon:
        yield ok("certificates", f"{many(len(ends), 'client certificate')}, none ends within 14 days")


def _log(bridge: Bridge) -> Iterator[Finding]:
    size, most = bridge.log.size(bridge.tracking.accounts()), bridge.settings.log_bytes
    said = f"{megabytes(size)} of {megabytes(most)} (BRIDGE_LOG_BYTES)"
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
