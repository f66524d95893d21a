"""``python -m tests.simulation --seeds 2000 --weeks 2``: many runs, and what they find.

Each run is as its seed: one that fails is run again alone by ``--first SEED --seeds 1``.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.report import Judged, run_one, summary


def main() -> int:
    """Run what was asked for. Returns 1 where anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many runs")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first")
    parser.add_argument("--weeks", type=float, default=2.0, help="how long each lasts, in weeks of its own time")
    parser.add_argument("--processes", type=int, default=1, help="how many at once")
    given = parser.parse_args()
    began = time.monotonic()
    seeds = range(given.first, given.first + given.seeds)
    found = 0
    done: list[Judged] = []
    with ProcessPoolExecutor(given.processes) as pool:
        for one in pool.map(run_one, seeds, [given.weeks] * given.seeds, chunksize=4):
            done.append(one)
            for says in one.found:
                found += 1
                sys.stdout.write(f"seed {one.outcome.seed}: {says}\n")
                sys.stdout.flush()
    sys.stdout.write(summary(done, time.monotonic() - began) + "\n")
    return min(1, found)


if __name__ == "__main__":
    sys.exit(main())
