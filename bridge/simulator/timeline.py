"""What becomes of one phone's SMS, step by step, and where in it a moment lies."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated

import msgspec


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A status the provider reports from ``delay`` seconds after sending (scenario seconds: see ``time_scale``).

    ``result``, ``code`` and ``description`` are ReceiptResult, ReceiptCode and ReceiptDesc, sent as they stand.
    """

    result: Annotated[str, msgspec.Meta(min_length=1)]
    code: str = ""
    description: str = ""
    delay: Annotated[float, msgspec.Meta(ge=0)] = 0.0


Timeline = tuple[Step, ...]
"""Steps in the order of their delays. Before the first, the provider has no receipt of the phone."""

Moments = tuple[tuple[float, Step], ...]
"""A timeline that has begun: each step with the Unix time (seconds) from which it is reported."""

NEVER = float("inf")


def begin(timeline: Iterable[Step], at: float, time_scale: float) -> Moments:
    """The moments of a timeline that begins at ``at`` (Unix seconds), compressed by ``time_scale``."""
    return tuple((at + step.delay / time_scale, step) for step in timeline)


def current(moments: Moments, now: float) -> tuple[tuple[float, Step] | None, float]:
    """The moment that ``now`` falls into, None before the first, and when the next one begins (NEVER after all)."""
    reached: tuple[float, Step] | None = None
    for moment in moments:
        if moment[0] > now:
            return reached, moment[0]
        reached = moment
    return reached, NEVER


def restart(moments: Moments, timeline: Iterable[Step], at: float, time_scale: float) -> Moments:
    """What was reported until ``at`` stays; from then on another timeline is followed."""
    past = tuple(moment for moment in moments if moment[0] <= at)
    return past + begin(timeline, at, time_scale)


def is_ordered(timeline: Timeline) -> bool:
    """Whether no step comes before the one above it."""
    return all(earlier.delay <= later.delay for earlier, later in pairwise(timeline))
