"""What ``bridge.track`` does with a message: a good item is stored, any other kept aside, and none lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from celery.exceptions import Reject

import tasks.app
import tasks.process
from bridge.store.server import EmbeddedServer
from tests.polling.scripted import receipt
from tests.servers import bridge_on
from tests.tasks.desks import Desk


def test_bad_items_are_kept_aside_and_the_good_ones_tracked(desk: Desk) -> None:
    desk.process.track(["s1", {"session_no": "s2", "phone_count": 0}, "has space", {"session_no": "s3"}], "default")
    assert desk.tracked() == {"s1", "s3"}
    kept = desk.rejected()
    assert [json.loads(item) for item, _ in kept] == ["has space", {"session_no": "s2", "phone_count": 0}]
    assert "phone_count" in kept[1][1]
    assert desk.bridge.tracking.accounts() == ["default"]


@pytest.mark.parametrize("items", [None, 7, "s1", {"session_no": "s1"}, [None] * 10_001])
def test_what_is_no_list_is_kept_aside_whole(desk: Desk, items: object) -> None:
    desk.process.track(items, "default")
    assert len(desk.rejected()) == 1
    assert desk.tracked() == set()


def _deep() -> object:
    made: list[object] = []
    for _ in range(3_000):
        made = [made]
    return made


@pytest.mark.parametrize(
    "bad",
    ["\ud800", {"session_no": "\udfff"}, 10**40, float("nan"), _deep(), {1: {2}}, object(), {"session_no": object()}],
)
def test_an_item_that_no_json_can_hold_takes_no_good_one_with_it(desk: Desk, bad: object) -> None:
    """Fault: one lone surrogate in a list raised before anything was stored; the message was gone, and all it held."""
    desk.process.track(["s1", bad, "s2"], "default")
    assert desk.tracked() == {"s1", "s2"}
    assert len(desk.rejected()) == 1


@pytest.mark.parametrize("account", ["a:b", "*", "A", "", "x" * 33, "a b", 7, ["default"], "u{1}"])
def test_an_account_of_another_form_is_kept_aside(desk: Desk, account: object) -> None:
    """Fault: "a:b" was taken, and its session "x" shared its key with the session "b:x" of the account "a"."""
    desk.process.track(["s1"], account)
    assert desk.bridge.tracking.accounts() == []
    ((_, reason),) = desk.rejected()
    assert reason.startswith("account: ")


def test_no_account_is_the_default_one(desk: Desk) -> None:
    desk.process.track(["s1"], None)
    assert desk.tracked() == {"s1"}


def test_who_tracked_first_is_kept(desk: Desk) -> None:
    desk.process.track(["s1"], "default", "gen7@sender-1")
    desk.process.track(["s1", "s2"], "default", "gen8@sender-2")
    desk.process.track(["s3"], "default")
    found = desk.bridge.sessions.read("default", ["s1", "s2", "s3"])
    names = [desk.bridge.origins.name(one.state.origin) for one in found.values() if one.state]
    assert names == ["sender-1", "sender-2", ""]
    desk.bridge.recorder.record("default", {"s1": found["s1"]}, {"s1": [receipt()]})
    (after,) = desk.bridge.sessions.read("default", ["s1"]).values()
    assert after.state is not None
    assert desk.bridge.origins.name(after.state.origin) == "sender-1"


def test_tracking_again_repeats_nothing(desk: Desk) -> None:
    for _ in range(100):
        desk.process.track(["s1", "bad one"] if not desk.tracked() else ["s1"], "default")
    assert desk.tracked() == {"s1"}
    assert len(desk.rejected()) == 1


def test_what_could_not_be_stored_for_a_fault_of_ours_is_kept_aside(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is acknowledged then, and would take its sessions with it."""

    def fail(*_args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(desk.bridge.tracker, "track", fail)
    with pytest.raises(ZeroDivisionError):
        desk.process.track(["s1", {"session_no": "s2", "phone_count": 2}], "default")
    assert [json.loads(item) for item, _ in desk.rejected()] == [{"session_no": "s2", "phone_count": 2}, "s1"]


@pytest.fixture
def track_task(store_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    """The body of ``bridge.track``. Celery reads its settings when it is first asked for, and those name a broker."""
    monkeypatch.setenv("BRIDGE_REDIS_URL", store_url)
    run: Callable[[list[str]], None] = tasks.app.track.run
    return run


def test_a_store_that_is_down_puts_the_message_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, track_task: Callable[[list[str]], None]
) -> None:
    with EmbeddedServer(tmp_path) as server, bridge_on(server.url) as bridge:
        desk = Desk(bridge)
        desk.process.stop()  # it need not wait before it gives the message back
        server.stop()
        monkeypatch.setattr(tasks.app.processes, "current", lambda: desk.process)
        with pytest.raises(Reject) as caught:
            track_task(["s1"])
    assert vars(caught.value)["requeue"]


def test_memory_that_is_short_puts_the_message_back_and_keeps_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, track_task: Callable[[list[str]], None]
) -> None:
    with EmbeddedServer(tmp_path) as server, bridge_on(server.url) as bridge:
        desk = Desk(bridge)
        desk.process.stop()
        desk.process.track(["first"], "default")
        monkeypatch.setattr(tasks.app.processes, "current", lambda: desk.process)
        bridge.client.redis.config_set("maxmemory", "1")
        for _ in range(3):
            with pytest.raises(Reject, match="maxmemory"):
                track_task(["s1", "bad one"])
        bridge.client.redis.config_set("maxmemory", "0")
        assert desk.rejected() == []
        track_task(["s1", "bad one"])
        assert desk.tracked() == {"first", "s1"}
        assert len(desk.rejected()) == 1
