"""What commands print, for people and for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from bridge.cli.output import At, as_text, local_time, progress, show, table, utc_time

MOMENT = 1_795_415_468_123  # 2026-11-23T06:31:08.123Z


@pytest.fixture
def in_shanghai(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("in_shanghai")
def test_times_are_local_with_their_offset_for_people_and_utc_for_programs() -> None:
    assert local_time(MOMENT) == "2026-11-23 14:31:08.123+08:00"
    assert utc_time(MOMENT) == "2026-11-23T06:31:08.123Z"
    assert utc_time(0) == "1970-01-01T00:00:00.000Z"


def test_a_table_that_is_piped_is_aligned_text_also_with_wide_characters(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, object]] = [
        {"id": "evt_1", "result": "发送成功", "n": 1},
        {"id": "evt_20", "result": "Fail", "n": None},
    ]
    table(rows, {"id": "ID", "result": "RESULT", "n": "N"}, json=False)

    assert capsys.readouterr().out.splitlines() == [
        "ID      RESULT    N",
        "evt_1   发送成功  1",
        "evt_20  Fail      -",
    ]


def test_a_table_in_a_terminal_cuts_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    table([{"id": "x" * 60, "what": "[red]not markup[/red]"}], {"id": "ID", "what": "WHAT"}, json=False)

    shown = capsys.readouterr().out
    assert shown.count("x") == 60
    assert "[red]" in shown


def test_json_is_one_object_a_line_with_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    table([{"id": "evt_1", "at": At(ms=MOMENT), "more": [1]}, {"id": "evt_2"}], {"id": "ID"}, json=True)

    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"id": "evt_1", "at": "2026-11-23T06:31:08.123Z", "more": [1]},
        {"id": "evt_2"},
    ]


def test_no_rows_print_nothing_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    table([], {"id": "ID"}, json=False)

    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("in_shanghai")
def test_one_object_has_a_line_for_each_name(capsys: pytest.CaptureFixture[str]) -> None:
    thing = {"id": "sub_1", "created_at": At(ms=MOMENT)}
    show(thing, json=False)
    show(thing, json=True)

    assert capsys.readouterr().out.splitlines() == [
        "id          sub_1",
        "created at  2026-11-23 14:31:08.123+08:00",
        '{"id":"sub_1","created_at":"2026-11-23T06:31:08.123Z"}',
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "yes"),
        (False, "no"),
        (0, "0"),
        ([], "-"),
        (["a", "b"], "a, b"),
        ({"order": 7}, '{"order":7}'),
        ("\x1b[31mred\nnext", r"\x1b[31mred\nnext"),
        ("发送成功", "发送成功"),
    ],
)
def test_values_are_shown_on_one_line_that_cannot_steer_the_terminal(value: object, text: str) -> None:
    assert as_text(value) == text


def test_progress_shows_nothing_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("resending", 10) as advance:
        advance(5)

    assert capsys.readouterr().err == ""
