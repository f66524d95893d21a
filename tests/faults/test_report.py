"""The report counts what the records say, and shows it as Markdown."""

from __future__ import annotations

import json

from tests.faults.records import Answers, Ended, Fault, Kind, Records, Store, Violation
from tests.faults.report import Report
from tests.faults.watchers import SENTRY

EMPTY = Store(sessions={}, events=(), queues={}, erased=frozenset(), subscriptions=frozenset(), failed_attempts={})


def fault(name: str, at_ms: int, recovered_ms: int) -> Fault:
    return Fault(name=name, kind=Kind.LOSES_OUTCOMES, at_ms=at_ms, until_ms=at_ms + 1_000, recovered_ms=recovered_ms)


def traceback_at(second: int, error: str) -> str:
    frames = '  File "/here/tasks/process.py", line 3, in deliver\n  File "/there/kombu/utils.py", line 9, in wait\n'
    raised = {"event": "failed: 'x'", "exception": f"Traceback (most recent call last):\n{frames}{error}"}
    return json.dumps({"timestamp": f"1970-01-01T00:00:{second:02d}+00:00", **raised})


def records() -> Records:
    return Records(
        answers=Answers(words=(), answered_ms={}, by_fault={"hang": 3}),
        posts=(),
        store=EMPTY,
        log_lines={
            "001-worker.log": (traceback_at(2, "OSError: x"), traceback_at(50, "KeyError: 'y'")),
            SENTRY: ("{}",),
        },
        tracked=(),
        subscribers=(),
        faults=(
            fault("store restarted", 1_000, 2_500),
            fault("store restarted", 5_000, 9_000),
            fault("store restarted", 6_000, 7_100),
        ),
        ended=(
            Ended(pid=1, kind="worker", at_ms=1, how="killed", code=-9),
            Ended(pid=2, kind="worker", at_ms=2, how="died", code=-9),
            Ended(pid=3, kind="worker", at_ms=3, how="stopped"),
            Ended(pid=4, kind="web", at_ms=4, how="by itself", code=1),
        ),
        callback_timeout_ms=1_000,
        give_up_ms=1,
        kills=3,
    )


def test_kills_are_one_figure_and_by_what_they_were() -> None:
    report = Report()
    report.add("seed 1", records(), [])
    text = report.markdown("Faults")
    assert "5 times `kill -9`." in text
    assert "| store's servers, at any moment | 3 |" in text
    assert "| worker, at any moment | 1 |" in text
    assert "| worker, at a named point | 1 |" in text
    assert "web" not in text.partition("## Kills")[2].partition("## Faults")[0]


def test_recovery_is_told_by_its_median_and_its_longest() -> None:
    report = Report()
    report.add("seed 1", records(), [])
    assert "| store restarted | 3 | 0.50 s | 3.00 s |" in report.markdown("Faults")


def test_a_traceback_is_told_with_where_it_was_and_whether_a_fault_was_near() -> None:
    report = Report()
    report.add("seed 1", records(), [])
    text = report.markdown("Faults")
    assert "| OSError (failed; kombu/utils.py, wait), beside a fault | 1 |" in text
    assert "| KeyError (failed; kombu/utils.py, wait), with no fault near | 1 |" in text


def test_a_violation_is_one_line_with_its_run() -> None:
    report = Report()
    report.add("seed 7", records(), [Violation(invariant="I1", says="gone\nfor good", records="store")])
    text = report.markdown("Faults")
    assert "1 runs, 1 violations." in text
    assert "- seed 7: I1: gone / for good [store]" in text
