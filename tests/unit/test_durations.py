from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.durations import (
    format_duration_ms,
    format_durations_ms,
    parse_duration_ms,
    parse_durations_ms,
)


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [
        ("500ms", 500),
        ("10s", 10_000),
        ("5m", 300_000),
        ("12h", 43_200_000),
        ("5d", 432_000_000),
        (" 0s ", 0),
        ("999999999d", 999_999_999 * 86_400_000),
    ],
)
def test_each_unit_is_read(text: str, duration_ms: int) -> None:
    assert parse_duration_ms(text) == duration_ms


@pytest.mark.parametrize("text", ["", "10", "s", "1.5h", "-5s", "5 s", "5S", "5min", "٥s", "1" * 5000 + "s", "1h30m"])
def test_anything_else_is_refused_with_what_is_accepted(text: str) -> None:
    with pytest.raises(ValueError, match="500ms, 10s, 5m, 12h or 5d") as caught:
        parse_duration_ms(text)
    assert len(str(caught.value)) < 200


def test_a_list_keeps_its_order() -> None:
    assert parse_durations_ms("10s, 30s,1m") == (10_000, 30_000, 60_000)


@pytest.mark.parametrize("text", ["", "  ", "10s,", ",10s", "10s,,5m", "10s;5m"])
def test_a_broken_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="give"):
        parse_durations_ms(text)


@pytest.mark.parametrize(("duration_ms", "text"), [(0, "0s"), (90_000, "90s"), (120_000, "2m"), (1_001, "1001ms")])
def test_the_largest_exact_unit_is_written(duration_ms: int, text: str) -> None:
    assert format_duration_ms(duration_ms) == text


def test_a_negative_duration_is_not_written() -> None:
    with pytest.raises(ValueError, match="negative"):
        format_duration_ms(-1)


@given(st.lists(st.integers(0, 999_999_999), min_size=1).map(tuple))
def test_what_is_written_is_read_back(durations_ms: tuple[int, ...]) -> None:
    assert parse_durations_ms(format_durations_ms(durations_ms)) == durations_ms


def test_an_empty_list_says_what_one_looks_like() -> None:
    with pytest.raises(ValueError, match=r"^an empty list; give durations with commas between, such as 10s,5m,12h$"):
        parse_durations_ms(" ")


@pytest.mark.parametrize(("given", "shown"), [("x" * 40, "x" * 40), ("x" * 41, "x" * 40 + "…")])
def test_of_what_was_given_forty_characters_are_shown(given: str, shown: str) -> None:
    with pytest.raises(ValueError, match=rf"^'{shown}' is not a duration; give "):
        parse_duration_ms(given)
