"""What a benchmark found: samples by round, their median and spread, and targets that hold or are missed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

Samples = tuple[float, ...]
Better = Literal["less", "more"]


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """A figure that says how good something is, one sample a round.

    ``wanted`` is its target (None: it is only shown) and ``better`` on which side of it is good; ``reference`` is who
    it is compared with, measured in the same round. ``every``: each round must hold, not the median alone.
    """

    what: str
    unit: str
    samples: Samples
    wanted: float | None = None
    better: Better = "less"
    reference: str = ""
    every: bool = False

    @property
    def counts(self) -> float:
        """The sample that is judged: the median, or the worst one."""
        if self.every:
            return worst(self.samples, self.better)
        return median(self.samples)

    @property
    def holds(self) -> bool | None:
        """None without a target."""
        if self.wanted is None:
            return None
        return self.counts <= self.wanted if self.better == "less" else self.counts >= self.wanted

    @property
    def share(self) -> float | None:
        """How much of the target is met: 1 just so, 2 twice as good; None without one, or where it is zero."""
        if not self.wanted or self.counts <= 0:
            return None
        return self.wanted / self.counts if self.better == "less" else self.counts / self.wanted

    @property
    def target(self) -> str:
        """As a table has it."""
        if self.wanted is None:
            return ""
        sign = "" if self.wanted == 0 else "≤ " if self.better == "less" else "≥ "
        return f"{sign}{shown(self.wanted)} {self.unit}".rstrip()

    @property
    def verdict(self) -> str:
        """``holds``, ``missed, by 1.6 ×``, or nothing without a target."""
        if self.holds is None:
            return ""
        if self.holds:
            return "holds"
        return f"**missed**, by {shown(1 / self.share)} ×" if self.share else "**missed**"


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One benchmark's whole result. ``figures`` are samples by who was measured and what; sizes and such in
    ``about``; ``references`` are those of them that are no code of ours; ``took_s`` is how long it took.
    """

    about: dict[str, str]
    figures: dict[str, dict[str, Samples]]
    goals: tuple[Goal, ...]
    references: tuple[str, ...] = ()
    took_s: float = 0.0

    def of(self, who: str, what: str) -> Samples:
        """The samples of one figure."""
        return self.figures[who][what]


def median(samples: Sequence[float]) -> float:
    """The middle one; of an even number, the mean of the two in the middle."""
    return float(statistics.median(samples))


def worst(samples: Sequence[float], better: Better) -> float:
    """The one that is furthest from good."""
    return max(samples) if better == "less" else min(samples)


def by_name(rounds: Sequence[Mapping[str, float]]) -> dict[str, Samples]:
    """The samples of each figure, in the order of the rounds."""
    return {name: tuple(one[name] for one in rounds) for name in rounds[0]}


def ratio(ours: Samples, theirs: Samples, percent: float = 1.0) -> Samples:
    """Round by round: both of a round met the same machine."""
    return tuple(percent * one / other for one, other in zip(ours, theirs, strict=True))


def total(*parts: Samples) -> Samples:
    """Round by round."""
    return tuple(map(sum, zip(*parts, strict=True)))


def quantiles(took: Sequence[float]) -> dict[str, float]:
    """p50, p99 and worst of waits in ms, named for a table."""
    ascending = sorted(took)
    return {
        "p50 ms": ascending[len(ascending) // 2],
        "p99 ms": ascending[len(ascending) * 99 // 100],
        "worst ms": ascending[-1],
    }


def shown(value: float) -> str:
    """Three digits that count, and never an exponent."""
    if not math.isfinite(value):
        return str(value)
    rounded = float(f"{value:.3g}")
    return f"{value:,.0f}" if abs(rounded) >= 100 else f"{rounded:.10g}"


def spread(samples: Sequence[float]) -> str:
    """From the least to the most, where there is more than one."""
    if len(set(samples)) < 2:
        return ""
    return f"{shown(min(samples))} – {shown(max(samples))}"
