"""The charts of the benchmarks: well-formed, to scale, and honest about their axes."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import msgspec
import pytest

from tests.bench import report
from tests.bench.charts import charts, targets
from tests.bench.figures import Goal, Measured
from tests.bench.record import Run
from tests.bench.svg import Bar, Chart, draw, limits, position, ticks

SVG = "{http://www.w3.org/2000/svg}"


def chart(*bars: Bar, log: bool = False, line: float | None = None, title: str = "a title") -> Chart:
    return Chart(title=title, caption="", unit="µs", bars=bars, log=log, line=line)


def drawn(one: Chart) -> ElementTree.Element:
    return ElementTree.fromstring(draw(one))  # noqa: S314 - our own text


def widths(one: Chart) -> list[float]:
    bars = [rect for rect in drawn(one).iter(f"{SVG}rect") if rect.get("class") in {"ours", "other", "missed"}]
    return [float(bar.get("width", "nan")) for bar in bars]


def texts(one: Chart) -> list[str]:
    return [text.text or "" for text in drawn(one).iter(f"{SVG}text")]


def test_bars_from_zero_are_as_long_as_their_values() -> None:
    one, two = widths(chart(Bar(label="a", value=10), Bar(label="b", value=40)))
    assert two == pytest.approx(4 * one, rel=0.01)


def test_bars_on_a_logarithmic_axis_are_a_step_longer_for_each_tenfold_and_the_chart_says_so() -> None:
    tenfold = chart(*(Bar(label=f"{value}", value=value) for value in (20, 200, 2_000)), log=True)
    steps = [later - earlier for earlier, later in pairwise(widths(tenfold))]
    assert steps[0] == pytest.approx(steps[1], abs=0.2)
    assert any("logarithmic" in text for text in texts(tenfold))
    assert not any("logarithmic" in text for text in texts(chart(Bar(label="a", value=1))))


def test_every_label_and_value_is_there_escaped() -> None:
    said = texts(chart(Bar(label="a < b & c", value=12.34), Bar(label="a heading"), title='a "title" < b'))
    assert {"a < b & c", "12.3 µs", "a heading", 'a "title" < b'} <= set(said)


def test_a_target_and_a_line_across_are_drawn_where_they_are() -> None:
    marked = chart(Bar(label="a", value=50, mark=100), Bar(label="b", value=100), line=50)
    lines = [line for line in drawn(marked).iter(f"{SVG}line") if line.get("class") == "mark"]
    mark, across = sorted((float(line.get("x1", "nan")) for line in lines), reverse=True)
    assert [across, mark] == pytest.approx(widths(marked), abs=0.1)


@pytest.mark.parametrize(("high", "expected"), [(744.0, 200), (55.0, 10), (1.0, 0.2), (3.2, 1.0)])
def test_ticks_are_round_and_few(high: float, expected: float) -> None:
    found = ticks(0.0, high, log=False)
    assert found[1] == pytest.approx(expected)
    assert 3 <= len(found) <= 7
    assert found[-1] <= high


def test_a_logarithmic_axis_holds_all_values_between_whole_powers_of_ten() -> None:
    one = chart(Bar(label="a", value=10), Bar(label="b", value=2_400), log=True)
    low, high = limits(one)
    assert (low, high) == (1.0, 10_000.0)
    assert ticks(low, high, log=True) == [1, 10, 100, 1_000, 10_000]
    assert position(low, low, high, log=True) == 0


def test_it_needs_nothing_from_anywhere_else() -> None:
    text = draw(chart(Bar(label="a", value=1)))
    assert "prefers-color-scheme:dark" in text
    assert re.findall(r"https?://[^\"]+", text) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"<script|<image|<foreignObject|@import|url\(", text)


def goal(what: str, measured: float, wanted: float | None) -> Goal:
    return Goal(what=what, unit="", samples=(measured,), wanted=wanted)


def run_of(**rows: Measured) -> Run:
    about, load = {"cores": "2"}, "0.2 0.1 0.1"
    return Run(date="2026-11-26", command="", about=about, load_before=load, load_after=load, took_s=1, rows=rows)


def test_the_share_of_each_target_is_drawn_and_those_that_are_missed_stand_out() -> None:
    goals = (goal("good", 10, 20), goal("bad", 40, 20), goal("none lost", 0, 0), goal("only shown", 1, None))
    found = targets(run_of(row=Measured(about={}, figures={}, goals=goals)))
    assert found.title == "2 of 3 targets hold"
    assert [(bar.label, bar.value, bar.kind) for bar in found.bars] == [("good", 200, "ours"), ("bad", 50, "missed")]
    assert "1 of 1 targets of zero hold" in found.caption
    assert found.line == 100


def test_a_run_on_a_busy_machine_is_called_one() -> None:
    quiet = run_of(row=Measured(about={}, figures={}, goals=(goal("good", 10, 20),)))
    busy = msgspec.structs.replace(quiet, load_before="7.9 5.0 1.0")
    assert "BUSY" not in targets(quiet).title
    assert "The machine was busy" not in report.summary(quiet)
    assert "BUSY" in targets(busy).title
    assert "The machine was busy" in report.summary(busy)


def test_only_rows_that_were_measured_have_a_chart() -> None:
    memory = Measured(about={}, figures={"queue": {"bytes each": (104.0,)}}, goals=(goal("queue", 104, 120),))
    assert set(charts(run_of(memory=memory))) == {"memory.svg", "targets.svg"}
