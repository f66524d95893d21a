"""What several files of tests of the checker begin with."""

from __future__ import annotations

import pytest

from tests.faults.plans import Plan
from tests.faults.records import Records
from tests.faults.run import play


@pytest.fixture(scope="session")
def right() -> Records:
    """A run in which all went well."""
    applications = ("well", "moody", "batches", "failures", "pushed", "masked", "hashed", "sessions")
    plan = Plan(sessions=20, per_s=10, words_over_s=2, applications=applications, neighbours=True)
    return play(plan)
