"""What benchmarks make of their rounds: medians, spreads, targets, and whether a run is worse than another."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from tests.bench import compare, record, report
from tests.bench.__main__ import main
from tests.bench.figures import Goal, Measured, Samples, by_name, median, quantiles, ratio, shown, spread, total
from tests.bench.tables import aligned, figure_rows, goal_rows, markdown

RESULTS = Path(__file__).parents[1] / "bench" / "results"


def goal(*samples: float, **rest: object) -> Goal:
    given: dict[str, object] = {"what": "deliver: CPU", "unit": "×", "samples": samples, **rest}
    return msgspec.convert(given, Goal)


def run_of(**samples: Samples) -> record.Run:
    """A run of one row with a goal of each name, less is better; and the CPU of two that it is compared with."""
    alone: Samples = samples.pop("alone", (10.0, 10.0, 10.0))
    threads: Samples = samples.pop("requests", (500.0, 500.0, 500.0))
    goals = tuple(Goal(what=what, unit="µs", samples=one) for what, one in samples.items())
    figures: dict[str, dict[str, Samples]] = {
        "libcurl alone": {"CPU µs/event": alone},
        "bridge": {"CPU µs/event": (30.0, 30.0, 31.0)},
        "requests": {"CPU µs/event": threads},
    }
    return record.Run(
        date="2026-11-26",
        command="python -m tests.bench delivery",
        about={"machine": "a machine", "cores": "2"},
        load_before="0.1 0.1 0.1",
        load_after="1.0 0.5 0.2",
        took_s=90.0,
        rows={
            "delivery": Measured(
                about={"body": "588 bytes", "receiver": "nginx"},
                figures=figures,
                goals=goals,
                references=("libcurl alone", "requests"),
                took_s=9.0,
            )
        },
    )


def worse(old: record.Run, new: record.Run) -> list[str]:
    return [change.what for change in compare.changes(old, new) if change.is_worse]


def test_the_median_is_the_middle_one_and_the_spread_from_the_least_to_the_most() -> None:
    assert median((9.0, 1.0, 2.0)) == 2.0
    assert median((1.0, 2.0, 3.0, 100.0)) == 2.5
    assert spread((9.0, 1.0, 2.0)) == "1 – 9"
    assert spread((2.0,)) == spread((2.0, 2.0)) == ""


def test_ratios_are_of_the_same_round() -> None:
    found = by_name([{"ours": 2.0, "theirs": 1.0}, {"ours": 8.0, "theirs": 2.0}])
    assert ratio(found["ours"], found["theirs"]) == (2.0, 4.0)
    assert total(found["ours"], found["theirs"]) == (3.0, 10.0)
    with pytest.raises(ValueError, match="shorter"):
        ratio((1.0, 2.0), (1.0,))


def test_quantiles_count_from_below() -> None:
    found = quantiles([float(wait) for wait in reversed(range(1, 101))])
    assert found == {"p50 ms": 51.0, "p99 ms": 100.0, "worst ms": 100.0}


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0, "0"), (0.01384, "0.0138"), (36.55, "36.5"), (1e6, "1,000,000"), (99.96, "100"), (float("inf"), "inf")],
)
def test_figures_are_shown_with_three_digits_that_count(value: float, said: str) -> None:
    assert shown(value) == said


@pytest.mark.parametrize(
    ("judged", "holds", "target", "verdict"),
    [
        (goal(1.5, 1.6, 9.0, wanted=1.6), True, "≤ 1.6 ×", "holds"),
        (goal(3.2, 3.2, 1.0, wanted=1.6), False, "≤ 1.6 ×", "**missed**, by 2 ×"),
        (goal(60.0, unit="%", wanted=60, better="more"), True, "≥ 60 %", "holds"),
        (goal(30.0, unit="%", wanted=60, better="more"), False, "≥ 60 %", "**missed**, by 2 ×"),
        (goal(0.0, 0.0, 1.0, unit="", wanted=0, every=True), False, "0", "**missed**"),
        (goal(0.0, 0.0, unit="", wanted=0, every=True), True, "0", "holds"),
        (goal(5.0), None, "", ""),
    ],
)
def test_a_target_holds_by_the_median_or_in_every_round(
    judged: Goal, holds: bool | None, target: str, verdict: str
) -> None:
    assert (judged.holds, judged.target, judged.verdict) == (holds, target, verdict)


def test_the_share_of_a_target_is_above_one_on_its_good_side_only() -> None:
    assert goal(20.0, wanted=40).share == 2.0
    assert goal(20.0, wanted=40, better="more").share == 0.5
    assert goal(0.0, wanted=0).share is None
    assert goal(1.0).share is None


def test_tables_have_a_column_for_each_figure_and_a_row_for_each_goal() -> None:
    measured = Measured(
        about={},
        figures={"bridge": {"events/s": (1.0, 3.0, 2.0)}, "other": {"CPU µs/event": (14.25,)}},
        goals=(goal(1.0, 2.0, 3.0, wanted=1.6, reference="other"), goal(7.0)),
    )
    assert figure_rows(measured) == [
        ("median", "events/s", "CPU µs/event"),
        ("bridge", "2", ""),
        ("other", "", "14.2"),
    ]
    assert goal_rows(measured.goals)[1:] == [
        ("deliver: CPU", "≤ 1.6 ×", "2 ×", "1 – 3", "other", "**missed**, by 1.25 ×"),
        ("deliver: CPU", "", "7 ×", "", "", ""),
    ]
    assert aligned([("a", "b"), ("long", "1")]) == ["a     b", "long  1"]
    assert markdown([("a", "b"), ("c", "d")]) == "| a | b |\n|---|---|\n| c | d |\n"


# Runs that are kept


def test_a_run_is_read_as_it_was_written() -> None:
    run = run_of(deliver=(1.0, 2.0, 3.0))
    assert record.decode(record.encode(run)) == run


def test_the_file_says_medians_spreads_and_verdicts_too() -> None:
    run = run_of(deliver=(1.0, 2.0, 3.0))
    told = msgspec.json.decode(record.encode(run))["rows"]["delivery"]
    assert told["figures"]["bridge"]["CPU µs/event"]["median"] == 30.0
    assert told["goals"][0]["median"] == 2.0
    assert told["goals"][0]["spread"] == "1 – 3"


def test_no_run_overwrites_another_and_the_newest_is_the_last_of_the_last_day(tmp_path: Path) -> None:
    run = run_of(deliver=(1.0,))
    names = [record.save(run, tmp_path).name for _ in range(11)]
    assert names[:2] == ["2026-11-26.json", "2026-11-26-2.json"]
    newest = record.newest(tmp_path)
    assert newest is not None
    assert newest.name == "2026-11-26-11.json"
    record.save(msgspec.structs.replace(run, date="2026-12-01"), tmp_path)
    (tmp_path / "other.json").write_text("{}")
    newest = record.newest(tmp_path)
    assert newest is not None
    assert newest.name == "2026-12-01.json"


def test_a_row_that_fails_costs_no_other_its_results_and_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_options: object) -> Measured:
        raise TimeoutError("the receiver never came back")

    measured = run_of(deliver=(1.0, 2.0)).rows["delivery"]
    monkeypatch.setattr("tests.bench.__main__._ALL", {"backlog": broken, "delivery": lambda _options: measured})
    assert main(["backlog", "delivery", "--report", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "the receiver never came back" in said.err
    path = record.newest(tmp_path)
    assert path is not None
    run = record.decode(path.read_bytes())
    assert run.rows["delivery"].goals == measured.goals
    assert run.failed == ("backlog",)
    assert "Not measured, for an error: backlog." in (tmp_path / report.TABLE).read_text(encoding="utf-8")


# What got worse


def test_what_is_beyond_the_spread_of_both_runs_is_worse() -> None:
    old = run_of(steady=(10.0, 11.0, 12.0), risen=(10.0, 11.0, 12.0), fallen=(10.0, 11.0, 12.0))
    new = run_of(steady=(11.9, 14.0, 15.0), risen=(13.0, 13.5, 14.0), fallen=(5.0, 5.0, 5.0))
    assert worse(old, new) == ["risen"]


def test_less_than_a_tenth_is_not_worse_however_narrow_the_spread() -> None:
    assert worse(run_of(deliver=(10.0, 10.0, 10.0)), run_of(deliver=(10.9, 10.9, 10.9))) == []


def test_one_sample_must_be_a_quarter_worse() -> None:
    assert worse(run_of(deliver=(10.0,)), run_of(deliver=(12.0,))) == []
    assert worse(run_of(deliver=(10.0,)), run_of(deliver=(13.0,))) == ["deliver"]


def test_of_a_rate_less_is_worse_and_of_a_loss_anything() -> None:
    assert compare.is_worse((60.0, 61.0), (40.0, 41.0), "more")
    assert not compare.is_worse((40.0, 41.0), (60.0, 61.0), "more")
    assert compare.is_worse((0.0,), (1.0,), "less")
    assert not compare.is_worse((0.0,), (0.0,), "less")


def test_a_slower_machine_is_no_regression_and_a_faster_one_hides_none() -> None:
    old = run_of(deliver=(10.0, 10.0, 10.0))
    slow = run_of(deliver=(20.0, 20.0, 20.0), alone=(20.0, 20.0, 20.0))
    assert worse(old, slow) == []
    fast = msgspec.structs.replace(run_of(deliver=(10.0, 10.0, 10.0), alone=(5.0, 5.0, 5.0)))
    assert "deliver" in worse(old, fast)
    assert "bridge: CPU µs/event" in worse(old, fast)


def test_what_is_no_code_of_ours_does_not_get_worse() -> None:
    assert worse(run_of(), run_of(requests=(900.0, 900.0, 900.0))) == []


@pytest.mark.parametrize(("now", "code"), [((10.0, 10.0, 10.0), 0), ((20.0, 20.0, 20.0), 1)])
def test_the_command_fails_when_anything_got_worse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], now: Samples, code: int
) -> None:
    old, new = record.save(run_of(deliver=(10.0, 10.0, 10.0)), tmp_path), record.save(run_of(deliver=now), tmp_path)
    assert main(["compare", str(old), str(new)]) == code
    assert ("WORSE" in capsys.readouterr().out) == bool(code)


# What is in the repository


def test_the_table_and_the_charts_are_those_of_the_newest_run(tmp_path: Path) -> None:
    newest = record.newest(RESULTS)
    assert newest is not None
    again = tmp_path / "bench" / "results"
    again.mkdir(parents=True)
    (again / newest.name).write_bytes(newest.read_bytes())
    readme = (RESULTS.parent / "README.md").read_text(encoding="utf-8")
    begin, end = readme.index("<!-- newest -->"), readme.index("<!-- /newest -->")
    (again.parent / "README.md").write_text(f"{readme[:begin]}<!-- newest -->\nolder\n{readme[end:]}", encoding="utf-8")
    made = {
        path.relative_to(again.parent): path.read_text(encoding="utf-8") for path in report.write(again / newest.name)
    }
    assert {path: (RESULTS.parent / path).read_text(encoding="utf-8") for path in made} == made
    assert {"README.md", "results/newest.md", "results/cpu.svg"} <= set(map(str, made))


def test_the_readmes_show_charts_that_there_are() -> None:
    root = RESULTS.parents[2]
    shown_in_both = []
    for readme in (root / "README.md", root / "tests/bench/README.md"):
        charts = re.findall(r"!\[[^]]+\]\(([^)]+\.svg)\)", readme.read_text(encoding="utf-8"))
        assert [chart for chart in charts if not (readme.parent / chart).is_file()] == []
        shown_in_both.append(len(charts))
    assert min(shown_in_both) >= 2
