"""``python -m tests.simulation --seeds 2000 --weeks 2``: many runs, and what they find.

Each run is as its seed: one that fails is run again alone by ``--first SEED --seeds 1``.
"""

from __future__ import annotations

import argparse
import sys
import time
from multiprocessing import get_context

import msgspec

from tests.simulation.judges import judge
from tests.simulation.run import Outcome, Run


class Judged(msgspec.Struct, frozen=True):
    """How a run went, what was found, and the CPU that it took (s)."""

    outcome: Outcome
    found: list[str]
    cpu_s: float


def run(job: tuple[int, float]) -> Judged:
    """Run one seed, and judge it."""
    seed, weeks = job
    began = time.process_time()
    one = Run(seed, weeks)
    outcome = one.go()
    return Judged(outcome, [str(violation) for violation in judge(one)], time.process_time() - began)


def main() -> int:
    """Run what was asked for. Returns 1 where anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many runs")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first")
    parser.add_argument("--weeks", type=float, default=2.0, help="how long each lasts, in weeks of its own time")
    parser.add_argument("--processes", type=int, default=1, help="how many at once")
    given = parser.parse_args()
    began = time.monotonic()
    jobs = [(seed, given.weeks) for seed in range(given.first, given.first + given.seeds)]
    found = 0
    done: list[Judged] = []
    with get_context("spawn").Pool(given.processes) as pool:
        for one in pool.imap_unordered(run, jobs, chunksize=4):
            done.append(one)
            for says in one.found:
                found += 1
                sys.stdout.write(f"seed {one.outcome.seed}: {says}\n")
    sys.stdout.write(summary(done, time.monotonic() - began) + "\n")
    return min(1, found)


def summary(done: list[Judged], seconds: float) -> str:
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


if __name__ == "__main__":
    sys.exit(main())
