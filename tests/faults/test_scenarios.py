"""The whole bridge in real processes, with faults from outside; what then holds is decided from four records."""

from __future__ import annotations

import os

import pytest

from tests.faults.checker import check
from tests.faults.conftest import SEED
from tests.faults.plans import SCENARIOS, Plan, by_chance
from tests.faults.records import Records
from tests.faults.report import keep
from tests.faults.run import play


def played(plan: Plan) -> Records:
    """Play a plan, and fail, with all that is known kept, where an invariant does not hold."""
    records = play(plan)
    violations = check(records)
    if violations:
        shown = "\n".join(map(str, violations[:20]))
        pytest.fail(f"{len(violations)} violations; records and logs are in {keep(records, violations)}\n{shown}")
    return records


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_invariant_holds_while(name: str) -> None:
    plan = SCENARIOS[name]
    records = played(plan)
    done = {fault.name for fault in records.faults}
    assert set(plan.faults) <= done
    assert {f"died at {stop}" for stop in plan.stops} <= done


def test_every_invariant_holds_by_chance() -> None:
    """A seed that is new each time, and printed, on one server. Failovers by chance are the soak's."""
    played(by_chance(int(os.environ[SEED]), faults=3, sessions=40, store="one"))
