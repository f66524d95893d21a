"""How many runs went, and what was found in them."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from tests.simulation.judges import judge
from tests.simulation.run import Outcome, Run


class Judged(msgspec.Struct, frozen=True):
    """How a run went, what was found, and the CPU that it took (s)."""

    outcome: Outcome
    found: list[str]
    cpu_s: float


def run_one(seed: int, weeks: float) -> Judged:
    """Run one seed, and judge it."""
    began = time.process_time()
    one = Run(seed, weeks)
    outcome = one.go()
    return Judged(outcome, [str(violation) for violation in judge(one)], time.process_time() - began)


def summary(done: Sequence[Judged], seconds: float) -> str:
    """How far it went."""
    outcomes = [one.outcome for one in done]
    weeks = sum(one.virtual_ms for one in outcomes) / (7 * 86_400_000)
    figures = (
        f"{len(done):,} seeds",
        f"{weeks:,.0f} weeks of virtual time",
        f"{sum(one.events for one in outcomes):,} events",
        f"{sum(one.scripts for one in outcomes):,} scripts",
        f"{sum(one.crashes for one in outcomes):,} crashes",
        f"{sum(one.committed for one in outcomes):,} changes committed",
        f"{sum(one.posts for one in outcomes):,} POSTs",
        f"{sum(len(one.found) for one in done):,} violations",
        f"{sum(one.cpu_s for one in done):,.0f} s of CPU in {seconds:,.0f} s",
    )
    return ", ".join(figures)
