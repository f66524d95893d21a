"""The machines that track: a number for each, the same for as long as any session may hold it."""

from __future__ import annotations

from unittest.mock import patch

import msgspec
import pytest

from bridge.domain.tracking import machine_of
from bridge.store import tracking
from bridge.store.tracking import Origins
from tests.parts import OPEN, Parts


def test_a_name_has_one_number_whoever_asks(parts: Parts) -> None:
    first = parts.origins.number("sender-1")
    assert first > 0
    assert parts.origins.number("sender-2") != first
    assert Origins(parts.client).number("sender-1") == first
    assert parts.origins.name(first) == "sender-1"
    assert parts.origins.number("") == 0
    assert parts.origins.name(0) == ""


def test_a_name_that_is_known_asks_the_store_once_an_hour(parts: Parts) -> None:
    now = [0.0]
    origins = Origins(parts.client, ticking=lambda: now[0])
    number = origins.number("sender-1")
    before = parts.client.round_trips
    assert {origins.number("sender-1") for _ in range(100)} == {number}
    assert parts.client.round_trips == before
    now[0] = 3_601.0
    assert origins.number("sender-1") == number
    assert parts.client.round_trips == before + 1


def test_numbers_go_round_and_an_old_name_gets_a_new_one(parts: Parts) -> None:
    with patch.object(tracking, "MOST_ORIGINS", 3):
        numbers = [Origins(parts.client).number(f"sender-{place}") for place in range(5)]
        assert numbers == [1, 2, 3, 1, 2]
        assert [parts.origins.name(number) for number in (1, 2, 3)] == ["sender-3", "sender-4", "sender-2"]
        assert Origins(parts.client).number("sender-0") == 3
        assert parts.redis.hlen("u:origins") == 7  # two fields of each, and the last number


@pytest.mark.parametrize(
    ("origin", "machine"),
    [
        ("gen4711@sender-1", "sender-1"),
        ("sender-1", "sender-1"),
        (None, ""),
        (7, ""),
        ("gen1@" + "x" * 65, ""),
        ("gen1@a\nb", ""),
        ("gen1@höst", ""),
        ("", ""),
    ],
)
def test_what_a_message_says_of_its_sender_is_a_machine_or_nothing(origin: object, machine: str) -> None:
    assert machine_of(origin) == machine


def test_it_costs_a_session_three_bytes_at_most() -> None:
    plain = len(msgspec.msgpack.encode(OPEN))
    for number, cost in ((1, 0), (127, 0), (128, 1), (tracking.MOST_ORIGINS, 2)):
        assert len(msgspec.msgpack.encode(msgspec.structs.replace(OPEN, origin=number))) == plain + cost
