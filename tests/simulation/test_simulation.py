"""Weeks of virtual time, by seeds: what is promised holds, whatever fails meanwhile, and the same seed is the same run.

And that the judges would notice: each mistake that is put into the store on purpose is found.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.judges import judge
from tests.simulation.mistakes import MISTAKES
from tests.simulation.report import run_one
from tests.simulation.run import Run

WEEKS = 2.0
SEEDS = (*range(23), 287)
"""In the last a phone is erased before it is first heard of."""
MOST_SEEDS = 80
"""So many runs may go by before a mistake shows, where another one than the known does by now."""


@pytest.mark.parametrize("first", range(0, len(SEEDS), 6))
def test_what_is_promised_holds_for_weeks_whatever_fails(first: int) -> None:
    done = [run_one(seed, WEEKS) for seed in SEEDS[first : first + 6]]
    assert not [one.found for one in done if one.found]
    for count in ("crashes", "committed", "posts"):
        assert all(getattr(one.outcome, count) for one in done), f"a run without {count} shows nothing"


def test_the_same_seed_is_the_same_run() -> None:
    """In another process too, where sets of texts have another order."""
    first, second, other = run_one(3, 1.5).outcome, run_one(3, 1.5).outcome, run_one(4, 1.5).outcome
    assert first == second
    assert first.trace != other.trace
    asked = "from tests.simulation.report import run_one; print(run_one(3, 1.5).outcome.trace)"
    said = subprocess.run(
        [sys.executable, "-c", asked],
        env={**os.environ, "PYTHONHASHSEED": "77"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert said.stdout.strip() == first.trace


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_judges_notice(mistake: str) -> None:
    spoil, invariant, known = MISTAKES[mistake]
    for seed in (known, *range(MOST_SEEDS)):
        run = Run(seed, WEEKS, spoil)
        run.go()
        if invariant in {violation.invariant for violation in judge(run)}:
            return
    pytest.fail(f"{MOST_SEEDS} runs with {mistake}, and nobody saw it")
