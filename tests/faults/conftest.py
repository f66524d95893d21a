"""The seed of what is played by chance, and what several files of tests of the checker begin with."""

from __future__ import annotations

import os
import secrets

import pytest

from tests.faults.plans import Plan
from tests.faults.records import Records
from tests.faults.run import play

SEED = "FAULTS_SEED"


def pytest_configure() -> None:
    """Choose a seed where none is given. Before any other process of the tests is started: they share it."""
    os.environ.setdefault(SEED, str(1 + secrets.randbelow(2**24)))


def pytest_report_header() -> str:
    """Printed of each run, for whoever wants to play the same."""
    return f"{SEED}={os.environ[SEED]}"


@pytest.fixture(scope="session")
def right() -> Records:
    """A run in which all went well."""
    applications = ("well", "moody", "batches", "failures", "pushed", "masked", "hashed", "sessions")
    plan = Plan(sessions=20, per_s=10, applications=applications, neighbours=True)
    return play(plan)
