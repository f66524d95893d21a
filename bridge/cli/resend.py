"""``bridge resend``: events once more, by their ids, or all of a time for one subscription."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from bridge.cli.common import opened, since_ms
from bridge.cli.output import progress, show
from bridge.domain.deliveries import DeadLetter
from bridge.domain.events import event_id, unpack
from bridge.errors import BridgeError, NotFound, UsageError

if TYPE_CHECKING:
    from bridge.domain.subscriptions import Subscription
    from bridge.store.resending import Again, Resent
    from bridge.wiring import Bridge

_AT_ONCE = 200
_is_event_id = re.compile(r"evt_[a-z2-7]{26}").fullmatch


class State(StrEnum):
    """What became of the deliveries to send again."""

    DEAD = "dead"


class _Wish(msgspec.Struct, frozen=True):
    """What to send again: these ids, or all if there are none; observed within ``span`` (Unix ms); in this state."""

    ids: frozenset[str]
    span: tuple[int, int]
    state: State | None

    def includes(self, target: Subscription, position: bytes, record: bytes) -> bool:
        if not self.span[0] <= int.from_bytes(position[:8]) < self.span[1]:
            return False
        return not self.ids or (bool(record) and event_id(target.account, unpack(record)) in self.ids)


class _Done(msgspec.Struct):
    """``lost``: neither the log nor the dead letter has the event any more; ``erased``: nor was it to be kept."""

    found: int = 0
    queued: int = 0
    waiting: int = 0
    no_room: int = 0
    lost: int = 0
    erased: int = 0


def resend(
    event: Annotated[list[str] | None, typer.Argument(metavar="EVENT…", help="Ids of events (evt_…).")] = None,
    *,
    subscription: Annotated[str | None, typer.Option(metavar="ID", help="To this subscription alone.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="T", help="All observed from then on: how long ago (1h), or ISO 8601.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="T", help="And before then. Default: now.")] = None,
    state: Annotated[State | None, typer.Option(help="Of those, what is in this state alone.")] = None,
    rate: Annotated[float | None, typer.Option(metavar="N", min=0.1, help="At most so many a second.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would be sent, and send nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object: the counts.")] = False,
) -> None:
    """Send events again, with the same ids and bytes. They keep no order, neither among themselves nor with others.

    By ids they go to every subscription of their account, or to one; a time needs the subscription. What is waiting
    already is not sent twice. A dead letter that is sent again is a dead letter no more.

    \b
    bridge resend evt_abcdefghijklmnopqrstuvwxyz
    bridge resend --subscription sub_abcdefghijklmnop --since 2h --state dead --dry-run
    """
    wanted = frozenset(event or [])
    _check(wanted, subscription, since, until)
    done = _Done()
    with opened() as bridge, progress("sending again") as advance:
        now_ms = bridge.clock.now_ms()
        span = 0 if since is None else since_ms(since, now_ms), now_ms if until is None else since_ms(until, now_ms)
        for one in _targets(bridge, subscription, by_time=not wanted, state=state):
            found = _found(bridge, one, _Wish(wanted, span, state), done)
            if dry_run:
                advance(sum(1 for _ in found))
            else:
                for batch in _batches(found, rate):
                    _count(done, bridge.resending.put(one.id, batch))
                    advance(len(batch))
    if wanted and not done.found:
        raise NotFound("no such event: it never was, or is older than BRIDGE_KEEP_EVENTS and BRIDGE_KEEP_DEAD")
    show({**msgspec.structs.asdict(done), "dry_run": dry_run}, json=json)
    if done.no_room:
        raise BridgeError(f"{done.no_room} events had no room: too many wait (BRIDGE_MAX_BACKLOG); repeat this later")


def _check(wanted: frozenset[str], subscription: str | None, since: str | None, until: str | None) -> None:
    wrong = sorted(name for name in wanted if not _is_event_id(name))
    if wrong:
        raise UsageError(f"{wrong[0]!r} is no event's id: those are evt_ and 26 characters")
    if wanted and (since or until):
        raise UsageError("give ids of events, or a time, not both")
    if not wanted and not (subscription and since):
        raise UsageError("give ids of events, or --subscription with --since")


def _targets(bridge: Bridge, subscription: str | None, *, by_time: bool, state: State | None) -> Iterator[Subscription]:
    if subscription is None:
        yield from (one for one in bridge.subscriptions.load().by_id().values() if not one.implicit)
        return
    found = bridge.subscriptions.get(subscription)
    if found.implicit and by_time and state is None:
        # The log does not say which sessions named its URL.
        raise UsageError(f"{found.id} hears of some sessions alone: give ids of events, or --state dead")
    yield found


def _found(bridge: Bridge, target: Subscription, wish: _Wish, done: _Done) -> Iterator[Again]:
    """What is to be sent to one subscription: its dead letters, then what else the log has."""
    from bridge.store.resending import Again

    letters: dict[tuple[int, bytes], list[DeadLetter]] = {}
    for letter in bridge.queues.dead_letters(target.id):
        if wish.includes(target, letter.position, letter.record):
            letters.setdefault((letter.shard, letter.position), []).append(letter)
    done.found += len(letters)
    missing: dict[int, list[bytes]] = {}
    for (shard, position), group in letters.items():
        if not any(letter.record for letter in group):
            missing.setdefault(shard, []).append(position)
    logged = bridge.log.fetch(target.account, missing)
    gone = [(shard, place) for shard, group in missing.items() for place in group if (shard, place) not in logged]
    erased = bridge.erased_places.among(target.account, gone)
    for place, group in letters.items():
        record = next((letter.record for letter in group if letter.record), None) or logged.get(place)
        if record is None:
            done.erased += place in erased
            done.lost += place not in erased
        else:
            yield Again(*place, record, tuple(letter.id for letter in group))
    if wish.state is State.DEAD:
        return
    for one in bridge.log.read(target.account, since_ms=wish.span[0]):
        if int.from_bytes(one.position[:8]) >= wish.span[1]:
            return
        if (one.shard, one.position) not in letters and wish.includes(target, one.position, one.record):
            done.found += 1
            yield Again(one.shard, one.position, one.record)


def _batches(found: Iterable[Again], rate: float | None) -> Iterator[list[Again]]:
    """Batches, no sooner than ``rate`` events a second allow."""
    walk = iter(found)
    size = _AT_ONCE if rate is None else max(1, min(_AT_ONCE, int(rate)))
    while batch := list(islice(walk, size)):
        yield batch
        if rate is not None:
            time.sleep(len(batch) / rate)


def _count(done: _Done, sent: Resent) -> None:
    done.queued += sent.queued
    done.waiting += sent.waiting
    done.no_room += sent.no_room
