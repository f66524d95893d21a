"""Which sessions go together into one call of the provider."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec

from bridge.domain.status import SessionState

MAX_SESSIONS = 100
"""SessionNoSet.0 to SessionNoSet.99 (the provider's document)."""

MAX_ANSWER_BYTES = 4_000_000
RECEIPT_BYTES = 200
"""One phone's receipt in an answer, about (measured on the provider's example)."""

NEWEST = 0.7
"""The part of a call that what came due last gets, where not all that is due fits: a million sessions that are late do
not keep a one-time password waiting, nor the other way round."""

MAX_ALONE = 5
"""Sessions that the provider refuses are asked for in calls of their own: so many along with the others' call."""

T = TypeVar("T")


class Packed(msgspec.Struct, frozen=True):
    """``calls`` to make one after the other, and the sessions to hand back."""

    calls: list[list[str]]
    rest: list[str]


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """How many sessions to claim of a shard: of those due for longest, of those due last, of those due soon."""

    oldest: int
    newest: int
    soon: int


def expected_phones(state: SessionState) -> int:
    """How many phones an answer for this session may hold: as announced, as seen, and at least one."""
    return max(1, state.expected_count or 0, len(state.phones) + len(state.awaiting))


def pack_calls(sessions: Iterable[tuple[str, SessionState]]) -> Packed:
    """Split sessions, in order, into those that fit one call, those asked for alone, and those to hand back.

    A call holds at most 100, and no more expected phones than keep its answer under 4 MB; its first session always
    fits, however large. One that the provider refused spoils no call of others.
    """
    room = MAX_ANSWER_BYTES // RECEIPT_BYTES
    chosen: list[str] = []
    alone: list[list[str]] = []
    rest: list[str] = []
    for session_no, state in sessions:
        if state.refused and len(alone) < MAX_ALONE:
            alone.append([session_no])
            continue
        phones = expected_phones(state)
        if not state.refused and (not chosen or (len(chosen) < MAX_SESSIONS and phones <= room)):
            chosen.append(session_no)
            room -= phones
        else:
            rest.append(session_no)
    return Packed([chosen, *alone] if chosen else alone, rest)


def spread(counts: Sequence[int], room: int, start: int) -> dict[int, int]:
    """How many to take of each shard that has ``counts``: the same of each while it lasts, ``room`` in all.

    Whole ones that are left over go to the shards from ``start`` on, which the caller draws: none is always last.
    """
    shares = dict.fromkeys(range(len(counts)), 0)
    left = min(room, sum(counts))
    while left:
        open_ = [shard for shard in shares if shares[shard] < counts[shard]]
        each = left // len(open_)
        if not each:
            ahead = sorted(open_, key=lambda shard: (shard - start) % len(counts))
            for shard in ahead[:left]:
                shares[shard] += 1
            break
        for shard in open_:
            taken = min(each, counts[shard] - shares[shard])
            shares[shard] += taken
            left -= taken
    return {shard: share for shard, share in shares.items() if share}


def wanted(counts: Sequence[int], start: int) -> dict[int, Wanted]:
    """What to claim of each shard that has ``counts`` due, for a call; ``start`` is drawn by the caller.

    Where more is due than fits, the newest and the oldest; where there is room, what comes due soon.
    """
    shares = spread(counts, MAX_SESSIONS, start)
    room = MAX_SESSIONS - sum(shares.values())
    if room:
        soon = spread([room] * len(counts), room, start)
        return {shard: Wanted(shares.get(shard, 0), 0, soon.get(shard, 0)) for shard in range(len(counts))}
    chosen = {}
    for shard, share in shares.items():
        newest = round(share * NEWEST) if share < counts[shard] else 0
        chosen[shard] = Wanted(share - newest, newest, 0)
    return chosen


def in_turns(newest_first: Sequence[T]) -> list[T]:
    """An order in which the newest get 7 places of 10 and the oldest 3, so that both fit a call that phones fill."""
    left = list(reversed(newest_first))
    ordered: list[T] = []
    oldest = 0
    while oldest < len(left):
        if len(ordered) % 10 in {2, 5, 8}:
            ordered.append(left[oldest])
            oldest += 1
        else:
            ordered.append(left.pop())
    return ordered
