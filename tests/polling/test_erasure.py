"""An erased phone is not brought back by what the provider says of it."""

from __future__ import annotations

from bridge.domain.erasure import tombstone
from bridge.domain.status import SessionState
from bridge.store import keys
from tests.parts import Parts
from tests.polling.scripted import Scripted, poller, receipt


def put_tombstone(parts: Parts, phone: str) -> None:
    parts.redis.hset(keys.TOMBSTONES, tombstone(bytes(32), phone), parts.now_ms())
    parts.subscriptions.bump()


def phones(parts: Parts, session_no: str) -> set[str]:
    state = parts.sessions.read("default", [session_no])[session_no].state
    assert state is not None
    return {one.phone for one in state.phones}


def test_later_polls_do_not_bring_an_erased_phone_back(parts: Parts) -> None:
    provider = Scripted()
    polling = poller(parts, provider)
    provider.says["s1"] = [receipt("(86)18500000001"), receipt("(86)18500000002")]
    parts.write("s1", due=1, state=SessionState(sent_ms=parts.now_ms() - 1, tracked_ms=1))
    put_tombstone(parts, "18500000001")
    assert polling.step("default").changed == 1
    assert phones(parts, "s1") == {"(86)18500000002"}
    assert len(list(parts.log.read("default"))) == 1


def test_a_session_does_not_wait_for_a_phone_that_was_erased_before_it_was_heard_of(parts: Parts) -> None:
    """Fault: a phone was erased between its tracking, by a count, and the first receipt, and its session waited for it
    to the end of BRIDGE_GIVE_UP_AFTER: asked for again and again, and never told to be complete.

    Cause: erasing lowers what is expected where the phone is known, and later answers lost it without a trace.
    """
    provider = Scripted()
    provider.says["s1"] = [receipt("(86)18500000001"), receipt("(86)18500000002")]
    state = SessionState(sent_ms=parts.now_ms() - 1, tracked_ms=1, expected_count=2)
    parts.write("s1", due=1, state=state)
    put_tombstone(parts, "18500000001")
    assert poller(parts, provider).step("default").changed == 1
    after = parts.sessions.read("default", ["s1"])["s1"].state
    assert after is not None
    assert after.settled_ms
    assert (after.expected_count, len(after.phones)) == (1, 1)


def test_what_is_sent_to_the_phone_afterwards_is_told(parts: Parts) -> None:
    """A phone is erased, not banned: its owner may come back."""
    provider = Scripted()
    put_tombstone(parts, "18500000001")
    provider.says["s2"] = [receipt("(86)18500000001")]
    parts.write("s2", due=1, state=SessionState(sent_ms=parts.now_ms() + 1, tracked_ms=1))
    assert poller(parts, provider).step("default").changed == 1
    assert phones(parts, "s2") == {"(86)18500000001"}


def test_a_poller_that_has_the_registry_already_hears_of_it(parts: Parts) -> None:
    provider = Scripted()
    polling = poller(parts, provider)
    provider.says["s1"] = [receipt("(86)18500000001")]
    parts.write("s1", due=1, state=SessionState(sent_ms=1, tracked_ms=1))
    parts.write("s0", due=1, state=SessionState(sent_ms=1, tracked_ms=1))
    provider.meanwhile = lambda: put_tombstone(parts, "18500000001")
    polling.step("default")
    assert phones(parts, "s1") == set()
