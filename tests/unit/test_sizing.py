"""The README's section on sizing: its table is the program's, and the program's constants were measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bridge.domain.durations import parse_duration_ms
from bridge.settings import settings_table_markdown
from tests.bench import sizing
from tests.bench.__main__ import main

ROOT = Path(__file__).parents[2]


def test_the_readme_has_the_table_that_the_program_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sizing"]) == 0
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.partition("<!-- sizing -->\n")[2].partition("<!-- /sizing -->")[0] == capsys.readouterr().out


@pytest.mark.parametrize("constant", sizing.CONSTANTS, ids=lambda constant: constant.row[:40])
def test_a_constant_is_in_its_row_of_the_benchmarks(constant: sizing.Constant) -> None:
    text = (ROOT / "tests/bench/results/history.md").read_text(encoding="utf-8")
    assert constant.row in text
    assert constant.value in [float(figure) for figure in re.findall(r"\d+(?:\.\d+)?", constant.row.replace(",", ""))]


@pytest.mark.parametrize(
    ("setting", "days"),
    [
        ("BRIDGE_KEEP_SETTLED", sizing.KEEP_SETTLED_DAYS),
        ("BRIDGE_KEEP_EVENTS", sizing.KEEP_EVENTS_DAYS),
        ("BRIDGE_GIVE_UP_AFTER", sizing.WAIT_DAYS[0][1]),
    ],
)
def test_what_it_assumes_of_the_settings_is_their_default(setting: str, days: float) -> None:
    default = re.search(rf"^\| `{setting}` \| `([^`]+)`", settings_table_markdown(), re.MULTILINE)
    assert default is not None
    assert parse_duration_ms(default[1]) == days * 86_400_000


def test_twice_as_many_sms_need_twice_as_much() -> None:
    one, two = sizing.need(1_000_000), sizing.need(2_000_000)
    assert two.memory_b == pytest.approx(2 * one.memory_b)
    assert two.calls_a_second == pytest.approx(2 * one.calls_a_second)
    assert one.calls_a_second == pytest.approx(1_000_000 * 0.1 / 3600 * 1.9 / 100)
    assert one.sessions_b + one.log_b + one.queue_b < one.memory_b
