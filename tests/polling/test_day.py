"""A compressed day of a provider that is wrong in a fifth of its answers.

``python -m tests.polling.day --sessions 50000`` is a larger one.
"""

from __future__ import annotations

from tests.polling import day


def test_a_day_of_faults_ends_with_every_session_settled_and_told_right_once() -> None:
    found = day.run(sessions=400, seed=7, within_s=60)
    assert found.faults == []
    assert found.failed > 5, "the provider did fail"
    assert found.events > 400
