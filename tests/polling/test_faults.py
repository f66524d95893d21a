"""What the provider may do wrong: nothing is lost, nothing settles for it, and it is said once."""

from __future__ import annotations

import msgspec
import pytest

from bridge.domain import events
from bridge.domain.commits import ABSENT, Write
from bridge.domain.rate import Slowed
from bridge.domain.status import SessionState
from bridge.errors import AccountError, BridgeError, SettingsError, TransientProviderError
from bridge.polling.poll import Batch, Poller
from bridge.provider.client import UsmsClient
from bridge.store import keys
from tests.hostile import answering, ok, serving
from tests.parts import OPEN, Parts
from tests.polling.scripted import DOWN, HOUR_MS, POLICY, Scripted, poller, receipt, recorder, track

THROTTLED = TransientProviderError("RetCode 153: throttled", 153, throttled=True)
REFUSED = AccountError("RetCode 171: signature", 171)


def state_of(parts: Parts, name: str) -> SessionState:
    state = parts.sessions.read("default", [name])[name].state
    assert state is not None
    return state


def outcomes(parts: Parts, name: str) -> list[str]:
    return [one.outcome for one in parts.sessions.polls("default", name)]


def go_on(parts: Parts) -> None:
    """Let the pause be over."""
    parts.redis.hdel(keys.rate("default"), "until")


def test_throttling_slows_the_account_and_calls_that_were_refused_together_once(parts: Parts) -> None:
    track(parts, "s1")
    provider = Scripted()
    provider.failures += [THROTTLED, THROTTLED]
    polling = poller(parts, provider, calls_per_second=8)
    assert polling.step("default").failure is THROTTLED
    slowed = parts.rate.standing("default").slowed
    assert slowed is not None
    assert slowed.rate == 4
    go_on(parts)
    polling.step("default")
    assert parts.rate.standing("default").slowed == slowed
    assert outcomes(parts, "s1") == ["throttled", "throttled"]


def test_a_slowed_account_is_called_at_its_rate(parts: Parts) -> None:
    track(parts, "s1", phone_count=2)
    parts.rate.take("default", 1_000)
    parts.rate.slow("default", Slowed(0.5, parts.now_ms()))
    parts.redis.hset(keys.rate("default"), "tokens", 0)
    step = poller(parts, Scripted(), calls_per_second=5).step("default")
    assert step.polled == 0
    assert 1_500 < step.wait_ms <= 2_000


def test_an_hour_of_refused_signatures_loses_nothing_and_is_said_once(parts: Parts) -> None:
    """Sessions of every kind: one to settle, one past its deadline, one settled that was asked for again."""
    track(parts, "fresh")
    parts.write("old", state=msgspec.structs.replace(OPEN, sent_ms=1, expected_count=1), due=1)
    parts.write("done", state=msgspec.structs.replace(OPEN, settled_ms=5, expected_count=0), due=1, expires_ms=1 << 42)
    provider = Scripted({"fresh": [receipt()]})
    provider.failures += [REFUSED] * 15
    polling = poller(parts, provider)
    steps = []
    for _ in range(15):
        steps.append(polling.step("default"))
        assert polling.step("default").polled == 0, "paused"
        go_on(parts)
    assert len(provider.asked) == 15
    assert [step.first for step in steps] == [True] + [False] * 14
    assert [step.failures for step in steps] == list(range(1, 16))
    assert max(step.wait_ms for step in steps) == 225_000  # 5 minutes, in this chance's middle
    assert not list(parts.log.read("default"))
    assert state_of(parts, "old").settled_ms == 0
    assert set(outcomes(parts, "old")) == {"account refused"}

    step = polling.step("default")
    assert (step.polled, step.resumed) == (3, True)
    assert state_of(parts, "old").settled_ms
    assert state_of(parts, "fresh").settled_ms
    assert state_of(parts, "done").settled_ms == 5
    assert parts.rate.standing("default").failures == 0


def test_a_provider_that_refuses_a_session_is_back_all_the_same(parts: Parts) -> None:
    track(parts, "bad")
    provider = Scripted(bad=["bad"])
    provider.failures += [DOWN]
    polling = poller(parts, provider)
    polling.step("default")
    go_on(parts)
    assert polling.step("default").resumed
    assert parts.rate.standing("default").failures == 0


def test_an_account_without_keys_is_refused_as_one_with_wrong_ones(parts: Parts) -> None:
    track(parts, "s1")

    def nobody(_account: str) -> Scripted:
        raise SettingsError("BRIDGE_PUBLIC_KEY: not set")

    polling = Poller(
        sessions=parts.sessions,
        recorder=recorder(parts),
        rate=parts.rate,
        clock=parts.clock,
        provider=nobody,
        calls_per_second=lambda _account: 100,
        policy=POLICY,
        chance=lambda: 0.5,
    )
    step = polling.step("default")
    assert step.first
    assert "BRIDGE_PUBLIC_KEY" in str(step.failure)
    assert parts.sessions.due_ms("default", "s1") == 1


def test_what_fails_keeps_its_place_among_what_is_due(parts: Parts) -> None:
    for place in range(5):
        parts.write(f"s{place}", due=1 + place)
    provider = Scripted()
    provider.failures.append(DOWN)
    poller(parts, provider).step("default")
    assert [parts.sessions.due_ms("default", f"s{place}") for place in range(5)] == [1, 2, 3, 4, 5]
    parts.assert_index_is_right()


def test_a_failure_that_cannot_be_noted_is_a_failure_all_the_same(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is short of memory refuses the note; the sessions are handed back by a script that it takes."""
    track(parts, "s1")
    provider = Scripted()
    provider.failures.append(DOWN)

    def refuse(*_: object) -> None:
        raise BridgeError("Redis is out of memory")

    monkeypatch.setattr(parts.sessions, "commit", refuse)
    assert poller(parts, provider).step("default").failure is DOWN
    assert parts.sessions.due_ms("default", "s1") == 1


def test_halving_takes_a_token_for_each_call(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"s{number}" for number in range(16)]
    track(parts, *names)
    provider = Scripted({name: [receipt()] for name in names}, bad=["s5"])
    take, taken = parts.rate.take, []

    def counted(account: str, per_second: float) -> int:
        wait_ms = take(account, per_second)
        taken.append(wait_ms)
        return wait_ms

    monkeypatch.setattr(parts.rate, "take", counted)
    poller(parts, provider, calls_per_second=100).step("default")
    assert len(provider.asked) == 9
    assert taken.count(0) == 9


def test_halving_that_runs_out_of_time_goes_on_with_each_alone(parts: Parts) -> None:
    """Fault: at a low rate the same hundred were refused together again and again, and none was ever answered for."""
    names = [f"s{number}" for number in range(6)]
    track(parts, *names)
    provider = Scripted({name: [receipt()] for name in names}, bad=["s2"])
    short = msgspec.structs.replace(POLICY, lease_ms=2_000)
    provider.meanwhile = lambda: parts.clock.note(parts.clock.now_ms() + 600)
    polling = poller(parts, provider, short)
    polling.step("default")
    assert all(state_of(parts, name).refused for name in names)

    provider.meanwhile = lambda: None
    while True:
        parts.clock.note(parts.now_ms())
        if not polling.step("default").left:
            break
    assert {name for name in names if state_of(parts, name).settled_ms} == set(names) - {"s2"}
    assert state_of(parts, "s2").refused.startswith("RetCode 18001")
    assert not state_of(parts, "s1").refused


def test_one_that_is_refused_is_asked_for_alone_until_the_provider_takes_it(parts: Parts) -> None:
    track(parts, "good", "bad")
    provider = Scripted({"good": [receipt()], "bad": [receipt()]}, bad=["bad"])
    polling = poller(parts, provider)
    assert polling.step("default").refused == ("bad",)
    assert state_of(parts, "bad").refused == "RetCode 18001: SessionNo is wrong"
    assert outcomes(parts, "bad") == ["refused"]

    track(parts, "more")
    provider.says["more"] = [receipt()]
    provider.asked.clear()
    step = polling.step("default")
    assert sorted(provider.asked) == [["bad"], ["more"]], "it spoils no call of others"
    assert step.refused == ("bad",)

    provider.bad.clear()
    parts.make_due()
    assert polling.step("default").changed == 1
    assert state_of(parts, "bad").refused == ""
    assert state_of(parts, "bad").settled_ms
    assert outcomes(parts, "bad") == ["refused", "refused", "changed"]


def test_quarantine_past_the_deadline_settles_nothing_until_an_answer_ends_it(parts: Parts) -> None:
    """The receipt that was there all along is told when the provider answers again; it is not called late."""
    old = msgspec.structs.replace(OPEN, sent_ms=1, expected_count=1)
    parts.write("s1", state=old, due=1)
    provider = Scripted({"s1": [receipt()]}, bad=["s1"])
    polling = poller(parts, provider)
    polling.step("default")
    assert state_of(parts, "s1").settled_ms == 0
    provider.bad.clear()
    parts.make_due()
    polling.step("default")
    (logged,) = parts.log.read("default")
    record = events.unpack(logged.record)
    assert (events.STATUSES[record.status], record.late) == ("delivered", False)
    assert state_of(parts, "s1").settled_ms


def test_a_session_that_cannot_be_read_fails_no_other_and_is_looked_at_again_later(parts: Parts) -> None:
    track(parts, "s1", "s2")
    parts.redis.set(keys.session(parts.shard("s1"), "default", "s1"), b"vers\xff")
    step = poller(parts, Scripted({"s2": [receipt()]})).step("default")
    assert (step.polled, step.changed, step.damaged, step.left) == (1, 1, 1, 0)
    assert parts.sessions.damaged("default") == ["s1"]
    assert (parts.sessions.due_ms("default", "s1") or 0) > parts.now_ms() + HOUR_MS - 10_000

    track(parts, "s1")
    assert poller(parts, Scripted({"s1": [receipt()]})).step("default").changed == 1
    assert parts.sessions.damaged("default") == []


def test_only_damaged_sessions_make_no_call(parts: Parts) -> None:
    track(parts, "s1")
    parts.redis.set(keys.session(parts.shard("s1"), "default", "s1"), b"vers\xff")
    provider = Scripted()
    assert poller(parts, provider).step("default").damaged == 1
    assert provider.asked == []


def test_an_answer_of_twenty_megabytes_is_recorded_whole(parts: Parts) -> None:
    """Sessions of 1,000 phones that nobody announced: a hundred of them fit one call."""
    names = [f"s{number}" for number in range(100)]
    track(parts, *names, phone_count=None)
    filler = "x" * 60
    phones = ",".join(
        f'{{"Phone":"(86)185{phone:08d}","CostCount":1,"ReceiptResult":"Success","ReceiptCode":"DELIVRD",'
        f'"ReceiptDesc":"{filler}","ReceiptTime":1795423107,"UserId":""}}'
        for phone in range(1_000)
    )
    sessions = ",".join(f'{{"SessionNo":"{name}","ReceiptSet":[{phones}]}}' for name in names)
    body = f'{{"RetCode":0,"Action":"GetUSMSSendReceiptResponse","Data":[{sessions}]}}'.encode()
    assert len(body) > 19_000_000
    with serving(answering(ok(body))) as server:
        client = UsmsClient(url=server.url, public_key="p", private_key="k", timeout_ms=20_000)
        step = poller(parts, client).step("default")
        client.close()
    assert (step.polled, step.changed, step.failure) == (100, 100_000, None)
    assert sum(parts.redis.xlen(keys.log(shard, "default")) for shard in range(parts.shards)) == 100_000
    parts.redis.flushall()


# Newest and oldest, and what rides along


def test_a_fresh_session_among_a_multitude_that_is_late_is_in_the_next_call(parts: Parts) -> None:
    late = [f"late{number}" for number in range(3_000)]
    parts.sessions.commit("default", [Write(name, ABSENT, OPEN, 1 + place, None) for place, name in enumerate(late)])
    parts.write("fresh", due=parts.now_ms() - 1)
    provider = Scripted()
    step = poller(parts, provider).step("default")
    (asked,) = provider.asked
    assert len(asked) == 100
    assert step.left == 2_901
    assert "fresh" in asked
    places = sorted(late.index(name) for name in asked if name != "fresh")
    assert sum(place < 40 for place in places) >= 24, "and those that wait for longest go too"


def test_a_call_with_room_takes_along_what_is_due_soon(parts: Parts) -> None:
    now_ms = parts.now_ms()
    state = SessionState(sent_ms=now_ms - 3_500_000, tracked_ms=now_ms - 3_500_000, polled_ms=now_ms - 3_000_000)
    parts.write("soon", state=state, due=now_ms + 100_000)
    parts.write("young", state=SessionState(sent_ms=now_ms, tracked_ms=now_ms), due=now_ms + 1_000)
    track_due = SessionState(sent_ms=now_ms - 1_000, tracked_ms=now_ms - 1_000)
    parts.write("due", state=track_due, due=now_ms - 1)
    provider = Scripted()
    assert poller(parts, provider).step("default").polled == 2
    assert sorted(provider.asked[0]) == ["due", "soon"]
    assert parts.sessions.due_ms("default", "young") == now_ms + 1_000
    assert (parts.sessions.due_ms("default", "soon") or 0) > now_ms + 100_000, "that poll counts"
    parts.assert_index_is_right()


def test_what_another_poll_has_leased_does_not_ride_along(parts: Parts) -> None:
    """Fault: a lease's end looked like a due time that comes soon, and a second call asked for the same sessions."""
    track(parts, *(f"s{number}" for number in range(120)))
    polling = poller(parts, Scripted())
    first = polling.prepare("default")
    second = polling.prepare("default")
    assert isinstance(first, Batch)
    assert isinstance(second, Batch)
    assert [len(first.calls[0]), len(second.calls[0])] == [100, 20]


def test_what_the_provider_answers_beside_receipts_is_counted(parts: Parts) -> None:
    track(parts, "s1", "s2")
    provider = Scripted()
    polling = poller(parts, provider)
    fetch = provider.fetch_receipts

    def strange(session_nos: list[str]) -> object:
        return msgspec.structs.replace(
            fetch(session_nos), skipped=3, strangers=1, unseen_results=frozenset({"Teleported"})
        )

    provider.fetch_receipts = strange  # type: ignore[method-assign,assignment]
    step = polling.step("default")
    assert (step.skipped, step.strangers, step.unseen_results) == (3, 1, frozenset({"Teleported"}))


def test_a_refusal_of_all_ends_in_quarantine_and_no_settling(parts: Parts) -> None:
    names = [f"s{number}" for number in range(10)]
    track(parts, *names)
    provider = Scripted(bad=names)
    step = poller(parts, provider).step("default")
    assert sorted(step.refused) == names
    assert len(provider.asked) == 19
    assert all(state_of(parts, name).settled_ms == 0 for name in names)
