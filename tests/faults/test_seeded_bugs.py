"""A checker that never failed proves nothing: each invariant is broken inside a worker, and the break must be seen."""

from __future__ import annotations

import pytest

from bridge.cli.family import Family
from tests.faults.checker import check
from tests.faults.inside.bugs import BREAKS, BUGS
from tests.faults.run import Plan, Run, play

_SMALL = Plan(sessions=20, per_s=10, workers=1, words_over_s=2, applications=("well", "moody"), web=False)
_FORBIDDEN = ("well", "forbidden")


def plan_for(bug: str) -> Plan:
    """What brings a mistake to light."""
    return Plan(
        sessions=_SMALL.sessions,
        per_s=_SMALL.per_s,
        words_over_s=_SMALL.words_over_s,
        workers=1,
        web=False,
        bugs=(bug,),
        applications=_FORBIDDEN if BREAKS[bug] == "I9" else _SMALL.applications,
        neighbours=BREAKS[bug] == "I7",
        # What is forgotten is never done: there is no use in waiting for it for long.
        patience_s=20.0,
    )


def test_each_invariant_has_a_mistake_that_breaks_it() -> None:
    assert {*BREAKS.values()} == {f"I{number}" for number in range(1, 11)}
    assert BREAKS.keys() == BUGS.keys()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", BUGS)
def test_a_mistake_is_caught(bug: str) -> None:
    with Family("faults", handle_signals=False) as family:
        run = Run(plan_for(bug), family)
        try:
            records = run.play()
            notes = run.notes()
        finally:
            run.close()
    assert any(line.endswith(f"bug {bug}") for line in notes), "the mistake was never made"
    found = {violation.invariant for violation in check(records)}
    assert BREAKS[bug] in found


@pytest.mark.timeout(300)
def test_without_a_mistake_nothing_is_caught_and_nothing_comes_twice() -> None:
    records = play(_SMALL)
    assert check(records) == []
    assert records.refused_connections == ()
