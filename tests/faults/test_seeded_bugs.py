"""A checker that never failed proves nothing: each invariant is broken inside a worker, and the break must be seen."""

from __future__ import annotations

import msgspec
import pytest

from bridge.cli.family import Family
from tests.faults.checker import check
from tests.faults.inside.bugs import BREAKS, BUGS
from tests.faults.plans import Plan
from tests.faults.run import Run

# What is forgotten is never done: there is no use in waiting for it for long.
_SMALL = Plan(sessions=20, per_s=10, workers=1, applications=("well", "moody"), web=False, patience_s=12)
_TOGETHER = (
    ("signs_other_bytes", "talks_of_phones", "misreads_a_word", "calls_anybody", "tells_sentry_of_phones"),
    ("shows_arguments", "shows_whole_phones", "forgets_completions", "ends_by_itself"),
    ("forgets_an_audience", "names_an_event_anew"),
    ("writes_an_event_anew", "loses_its_lane"),
    ("takes_failures_for_answers", "loses_outcomes"),
    ("forgets_to_poll",),
    ("serves_one_at_a_time",),
)
"""Mistakes that do not hide one another are made in one run."""

_HEARERS = {"signs_other_bytes": ("forbidden",), "shows_arguments": ("masked", "sessions")}
"""Who else must be there, that the mistakes of a group come to light."""


def plan_for(bugs: tuple[str, ...]) -> Plan:
    """What brings these mistakes to light."""
    return msgspec.structs.replace(
        _SMALL,
        bugs=bugs,
        # So many that what hangs is under way all the time: a gap would be the well one's turn.
        sessions=50 if "serves_one_at_a_time" in bugs else _SMALL.sessions,
        applications=(*_SMALL.applications, *_HEARERS.get(bugs[0], ())),
        # Amid faults that lose outcomes too: those excuse none but their own.
        faults=("receivers' replies cut", "store slow", "CLIENT KILL") if "loses_outcomes" in bugs else (),
        neighbours="serves_one_at_a_time" in bugs,
        held_back="loses_its_lane" in bugs,
    )


def test_each_invariant_has_a_mistake_that_breaks_it() -> None:
    assert {invariant for invariant, _ in BREAKS.values()} == {
        *(f"I{number}" for number in range(1, 11)),
        "no crash loop",
    }
    assert BREAKS.keys() == BUGS.keys() == {bug for group in _TOGETHER for bug in group}


@pytest.mark.parametrize("bugs", _TOGETHER, ids="+".join)
def test_a_mistake_is_caught(bugs: tuple[str, ...]) -> None:
    with Family("faults", handle_signals=False) as family:
        run = Run(plan_for(bugs), family)
        try:
            violations = check(run.play())
            notes = run.world.read_notes()
        finally:
            run.close()
    for bug in bugs:
        invariant, says = BREAKS[bug]
        assert any(line.endswith(f"bug {bug}") for line in notes), f"{bug}: the mistake was never made"
        found = [one for one in violations if one.invariant == invariant and says in one.says]
        assert found, f"{bug}: made, and not caught"
