"""``bridge erase``: what it removes is counted, what it says names no phone."""

from __future__ import annotations

from typing import cast

import pytest

from bridge.wiring import Bridge
from tests.commands import ONE, TWO, Terminal, answer, deliveries_in_every_state, heard, track


def test_erase_removes_a_phone_and_a_later_poll_does_not_bring_it_back(bridge: Bridge, terminal: Terminal) -> None:
    deliveries_in_every_state(bridge)
    (dry,) = terminal("erase", "--phone", "18500000001", "--dry-run", "--json").rows()
    assert (dry["sessions"], dry["events"], dry["waiting"], dry["dry_run"]) == (1, 2, 2, True)
    assert ONE in terminal("events", "list", "--json").out

    ran = terminal("erase", "--phone", "0086 185 0000 0001", "--json")
    (done,) = ran.rows()
    assert done == dry | {"dry_run": False}
    assert "phone erased" in ran.err
    assert "1850000" not in ran.err

    answer(bridge, "nAQDODtO", heard(ONE, "发送失败"), heard(TWO, "发送成功"))
    for command in (("events", "list"), ("deliveries", "list"), ("sessions", "show", "nAQDODtO")):
        said = terminal(*command, "--json").out
        assert ONE not in said
        assert TWO in said


def test_what_metadata_keeps_of_it_is_said(bridge: Bridge, terminal: Terminal) -> None:
    track(
        bridge, {"session_no": "s1", "metadata": {"cc": ONE}}, {"session_no": "s2", "metadata": {"id": f"7{ONE[4:]}"}}
    )
    answer(bridge, "s1", heard(TWO, "发送成功"))
    (done,) = terminal("erase", "--phone", ONE, "--json").rows()
    assert (done["metadata"], done["metadata_left"], done["doubtful"]) == (1, 1, ["s2"])
    assert ONE not in terminal("sessions", "show", "s1", "--json").out
    (noted,) = terminal("audit", "--json").rows()
    assert cast("dict[str, object]", noted["details"])["doubtful"] == 1


@pytest.mark.usefixtures("bridge")
def test_what_is_no_phone_is_refused(terminal: Terminal) -> None:
    assert terminal("erase", "--phone", "nobody").code == 2
    assert terminal("erase").code == 2
