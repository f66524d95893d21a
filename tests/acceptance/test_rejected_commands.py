"""``bridge rejected``: what arrived and was wrong can be found, and dropped once it was seen to."""

from __future__ import annotations

import json

import pytest

from bridge.wiring import Bridge
from tests.commands import Terminal


@pytest.fixture(autouse=True)
def _kept(bridge: Bridge) -> None:
    bridge.tracking.note_account("shop")
    for name, item, reason in (
        ("default", '{"session_no":"s1","phone_count":0}', "item 0: phone_count: 0; give a whole number"),
        ("default", '"two words"', "item 1: session_no: 'two words'"),
        ("default", '[{"session_no":"s3"},"s4"]', "sessions must be a list"),
        ("shop", '{"session_no":"s1"', "item 0: cut at 4 kB"),
    ):
        bridge.tracking.reject(name, [(item, reason)])


def ids(terminal: Terminal, *options: str) -> dict[str, str]:
    """Ids by reason."""
    ran = terminal("rejected", "list", *options, "--json")
    assert ran.code == 0, ran.err
    return {str(row["reason"]): str(row["id"]) for row in ran.rows()}


def test_a_list_shows_ids_and_accounts(terminal: Terminal) -> None:
    rows = terminal("rejected", "list", "--json").rows()
    assert len(rows) == 4
    assert all(str(row["id"]).startswith(f"{row['account']}:") for row in rows)
    assert str(rows[0]["id"]) in terminal("rejected", "list").out
    (item,) = [row["item"] for row in rows if "phone_count" in str(row["reason"])]
    assert json.loads(str(item))["session_no"] == "s1"


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["--account", "shop"], 1),
        (["--reason", "PHONE_COUNT"], 1),
        (["--session", "s1"], 2),
        (["--session", "s4"], 1),
        (["--session", "two"], 0),
        (["--since", "1h"], 4),
        (["--since", "2100-01-01T00:00:00Z"], 0),
        (["--limit", "2"], 2),
    ],
)
def test_a_list_is_narrowed(terminal: Terminal, options: list[str], count: int) -> None:
    assert len(ids(terminal, *options)) == count


def test_some_are_dropped_by_their_ids(terminal: Terminal) -> None:
    found = list(ids(terminal).values())
    shop = ids(terminal, "--account", "shop").popitem()[1]
    ran = terminal("rejected", "drop", shop, next(one for one in found if one != shop), "--json")
    assert ran.rows() == [{"dropped": 2}]
    assert len(ids(terminal)) == 2
    again = terminal("rejected", "drop", shop)
    assert (again.code, "not there" in again.err) == (1, True)


def test_an_id_is_of_its_account_alone(terminal: Terminal) -> None:
    shop = ids(terminal, "--account", "shop").popitem()[1]
    assert terminal("rejected", "drop", shop.replace("shop:", "bank:")).code == 1
    assert len(ids(terminal)) == 4


def test_all_are_dropped_of_one_account_or_of_all(terminal: Terminal) -> None:
    assert terminal("rejected", "drop", "--all", "--account", "shop", "--json").rows() == [{"dropped": 1}]
    assert len(ids(terminal)) == 3
    assert terminal("rejected", "drop", "--all").out == "dropped 3\n"
    assert terminal("rejected", "list").out == "nothing was rejected\n"


def test_the_old_ones_are_dropped(terminal: Terminal) -> None:
    assert terminal("rejected", "drop", "--before", "1h").out == "dropped 0\n"
    assert terminal("rejected", "drop", "--before", "2100-01-01T00:00:00Z").out == "dropped 4\n"


@pytest.mark.parametrize(
    "options", [[], ["--all", "--before", "1h"], ["default:1-0", "--all"], ["1-0"], ["A:1-0"], ["default:x"], ["*"]]
)
def test_what_is_to_be_dropped_must_be_clear(terminal: Terminal, options: list[str]) -> None:
    ran = terminal("rejected", "drop", *options)
    assert (ran.code, ran.out) == (2, "")
    assert len(ids(terminal)) == 4
