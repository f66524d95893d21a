"""When a session is polled next."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.domain.status import OPEN_SESSION_AGES_MS, SessionState, is_quiet

_GRID = 0.05
_EARLY = 0.9
"""The part of an age from which a poll counts as the one at that age: its spread may put it that early."""

LONGEST_SOON_MS = 5 * 60_000
"""How far ahead a call with room looks for sessions to take along."""

_FIRST_REFUSAL_MS = 3_600_000
_LONGEST_REFUSAL_MS = 24 * 3_600_000


def first_poll_ms(state: SessionState, ages_ms: Sequence[int], now_ms: int, chance: float) -> int:
    """When a session just tracked is polled first (Unix ms): at the schedule's first age, or now if that passed."""
    due_ms = state.sent_ms + _spread(ages_ms[0], chance)
    return max(now_ms, due_ms)


def next_poll_ms(
    state: SessionState, ages_ms: Sequence[int], give_up_ms: int, now_ms: int, chance: float
) -> int | None:
    """When a session just polled is polled again (Unix ms), None once it has settled.

    ``ages_ms`` are ages since sending; steps that passed meanwhile count as made, and after the last one its gap
    repeats. An age is spread by ±10 % (``chance`` in [0, 1)) and rounded up to a grid of 5 % of itself, so that
    sessions come due together and calls fill; a repeated gap likewise, of the gap. The deadline is a step of its
    own: giving up needs an answer at or after it. A session without an expectation whose phones are all final is
    asked at four late ages instead.
    """
    if state.settled_ms:
        return None
    age_ms = now_ms - state.sent_ms
    ages_ms = OPEN_SESSION_AGES_MS if is_quiet(state) else ages_ms
    # A step that its own spread put a little early must not be made twice.
    step_ms = next((step_ms for step_ms in ages_ms if step_ms * _EARLY > age_ms), None)
    if step_ms is not None:
        due_ms = _round_up(state.sent_ms + _spread(step_ms, chance), step_ms)
    else:
        # Counted from now: ±10 % of the age would be hours for a gap of minutes, and often in the past.
        gap_ms = ages_ms[-1] - ages_ms[-2] if len(ages_ms) > 1 else ages_ms[-1]
        due_ms = _round_up(now_ms + _spread(gap_ms, chance), gap_ms)
    due_ms = max(due_ms, now_ms + 1)
    deadline_ms = state.sent_ms + give_up_ms
    return min(due_ms, deadline_ms) if now_ms < deadline_ms else due_ms


def rides_along(state: SessionState, ages_ms: Sequence[int], due_ms: int, now_ms: int) -> bool:
    """Whether a session that is due at ``due_ms`` is better asked for now, in a call that is made anyhow.

    Where that is at most a grid's width ahead, 5 % of its age, and where asking now counts as the step that it is due
    for: else it would only be asked for twice.
    """
    age_ms = now_ms - state.sent_ms
    if due_ms - now_ms > _GRID * age_ms or state.refused:
        return False
    polled_age_ms = state.polled_ms - state.sent_ms if state.polled_ms else -1
    ages_ms = OPEN_SESSION_AGES_MS if is_quiet(state) else ages_ms
    return any(polled_age_ms < step_ms * _EARLY <= age_ms for step_ms in ages_ms)


def refused_poll_ms(state: SessionState, now_ms: int, chance: float) -> int:
    """When a session that the provider refuses to be asked for is asked for again (Unix ms): half its age later.

    After an hour at least and a day at most, ±10 %: that one session's fault costs few calls, and still ends by itself.
    """
    pause_ms = min(_LONGEST_REFUSAL_MS, max(_FIRST_REFUSAL_MS, (now_ms - state.sent_ms) // 2))
    return now_ms + _spread(pause_ms, chance)


def _spread(age_ms: int, chance: float) -> int:
    return round(age_ms * (0.9 + 0.2 * chance))


def _round_up(due_ms: int, age_ms: int) -> int:
    grid_ms = max(1, round(age_ms * _GRID))
    return -(-due_ms // grid_ms) * grid_ms
