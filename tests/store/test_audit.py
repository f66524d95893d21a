"""The audit trail: no action without a note, whatever happens in between."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from bridge.errors import NotFound, StoreUnreachable
from bridge.store import audit, keys
from bridge.store.audit import AuditTrail, Outcome
from bridge.store.client import Client
from bridge.store.server import EmbeddedServer
from tests.parts import Parts

WHO = "ops@here"


def test_an_action_is_one_entry_with_what_came_of_it(parts: Parts) -> None:
    with parts.audit.noted(WHO, "subscriptions resume", "sub_a") as noted:
        (begun,) = parts.audit.newest()
        assert (begun.outcome, begun.details, begun.target) == (Outcome.UNFINISHED, {}, "sub_a")
        noted.details["dropped"] = 7
    (one,) = parts.audit.newest()
    assert (one.who, one.action, one.target) == (WHO, "subscriptions resume", "sub_a")
    assert (one.outcome, one.details) == (Outcome.DONE, {"dropped": 7})
    assert one.began_ms == begun.at_ms <= one.at_ms
    assert parts.redis.xlen(keys.AUDIT) == 1


def test_an_id_that_is_known_only_afterwards_is_noted(parts: Parts) -> None:
    with parts.audit.noted(WHO, "subscriptions add") as noted:
        noted.target = "sub_new"
    assert [one.target for one in parts.audit.newest()] == ["sub_new"]


def test_what_failed_is_noted_by_its_kind_with_what_was_done_until_then(parts: Parts) -> None:
    def fail() -> None:
        with parts.audit.noted(WHO, "resend", "sub_a") as noted:
            noted.details["queued"] = 200
            raise NotFound("18500000001 is nobody's")

    with pytest.raises(NotFound):
        fail()
    (one,) = parts.audit.newest()
    assert (one.outcome, one.details) == (Outcome.FAILED, {"queued": 200, "error": "NotFound"})


def test_an_action_that_was_killed_stays_as_unfinished(parts: Parts) -> None:
    code = f"""
import os
from bridge.store.audit import AuditTrail
from bridge.store.client import Client
with AuditTrail(Client({parts.url!r})).noted("ops@here", "subscriptions remove", "sub_a", {{"dropped": 7}}):
    os._exit(9)
"""
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False, timeout=60).returncode == 9
    (one,) = parts.audit.newest()
    assert (one.action, one.target) == ("subscriptions remove", "sub_a")
    assert (one.outcome, one.details) == (Outcome.UNFINISHED, {"dropped": 7})


def test_a_completion_that_was_written_twice_is_shown_once(parts: Parts) -> None:
    """Its reply was lost, and the call made again."""
    with parts.audit.noted(WHO, "rewrap"):
        pass
    ((_, fields),) = cast("list[tuple[bytes, dict[bytes, bytes]]]", parts.redis.xrange(keys.AUDIT))
    parts.redis.xadd(keys.AUDIT, {"e": fields[b"e"]})
    assert len(list(parts.audit.newest())) == 1


def test_the_newest_are_kept_and_shown_first(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MOST", 3)
    monkeypatch.setattr(audit, "_PAGE", 2)
    for number in range(5):
        with parts.audit.noted(WHO, "resend", f"sub_{number}"):
            pass
    actions = list(parts.audit.newest())
    assert [one.target for one in actions] == ["sub_4", "sub_3", "sub_2"]
    assert list(parts.audit.newest(actions[0].at_ms + 1)) == []
    assert next(parts.audit.newest(actions[0].at_ms)).target == "sub_4"


def test_nothing_is_done_that_cannot_be_noted(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        client = Client(server.url)
    done = []
    with pytest.raises(StoreUnreachable), AuditTrail(client).noted(WHO, "erase"):
        done.append(True)
    assert done == []
    client.close()


def test_memory_that_is_short_keeps_no_operator_from_freeing_some(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        parts = Parts(server.url)
        parts.redis.config_set("maxmemory", "1")
        with parts.audit.noted(WHO, "subscriptions remove", "sub_a"):
            pass
        assert [one.outcome for one in parts.audit.newest()] == [Outcome.DONE]
        parts.close()
