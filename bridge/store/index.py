"""What is due now, in every shard, and the wake-ups that let only one message ask for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import cast

import msgspec

from bridge.domain.rate import Slowed
from bridge.errors import BridgeError, Unreachable
from bridge.store import keys
from bridge.store.client import Call, Client, Request, Steps

TICK_KEPT_MS = 10_000
"""Ten ticks: a worker that is busy, or being replaced, is not taken for dead."""

_CLOCK_KEPT_S = 10.0
_RATE_KEPT_MS = 3_600_000


class DueNow(msgspec.Struct, frozen=True):
    """What the heads of the shards' indexes name: accounts to poll, and (subscription, shard) with due lanes.

    ``registry``, where it was asked for, is another once any change of the registry is to be seen.
    """

    accounts: frozenset[str]
    queues: tuple[tuple[str, int], ...]
    registry: bytes = b""


def _due_now(replies: Sequence[object]) -> DueNow:
    accounts: set[str] = set()
    queues: list[tuple[str, int]] = []
    for shard, reply in enumerate(replies):
        for member in cast("list[bytes]", reply):
            # One that is no text was not written by us: there is nothing to serve, and the others are to be.
            kind, _, name = member.decode(errors="replace").partition(":")
            if "\ufffd" in name:
                continue
            if kind == "p":
                accounts.add(name)
            else:
                queues.append((name, shard))
    return DueNow(frozenset(accounts), tuple(queues))


class Index:
    """Reads the shards' indexes; every script that moves a due time keeps them."""

    def __init__(self, client: Client, shards: int) -> None:
        self._client = client
        self._shards = shards

    def due(self, now_ms: int, limit: int = 128) -> DueNow:
        """What is due at ``now_ms``, in one round trip, at most ``limit`` due-sets a shard."""
        return _due_now(self._client.ask(self._heads(now_ms, limit)))

    def looking(self, now_ms: int, limit: int) -> Steps[DueNow]:
        """The steps of ``due``, with the registry's version."""
        *replies, registry = yield [*self._heads(now_ms, limit), ["GET", keys.registry(self._shards - 1)]]
        version = cast("bytes | None", registry) or keys.NO_REGISTRY
        return msgspec.structs.replace(_due_now(replies), registry=version)

    def _heads(self, now_ms: int, limit: int) -> list[Request]:
        return [
            ["ZRANGEBYSCORE", keys.index(shard), "-inf", now_ms, "LIMIT", 0, limit] for shard in range(self._shards)
        ]

    def note_tick(self, now_ms: int) -> None:
        """Leave word, for 10 s, that a tick ran: beat, the broker and a worker are alive."""
        try:
            # Plain first: an idle bridge does hardly anything else, and a script is two commands to the server.
            self._client.commands([["SET", keys.BEAT, now_ms, "PX", TICK_KEPT_MS]])
        except Unreachable:
            raise
        except BridgeError:
            self._client.run([_mark(keys.BEAT, now_ms, TICK_KEPT_MS)])

    def last_tick_ms(self) -> int | None:
        """When the last tick ran (Unix ms, the server's), None if that is longer ago than 10 s."""
        (reply,) = self._client.commands([["GET", keys.BEAT]])
        return None if reply is None else int(cast("bytes", reply))


class Wakes:
    """One message at a time: a wake-up is sent only by whoever sets its key, and whoever serves it keeps it set.

    The server removes the key, then looks once more before it ends: what came due before that look is seen by it,
    what comes after finds no key and sends a message. A crash leaves the key for its few seconds at most.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def take(self, what: str, ttl_ms: int) -> bool:
        """Whether the caller is to send the message."""
        (taken,) = self._client.run([_mark(keys.wake(what), 1, ttl_ms, "new")])
        return taken == 1

    def keep(self, what: str, ttl_ms: int) -> None:
        """Go on serving: nobody need send a message for the next ``ttl_ms``."""
        self._client.run([_mark(keys.wake(what), 1, ttl_ms)])

    def drop(self, what: str) -> None:
        """Stop serving."""
        self._client.commands([["DEL", keys.wake(what)]])


def _mark(key: str, value: int, ttl_ms: int, only_if: str = "any") -> Call:
    # A script, because a plain SET is refused with memory short, and delivery has to be woken then above all.
    return Call("set_mark", [key], [value, ttl_ms, only_if])


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How an account stands with the provider.

    No call is made for another ``pause_ms``, after ``failures`` in a row since ``since_ms`` (Unix ms), the last of
    them for ``reason``; ``refused``: the account itself is, and somebody has to do something. ``slowed`` is the rate
    that the provider took.
    """

    pause_ms: int = 0
    failures: int = 0
    since_ms: int = 0
    reason: str = ""
    refused: bool = False
    slowed: Slowed | None = None


class RateStore:
    """An account's calls of the provider: one bucket of them, shared by all workers, and why there are none."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def take(self, account: str, per_second: float) -> int:
        """Take a call. Returns 0 if it may be made, else in how many milliseconds to ask again."""
        burst = max(1.0, per_second)
        (wait_ms,) = self._client.run([Call("take_token", [keys.rate(account)], [repr(per_second), repr(burst)])])
        return cast("int", wait_ms)

    def standing(self, account: str) -> Standing:
        """How the account stands now."""
        time, found = self._client.commands(
            [
                ["TIME"],
                ["HMGET", keys.rate(account), "until", "failures", "since", "reason", "refused", "slow", "slow_at"],
            ]
        )
        seconds, micros = cast("list[bytes]", time)
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        until, failures, since, reason, refused, slow, slow_at = cast("list[bytes | None]", found)
        return Standing(
            pause_ms=max(0, int(until or 0) - now_ms),
            failures=int(failures or 0),
            since_ms=int(since or 0),
            reason=(reason or b"").decode(),
            refused=refused is not None,
            slowed=None if slow is None or slow_at is None else Slowed(float(slow), int(slow_at)),
        )

    def pause(self, account: str, reason: str, pause_ms: int, *, refused: bool = False) -> tuple[int, bool]:
        """Make no call of this account for a while; ``refused`` where it is the account itself that is.

        Returns how many failures came since its last success, and whether this is the first to say that it is refused.
        """
        call = Call("pause_calls", [keys.rate(account)], [pause_ms, reason, int(refused)])
        ((failures, first),) = cast("list[tuple[int, int]]", self._client.run([call]))
        return failures, bool(first)

    def paused(self, account: str) -> tuple[int, int, str]:
        """(ms until calls go on, failures since the last success, reason); 0, 0 and "" where all is well."""
        one = self.standing(account)
        return one.pause_ms, one.failures, one.reason

    def slow(self, account: str, slowed: Slowed) -> None:
        """Make calls more slowly."""
        name = keys.rate(account)
        self._client.commands(
            [["HSET", name, "slow", repr(slowed.rate), "slow_at", slowed.at_ms], ["PEXPIRE", name, _RATE_KEPT_MS]]
        )

    def resume(self, account: str) -> None:
        """Forget the failures: a call succeeded."""
        self._client.commands([["HDEL", keys.rate(account), "until", "failures", "since", "reason", "refused"]])


class Clock:
    """The server's time, carried on by this machine's monotonic clock: a wall clock may be an hour off.

    The server is asked again every 10 s. Claims tell its time too, but a clock that is behind sees nothing due and
    claims nothing: after the machine slept, or the server's clock was set, it would stay behind.

    What a reply says is of a time before it arrived, and that may be seconds ago: while a master is replaced, or where
    the caller had other things to do. So a claim's time only ever sets the clock forward, and an answer sets it back by
    more than it took alone.
    """

    def __init__(self, client: Client, ticking: Callable[[], float] = monotonic) -> None:
        self._client = client
        self._ticking = ticking
        # One value, replaced whole: threads share the clock.
        self._noted: tuple[float, int] | None = None

    def now_ms(self) -> int:
        """Unix milliseconds, as the server counts them."""
        ticked = self._ticking()
        noted = self._noted
        if noted is not None and ticked - noted[0] <= _CLOCK_KEPT_S:
            return _carried(noted, ticked)
        return self.ask_ms()

    def ask_ms(self) -> int:
        """The same, asked of the server now: what it has recorded until now is no later than this.

        ``now_ms`` may be behind that by what the last answer took to arrive.
        """
        began = self._ticking()
        (reply,) = self._client.commands([["TIME"]])
        ended = self._ticking()
        seconds, micros = cast("Sequence[bytes]", reply)
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        noted = self._noted
        if noted is not None and 0 < _carried(noted, ended) - now_ms <= (ended - began) * 1000:
            now_ms = _carried(noted, ended)
        self._noted = ended, now_ms
        return now_ms

    def note(self, now_ms: int) -> None:
        """Set the clock by a time that the server gave a while ago."""
        ticked, noted = self._ticking(), self._noted
        if noted is None or now_ms > _carried(noted, ticked):
            self._noted = ticked, now_ms


def _carried(noted: tuple[float, int], ticked: float) -> int:
    return noted[1] + int((ticked - noted[0]) * 1000)
