"""Driving a machine of the model and a store beside each other, and a store whose script is wrong on purpose."""

from __future__ import annotations

import hashlib
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test

from bridge.store.client import script
from bridge.store.scripts import Script
from tests.parts import Parts

if TYPE_CHECKING:
    import pytest

    from tests.store.queues_model import Checked

Fault = tuple[str, str, str, str]
"""A script, what is right in it, what is put there instead, and what the model says then."""


def drive(machine: type[Checked], parts: Parts, examples: int, *phases: Phase) -> None:
    """Drive the model and the store side by side."""
    run_state_machine_as_test(
        type("Bound", (machine,), {"parts": parts}),
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            database=None,
            # What is put in on purpose must be found each time: the same examples, and no time spent on the smallest.
            derandomize=bool(phases),
            phases=phases or tuple(Phase),
            report_multiple_bugs=not phases,
            suppress_health_check=list(HealthCheck),
        ),
    )


def must_notice(machine: type[Checked], parts: Parts, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a fault into a script: the model must say what is wrong."""
    name, right, wrong, says = fault
    source = script(name).source
    assert right in source, "the script has changed: seed the fault anew"
    faulty = source.replace(right, wrong)
    seeded = Script(faulty, hashlib.sha1(faulty.encode()).hexdigest())  # noqa: S324  # the server's own name for it
    monkeypatch.setattr("bridge.store.client.script", lambda wanted: seeded if wanted == name else script(wanted))
    noticed: list[str] = []  # the errors themselves would keep all that the search has looked at

    def teardown(self: Checked) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, AssertionError):
            noticed.append(str(error))
        machine.teardown(self)

    # Some show only if two things fall into one millisecond: played again they show perhaps not, or draw otherwise.
    with suppress(AssertionError, Flaky):
        drive(type("Noticing", (machine,), {"teardown": teardown}), parts, 2_000, Phase.generate)
    assert noticed, "nothing was noticed"
    said = noticed[0].partition("\n")[0]
    assert says in said, f"the model said {said!r}"
