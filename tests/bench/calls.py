"""How many polls a session takes until it settles, and how full calls are: schedule and packing alone, simulated.

No store, no provider, no clock of the machine's: a virtual one, and the rules of ``bridge.domain``.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right, insort
from collections.abc import Sequence
from itertools import accumulate

import msgspec

from bridge.domain.durations import parse_durations_ms
from bridge.domain.packing import MAX_SESSIONS
from bridge.domain.receipts import Receipt
from bridge.domain.schedule import LONGEST_SOON_MS, first_poll_ms, next_poll_ms, rides_along
from bridge.domain.status import SessionState, track, transition
from bridge.domain.tracking import SessionRequest
from bridge.settings import describe
from tests.bench.figures import Goal, Measured, by_name, ratio

_START = 1_795_423_107_000
_HOUR = 3_600_000
_GIVE_UP = 72 * _HOUR
FATES = ((0.60, 10_000), (0.25, 30_000), (0.08, 60_000), (0.03, 300_000), (0.02, 1_200_000), (0.01, 6 * _HOUR))
"""The part of sessions that are final by an age (ms); the last hundredth never is (the design's limits)."""


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """Sessions to simulate; of those that are sent through one account, how many a second, for how many seconds."""

    sessions: int = 20_000
    per_second: float = 20.0
    seconds: int = 1_800


def schedule() -> tuple[int, ...]:
    """The default ``BRIDGE_POLL_SCHEDULE``."""
    return parse_durations_ms(next(row.default for row in describe() if row.name == "BRIDGE_POLL_SCHEDULE"))


def measure(sizes: Sizes) -> Measured:
    """Simulate; the same seed each time."""
    ages = schedule()
    with_count = (polls_per_session(ages, sizes.sessions, phone_count=1),)
    without = (polls_per_session(ages, sizes.sessions, phone_count=None),)
    minutely = (polls_each_minute(sizes.sessions),)
    figures = {
        "each when it is due": traffic(ages, sizes, alone=True),
        "with those due soon": traffic(ages, sizes, alone=False),
    }
    return Measured(
        about={"sessions": f"{sizes.sessions:,}", "sent": f"{sizes.per_second:g}/s for {sizes.seconds:,} s"},
        figures={who: by_name([found]) for who, found in figures.items()},
        goals=(
            Goal(what="calls: polls of a settled session, with phone_count", unit="", samples=with_count, wanted=2),
            Goal(what="calls: polls of a settled session, without", unit="", samples=without, wanted=7),
            Goal(
                what="calls: fewer polls than one who asks each minute",
                unit="×",
                samples=ratio(minutely, with_count),
                better="more",
                reference="each minute, until final or given up",
            ),
        ),
    )


def final_age_ms(rng: random.Random) -> float:
    """When a session's phone is final (ms after sending): within its band at any moment alike; maybe never."""
    draw = rng.random()
    shares = list(accumulate(share for share, _ in FATES))
    place = bisect_right(shares, draw)
    if place == len(FATES):
        return float("inf")
    begin = FATES[place - 1][1] if place else 0
    return begin + rng.random() * (FATES[place][1] - begin)


def polls_per_session(ages: Sequence[int], sessions: int, phone_count: int | None) -> float:
    """The mean number of polls of a one-phone session, from tracking to settling, polled when it is due."""
    rng = random.Random(1)
    polls = 0
    for _ in range(sessions):
        final = final_age_ms(rng)
        state = track(None, SessionRequest("s", phone_count=phone_count), _START)
        due: int | None = first_poll_ms(state, ages, _START, rng.random())
        while due is not None:
            polls += 1
            state = _answered(state, final, due)
            due = next_poll_ms(state, ages, _GIVE_UP, due, rng.random())
    return polls / sessions


def polls_each_minute(sessions: int) -> float:
    """The same, of a poller that asks for every session each minute until it is final, or for as long as we do."""
    rng = random.Random(1)
    return sum(max(1.0, math.ceil(min(final_age_ms(rng), _GIVE_UP) / 60_000)) for _ in range(sessions)) / sessions


def traffic(ages: Sequence[int], sizes: Sizes, *, alone: bool) -> dict[str, float]:
    """Calls of an account that has time for them all, at 5 a second; ``alone``: nothing rides along."""
    rng = random.Random(2)
    count = int(sizes.per_second * sizes.seconds)
    sent = sorted(_START + rng.randrange(sizes.seconds * 1000) for _ in range(count))
    states: dict[int, SessionState] = {}
    finals: dict[int, float] = {}
    dues: list[tuple[int, int]] = []
    calls = asked = 0
    now = _START
    place = 0
    while place < count or dues:
        while place < count and sent[place] <= now:
            states[place] = track(None, SessionRequest("s", phone_count=1), sent[place])
            finals[place] = final_age_ms(rng)
            insort(dues, (first_poll_ms(states[place], ages, now, rng.random()), place))
            place += 1
        head = bisect_right(dues, (now, count))
        if not head:
            now = min(dues[0][0] if dues else sent[place], sent[place] if place < count else dues[0][0])
            continue
        chosen = dues[:MAX_SESSIONS] if head >= MAX_SESSIONS else dues[:head]
        if not alone and len(chosen) < MAX_SESSIONS:
            window = dues[head : min(head + MAX_SESSIONS - len(chosen), bisect_right(dues, (now + LONGEST_SOON_MS, 0)))]
            chosen = chosen + [one for one in window if rides_along(states[one[1]], ages, one[0], now)]
        taken = set(chosen)
        dues = [one for one in dues[: head + MAX_SESSIONS] if one not in taken] + dues[head + MAX_SESSIONS :]
        calls += 1
        asked += len(chosen)
        for _, one in chosen:
            states[one] = _answered(states[one], finals[one], now)
            due = next_poll_ms(states[one], ages, _GIVE_UP, now, rng.random())
            if due is None:
                del states[one]
            else:
                insort(dues, (due, one))
        now += 200
    return {"calls": calls, "sessions a call": asked / calls, "polls a session": asked / count}


def _answered(state: SessionState, final_ms: float, now_ms: int) -> SessionState:
    heard = []
    if now_ms - state.sent_ms >= final_ms:
        heard = [Receipt("18500000001", "", "Success", "DELIVRD", "", 1, 1)]
    return transition(state, heard, now_ms, _GIVE_UP).state
