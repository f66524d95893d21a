"""Polling on a real store: what changed is recorded once, whatever the provider and other writers do meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import msgspec
import pytest

from bridge.domain import events
from bridge.domain.commits import ABSENT, CommitResult, Write
from bridge.domain.status import SessionState
from bridge.domain.tracking import SessionRequest
from bridge.errors import AccountError, BridgeError
from bridge.polling.answers import Recorded
from bridge.polling.poll import Step
from bridge.store import keys
from tests.parts import OPEN, SUB, Parts, subscription, until
from tests.polling.scripted import (
    DOWN,
    HOUR_MS,
    POLICY,
    Scripted,
    knowing_poller,
    poller,
    receipt,
    recorder,
    track,
    tracker,
)


def recorded(parts: Parts) -> list[str]:
    """The sessions of all events, sorted."""
    return sorted(events.unpack(logged.record).session_no for logged in parts.log.read("default"))


def state_of(parts: Parts, name: str) -> SessionState:
    state = parts.sessions.read("default", [name])[name].state
    assert state is not None
    return state


def test_a_change_is_recorded_routed_and_the_session_settled(parts: Parts) -> None:
    parts.subscriptions.put(subscription())
    track(parts, "s1")
    step = poller(parts, Scripted({"s1": [receipt()]})).step("default")

    assert (step.polled, step.changed, step.routed, step.left) == (1, 1, 1, 0)
    (logged,) = parts.log.read("default")
    (waiting,) = parts.queues.waiting(SUB, 10)
    assert waiting.positions == (logged.position,)
    state = state_of(parts, "s1")
    assert state.settled_ms
    assert parts.sessions.due_ms("default", "s1") is None
    expiry = parts.redis.zscore(keys.expiry(parts.shard("s1")), "default:s1")
    assert expiry == state.settled_ms + POLICY.keep_settled_ms
    parts.assert_index_is_right()


def test_nothing_due_asks_nobody(parts: Parts) -> None:
    provider = Scripted()
    assert poller(parts, provider).step("default") == Step()
    tracker(parts).track("default", [SessionRequest("s1")])
    assert poller(parts, provider).step("default") == Step()
    assert provider.asked == []


def test_what_is_not_settled_is_polled_again_and_records_nothing_twice(parts: Parts) -> None:
    track(parts, "s1", phone_count=2)
    polling = poller(parts, Scripted({"s1": [receipt()]}))
    for _ in range(3):
        assert polling.step("default").polled == 1
        assert (parts.sessions.due_ms("default", "s1") or 0) > parts.now_ms()
        parts.make_due()
    assert recorded(parts) == ["s1"]


@pytest.mark.parametrize("phone_count", [1, 2], ids=["settled", "open"])
def test_who_has_news_of_a_session_while_it_is_polled_has_it_polled_again(parts: Parts, phone_count: int) -> None:
    """Fault: the provider pushed news of a session while an answer of it was under way that did not have it yet. The
    poll wrote its own next due time over that of the push, or took it out: a late receipt was never asked for.
    """
    track(parts, "s1", phone_count=phone_count)
    provider = Scripted({"s1": [receipt()]})

    def push() -> None:
        parts.pushes.hint("default", ["s1"])

    provider.meanwhile = push
    polling = poller(parts, provider)
    assert polling.step("default").polled == 1
    assert (parts.sessions.due_ms("default", "s1") or HOUR_MS**2) <= parts.now_ms()
    parts.assert_index_is_right()
    provider.meanwhile = lambda: None
    provider.says["s1"] = [receipt(), receipt("18500000002")]
    assert polling.step("default").changed == 1
    assert parts.sessions.due_ms("default", "s1") is None


def test_a_session_that_is_told_late_whom_it_expects_settles_soon(parts: Parts) -> None:
    """Fault: a tracking that named no phones came first, and the one that did was brought back a minute later. By then
    all was said, and nobody asked again for 20 minutes, or for hours: so long its completion was not told.
    """
    track(parts, "s1", "s2", phone_count=None)
    polling = poller(parts, Scripted({"s1": [receipt()], "s2": [receipt()]}))
    polling.step("default")
    assert not state_of(parts, "s1").settled_ms
    later = parts.sessions.due_ms("default", "s2")
    tracker(parts).track("default", [SessionRequest("s1", phone_count=1), SessionRequest("s2")])
    assert (parts.sessions.due_ms("default", "s1") or HOUR_MS**2) <= parts.now_ms()
    assert parts.sessions.due_ms("default", "s2") == later, "of it nothing new was said"
    assert polling.step("default").polled == 1
    assert state_of(parts, "s1").settled_ms
    tracker(parts).track("default", [SessionRequest("s1", phone_count=1)])
    assert parts.sessions.due_ms("default", "s1") is None


def test_tracking_a_settled_session_again_leaves_it_due_where_somebody_asked_for_it(parts: Parts) -> None:
    """Fault: its due time was taken out, and with it what the provider's push, or an operator, had asked for."""
    track(parts, "s1", "s2")
    poller(parts, Scripted({"s1": [receipt()], "s2": [receipt()]})).step("default")
    assert parts.sessions.poll_now("default", ["s1"]) == {"s1"}
    tracker(parts).track("default", [SessionRequest("s1"), SessionRequest("s2")])
    assert (parts.sessions.due_ms("default", "s1") or HOUR_MS**2) <= parts.now_ms()
    assert parts.sessions.due_ms("default", "s2") is None
    parts.assert_index_is_right()


def test_a_call_takes_a_hundred_of_all_shards_and_leaves_the_rest_due(parts: Parts) -> None:
    names = [f"s{number}" for number in range(250)]
    track(parts, *names)
    provider = Scripted({name: [receipt()] for name in names})
    polling = poller(parts, provider)

    assert [polling.step("default").left for _ in range(3)] == [150, 50, 0]
    assert [len(asked) for asked in provider.asked] == [100, 100, 50]
    assert recorded(parts) == sorted(names)


def test_what_does_not_fit_a_call_is_handed_back(parts: Parts) -> None:
    """Each may have 9,000 receipts: two fit under the 20,000 of an answer."""
    names = [f"s{number}" for number in range(5)]
    state = SessionState(sent_ms=1, tracked_ms=1, expected_count=9_000)
    parts.sessions.commit("default", [Write(name, ABSENT, state, 1, None) for name in names])
    provider = Scripted()
    polling = poller(parts, provider)

    assert [polling.step("default").left for _ in range(3)] == [3, 1, 0]
    assert sorted(name for asked in provider.asked for name in asked) == names
    parts.assert_index_is_right()


def test_concurrent_polls_of_the_same_sessions_record_each_change_once(parts: Parts) -> None:
    """Six pollers with one answer, as when leases end while calls still run."""
    parts.subscriptions.put(subscription())
    names = [f"s{number}" for number in range(60)]
    track(parts, *names)
    stored = parts.sessions.read("default", names)
    answer = {name: [receipt(), receipt("18500000002", "Fail")] for name in names}
    barrier = Barrier(6)

    def apply(_number: int) -> Recorded:
        recording = recorder(parts, POLICY)
        barrier.wait(10)
        return recording.record("default", stored, answer)

    with ThreadPoolExecutor(6) as pool:
        steps = list(pool.map(apply, range(6)))

    assert sum(step.changed for step in steps) == sum(step.routed for step in steps) == 120
    assert recorded(parts) == sorted(names * 2)
    waiting = [place for lane in parts.queues.waiting(SUB, 1_000) for place in lane.positions]
    assert sorted(waiting) == [logged.position for logged in parts.log.read("default")]


def test_pollers_side_by_side_share_the_work(parts: Parts) -> None:
    names = [f"s{number}" for number in range(900)]
    track(parts, *names)
    provider = Scripted({name: [receipt()] for name in names})

    def work(_number: int) -> None:
        polling = poller(parts, provider)
        while polling.step("default").left:
            pass

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(work, range(5)))
    assert recorded(parts) == sorted(names)
    assert sorted(name for asked in provider.asked for name in asked) == sorted(names)


def test_a_subscription_added_in_the_middle_of_a_poll_hears_what_is_committed_after(parts: Parts) -> None:
    parts.subscriptions.put(subscription("sub_old"))
    track(parts, "s1")
    provider = Scripted({"s1": [receipt()]})
    polling = knowing_poller(parts, provider)
    provider.meanwhile = lambda: parts.subscriptions.put(subscription("sub_new", created_ms=2))

    assert polling.step("default").routed == 2
    assert parts.queues.lengths(["sub_old", "sub_new"]) == {"sub_old": 1, "sub_new": 1}
    assert recorded(parts) == ["s1"]


def test_a_subscription_hears_nothing_of_what_was_committed_before_it(parts: Parts) -> None:
    track(parts, "s1", "s2")
    provider = Scripted({"s1": [receipt()]})
    polling = poller(parts, provider)
    assert polling.step("default").changed == 1
    parts.subscriptions.put(subscription())
    provider.says["s2"] = [receipt()]
    parts.make_due()
    assert polling.step("default").changed == 1
    ((waiting,),) = [one.positions for one in parts.queues.waiting(SUB, 10)]
    *_, last = parts.log.read("default")
    assert waiting == last.position


def test_a_removed_subscription_hears_nothing_more(parts: Parts) -> None:
    parts.subscriptions.put(subscription())
    track(parts, "s1")
    provider = Scripted({"s1": [receipt()]})
    polling = knowing_poller(parts, provider)
    provider.meanwhile = lambda: parts.subscriptions.remove(SUB)
    assert (polling.step("default").changed, parts.queues.lengths([SUB])) == (1, {SUB: 0})


def test_a_subscription_whose_author_died_while_adding_it_is_heard_of_within_seconds(parts: Parts) -> None:
    """Fault: it was listed, and never got an event, until the next change of any subscription.

    Its author died between writing it and changing the versions. A poller now reads the registry again every 10 s.
    """
    track(parts, "s1", phone_count=2)
    provider = Scripted()
    polling = poller(parts, provider)
    polling.step("default")
    parts.redis.hset(keys.SUBSCRIPTIONS, SUB, msgspec.msgpack.encode(subscription()))
    parts.clock.note(parts.now_ms() + 11_000)
    provider.says["s1"] = [receipt()]
    provider.meanwhile = lambda: parts.clock.note(parts.now_ms() + 11_000)
    parts.make_due()
    assert polling.step("default").routed == 1


def test_a_session_tracked_while_it_is_polled_keeps_both_changes(parts: Parts) -> None:
    """The commit is refused, and the same receipts are applied to what the sender has written."""
    track(parts, "s1")
    provider = Scripted({"s1": [receipt()]})
    more = SessionRequest("s1", phone_count=2, metadata_json='{"order":7}')
    provider.meanwhile = lambda: tracker(parts).track("default", [more])

    assert poller(parts, provider).step("default").changed == 1

    state = state_of(parts, "s1")
    assert (state.expected_count, state.metadata, len(state.phones)) == (2, '{"order":7}', 1)
    assert state.settled_ms == 0
    assert (parts.sessions.due_ms("default", "s1") or 0) > parts.now_ms()
    assert recorded(parts) == ["s1"]


def test_a_session_that_vanished_while_it_was_polled_is_let_go(parts: Parts) -> None:
    track(parts, "s1", "s2")
    provider = Scripted({"s1": [receipt()], "s2": [receipt()]})

    def forget() -> None:
        parts.redis.delete(keys.session(parts.shard("s1"), "default", "s1"))

    provider.meanwhile = forget
    assert poller(parts, provider).step("default").changed == 1
    assert recorded(parts) == ["s2"]


def test_a_session_that_is_rewritten_forever_is_an_error_not_a_loop(
    parts: Parts, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    track(parts, "s1")
    rival = Parts(store_url)
    commit = parts.sessions.commit

    def overtaken(
        account: str, writes: Iterable[Write], versions: Mapping[int, bytes] | None = None
    ) -> dict[str, CommitResult]:
        rival.write("s1")
        return commit(account, writes, versions)

    with monkeypatch.context() as patched:
        patched.setattr(parts.sessions, "commit", overtaken)
        with pytest.raises(BridgeError, match="kept changing"):
            poller(parts, Scripted({"s1": [receipt()]})).step("default")
        with pytest.raises(BridgeError, match="kept changing"):
            tracker(parts).track("default", [SessionRequest("s1")])
    rival.close()
    parts.make_due()
    assert poller(parts, Scripted({"s1": [receipt()]})).step("default").changed == 1


def test_an_unknown_session_is_no_longer_due(parts: Parts) -> None:
    track(parts, "s1", "s2")
    parts.redis.delete(keys.session(parts.shard("s1"), "default", "s1"))
    provider = Scripted({"s2": [receipt()]})
    assert poller(parts, provider).step("default").left == 0
    assert provider.asked == [["s2"]]
    assert parts.sessions.due_ms("default", "s1") is None
    parts.assert_index_is_right()


def test_only_unknown_sessions_make_no_call(parts: Parts) -> None:
    track(parts, "s1")
    parts.redis.delete(keys.session(parts.shard("s1"), "default", "s1"))
    provider = Scripted()
    assert poller(parts, provider).step("default") == Step()
    assert provider.asked == []
    parts.assert_index_is_right()


def test_a_failure_pauses_the_account_and_hands_its_sessions_back(parts: Parts) -> None:
    track(parts, "s1", "s2")
    provider = Scripted({"s1": [receipt()], "s2": [receipt()]})
    provider.failures.append(DOWN)
    polling = poller(parts, provider)

    step = polling.step("default")
    assert (step.failure, step.failures, step.left, step.wait_ms) == (DOWN, 1, 2, 750)
    again = polling.step("default")
    assert again.left == 2
    assert 0 < again.wait_ms <= 750
    assert len(provider.asked) == 1, "no call is made while the account is paused"

    until(lambda: polling.step("default").changed == 2)
    assert parts.rate.paused("default") == (0, 0, "")
    assert recorded(parts) == ["s1", "s2"]


def test_pauses_grow_up_to_a_minute_and_begin_anew_after_a_success(parts: Parts) -> None:
    track(parts, "s1", phone_count=2)
    provider = Scripted()
    polling = poller(parts, provider)
    pauses = []
    for failure in [DOWN] * 9 + [None, DOWN]:
        provider.failures.append(failure)
        pauses.append(polling.step("default").wait_ms)
        parts.redis.hdel(keys.rate("default"), "until")
        parts.make_due()
    assert pauses == [750, 1_500, 3_000, 6_000, 12_000, 24_000, 45_000, 45_000, 45_000, 0, 750]


def test_an_account_that_is_refused_is_probed_at_a_slow_pace_and_loses_nothing(parts: Parts) -> None:
    track(parts, "s1")
    provider = Scripted({"s1": [receipt()]})
    refused = AccountError("RetCode 171: signature", 171)
    provider.failures += [refused, refused]
    polling = poller(parts, provider)
    for failures, pause_ms in ((1, 45_000), (2, 90_000)):
        step = polling.step("default")
        assert (step.wait_ms, step.failure, step.failures, step.first) == (pause_ms, refused, failures, failures == 1)
        assert parts.rate.paused("default")[2] == "RetCode 171: signature"
        parts.redis.hdel(keys.rate("default"), "until")
    assert state_of(parts, "s1").polled_ms == 0, "an outage is no word of the provider's"
    assert polling.step("default").changed == 1


def test_an_account_at_its_rate_waits_and_claims_nothing(parts: Parts) -> None:
    track(parts, "s1")
    assert parts.rate.take("default", 0.01) == 0
    step = poller(parts, Scripted(), calls_per_second=0.01).step("default")
    assert (step.left, step.polled) == (1, 0)
    assert 90_000 < step.wait_ms <= 100_000
    assert parts.sessions.due_ms("default", "s1") == 1


@pytest.mark.parametrize("bad", [["s0"], ["s63"], ["s17", "s18"], ["s5", "s99"]])
def test_a_refused_call_is_halved_until_the_sessions_at_fault_stand_alone(parts: Parts, bad: list[str]) -> None:
    names = [f"s{number}" for number in range(100)]
    track(parts, *names)
    provider = Scripted({name: [receipt()] for name in names}, bad=bad)

    step = poller(parts, provider).step("default")

    assert (step.changed, step.failure, step.wait_ms) == (100 - len(bad), None, 0)
    assert recorded(parts) == sorted(set(names) - set(bad))
    assert len(provider.asked) <= 1 + 2 * 7 * len(bad)
    for name in bad:
        assert 0 < (parts.sessions.due_ms("default", name) or 0) - parts.now_ms() <= HOUR_MS
        assert state_of(parts, name).settled_ms == 0
    parts.assert_index_is_right()


def test_a_failure_amid_halving_hands_back_only_what_was_not_answered(parts: Parts) -> None:
    """Fault: sessions polled a moment ago were due again at once, and so was the one that the provider refuses.

    A time-out while a refused call was halved put off the whole call, the answered halves with it, and reported none
    of the events that those had brought: nobody was woken to send them.
    """
    parts.subscriptions.put(subscription())
    names = [f"s{number}" for number in range(8)]
    track(parts, *names, phone_count=2)
    provider = Scripted({name: [receipt()] for name in names})
    polling = poller(parts, provider)
    polling.step("default")  # to learn the order in which they are claimed
    (order,) = provider.asked
    parts.make_due()
    provider.says = {name: [receipt(), receipt("18500000002")] for name in names}
    provider.bad = {order[0]}
    # All, the first half, its first quarter, the bad one, the other of that quarter, and then it goes wrong.
    provider.failures += [None, None, None, None, None, DOWN]

    step = polling.step("default")

    assert (step.failure, step.changed, step.routed, step.left) == (DOWN, 1, 1, 6)
    now_ms = parts.now_ms()
    due = {name: (parts.sessions.due_ms("default", name) or 0) - now_ms for name in order}
    assert due[order[0]] > HOUR_MS - 10_000
    assert parts.sessions.due_ms("default", order[1]) is None, "it has settled"
    assert all(due[name] <= 0 for name in order[2:])
    parts.assert_index_is_right()


def test_a_crash_after_the_claim_lets_the_sessions_come_due_again(parts: Parts) -> None:
    track(parts, "s1")
    provider = Scripted({"s1": [receipt()]})

    def crash() -> None:
        raise KeyboardInterrupt

    provider.meanwhile = crash
    short = msgspec.structs.replace(POLICY, lease_ms=200)
    with pytest.raises(KeyboardInterrupt):
        poller(parts, provider, short).step("default")
    provider.meanwhile = lambda: None
    until(lambda: poller(parts, provider, short).step("default").changed == 1)
    assert recorded(parts) == ["s1"]


def test_giving_up_needs_an_answer(parts: Parts) -> None:
    """The deadline has passed; the provider is down; nothing is said of the phone until it answers."""
    old = msgspec.structs.replace(OPEN, sent_ms=1, expected_count=1, awaiting=(("18500000001", None),))
    parts.write("s1", state=old, due=1)
    provider = Scripted()
    provider.failures.append(DOWN)
    polling = poller(parts, provider)
    assert polling.step("default").changed == 0
    parts.redis.hdel(keys.rate("default"), "until")
    assert polling.step("default").changed == 1
    (logged,) = parts.log.read("default")
    assert events.STATUSES[events.unpack(logged.record).status] == "no_receipt"
    assert state_of(parts, "s1").settled_ms


def test_a_due_time_without_a_reason_is_taken_away_by_the_next_poll(parts: Parts) -> None:
    """A settled session that somebody made due: it is asked for once, stays settled, and keeps its expiry."""
    track(parts, "s1")
    provider = Scripted({"s1": [receipt()]})
    polling = poller(parts, provider)
    polling.step("default")
    settled = state_of(parts, "s1").settled_ms
    expiry = parts.redis.zscore(keys.expiry(parts.shard("s1")), "default:s1")
    parts.write("s1", state=state_of(parts, "s1"), due=1, expires_ms=int(expiry or 0))

    assert polling.step("default").changed == 0

    assert state_of(parts, "s1").settled_ms == settled
    assert parts.sessions.due_ms("default", "s1") is None
    assert parts.redis.zscore(keys.expiry(parts.shard("s1")), "default:s1") == expiry
