"""Tracking on a real store: what senders say is merged, never lost, and repeats harmlessly."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from bridge.domain.status import SessionState
from bridge.domain.tracking import SessionRequest
from bridge.store import keys
from tests.parts import Parts
from tests.polling.scripted import HOUR_MS, POLICY, Scripted, poller, receipt, tracker


def track(parts: Parts, *requests: SessionRequest) -> None:
    tracker(parts).track("default", requests)


def state_of(parts: Parts, name: str) -> SessionState:
    state = parts.sessions.read("default", [name])[name].state
    assert state is not None
    return state


def test_a_tracked_session_is_due_at_the_first_age(parts: Parts) -> None:
    before = parts.now_ms()
    track(parts, SessionRequest("s1"))
    first_ms = (parts.sessions.due_ms("default", "s1") or 0) - POLICY.ages_ms[0]
    assert before <= first_ms <= parts.now_ms()
    assert before <= state_of(parts, "s1").tracked_ms <= parts.now_ms()
    parts.assert_index_is_right()


def test_one_sent_long_ago_is_due_now(parts: Parts) -> None:
    track(parts, SessionRequest("s1", sent_at_ms=parts.now_ms() - 24 * HOUR_MS))
    assert (parts.sessions.due_ms("default", "s1") or 0) <= parts.now_ms()


def test_a_thousand_are_stored_in_two_round_trips(parts: Parts) -> None:
    parts.sessions.commit("default", [])
    track(parts, SessionRequest("first"))
    before = parts.client.round_trips
    track(parts, *(SessionRequest(f"s{number}") for number in range(1_000)))
    assert parts.client.round_trips - before <= 3  # the third: what a flushed server must be taught again
    assert sum(1 for _ in parts.sessions.scan("default")) == 1_001


def test_tracking_again_merges_and_keeps_the_due_time(parts: Parts) -> None:
    track(parts, SessionRequest("s1", phone_count=1, metadata_json='{"a":1}'))
    due_ms = parts.sessions.due_ms("default", "s1")
    track(parts, SessionRequest("s1", phone_count=3))
    track(parts, SessionRequest("s1", metadata_json='{"a":2}'))
    track(parts, SessionRequest("s1"))
    state = state_of(parts, "s1")
    assert (state.expected_count, state.metadata) == (3, '{"a":2}')
    assert parts.sessions.due_ms("default", "s1") == due_ms


def test_one_session_many_times_in_one_call_is_merged_in_order(parts: Parts) -> None:
    """Fault: a message that named one session 21 times went back to its queue, for ever.

    Repeats were stored one a try, as if somebody else had written in between, and there are twenty tries. They are
    merged before they are stored.
    """
    many = [SessionRequest("s1", metadata_json=f'{{"n":{number}}}') for number in range(50)]
    others = [SessionRequest(f"other{number}") for number in range(50)]
    mixed = [request for pair in zip(many, others, strict=True) for request in pair]

    track(parts, SessionRequest("s1", phone_count=2), *mixed)

    state = state_of(parts, "s1")
    assert (state.metadata, state.expected_count) == ('{"n":49}', 2)
    assert sum(1 for _ in parts.sessions.scan("default")) == 51


def test_a_settled_session_stays_settled_with_its_expiry(parts: Parts) -> None:
    track(parts, SessionRequest("s1", phone_count=1))
    parts.make_due()
    poller(parts, Scripted({"s1": [receipt()]})).step("default")
    before = state_of(parts, "s1")
    expiry = parts.redis.zscore(keys.expiry(parts.shard("s1")), "default:s1")

    track(parts, SessionRequest("s1", phone_count=1))

    assert state_of(parts, "s1") == before
    assert parts.sessions.due_ms("default", "s1") is None
    assert parts.redis.zscore(keys.expiry(parts.shard("s1")), "default:s1") == expiry


def test_expecting_more_opens_a_settled_session_again(parts: Parts) -> None:
    track(parts, SessionRequest("s1", phone_count=1))
    parts.make_due()
    provider = Scripted({"s1": [receipt()]})
    poller(parts, provider).step("default")

    track(parts, SessionRequest("s1", phone_count=2))

    assert (parts.sessions.due_ms("default", "s1") or 0) <= parts.now_ms()
    assert parts.redis.zscore(keys.expiry(parts.shard("s1")), "default:s1") is None
    assert parts.sessions.expire(parts.now_ms() + 10 * HOUR_MS, 10) == 0
    provider.says["s1"] = [receipt(), receipt("18500000002")]
    parts.make_due()
    assert poller(parts, provider).step("default").changed == 1
    assert state_of(parts, "s1").settled_ms


def test_a_leased_session_keeps_its_lease(parts: Parts) -> None:
    """Tracked again while a poll has it: it is not handed to a second poll."""
    track(parts, SessionRequest("s1"))
    parts.make_due()
    assert parts.claim_due({parts.shard("s1"): 1}, 60_000) == ["s1"]
    lease_end_ms = parts.sessions.due_ms("default", "s1")
    track(parts, SessionRequest("s1", phone_count=1))
    assert parts.sessions.due_ms("default", "s1") == lease_end_ms
    assert (lease_end_ms or 0) > parts.now_ms()


def test_senders_side_by_side_lose_no_word(parts: Parts) -> None:
    """Eight senders name the same sessions at once, each with another word about them."""
    barrier = Barrier(8)

    def work(number: int) -> None:
        word = SessionRequest("", phone_count=5) if number % 2 else SessionRequest("", metadata_json='{"a":1}')
        mine = [SessionRequest(f"s{i}", word.phones, word.phone_count, word.metadata_json) for i in range(40)]
        barrier.wait(10)
        tracker(parts).track("default", mine)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    for number in range(40):
        state = state_of(parts, f"s{number}")
        assert (state.expected_count, state.metadata) == (5, '{"a":1}')
    parts.assert_index_is_right()
