"""Completed and overdue sessions, on a real store: told once, to those who ask, whatever the provider does."""

from __future__ import annotations

import json

import msgspec

from bridge.domain import events
from bridge.domain.commits import CommitResult, Write
from bridge.domain.tracking import SessionRequest
from bridge.errors import TransientProviderError
from bridge.polling.overdue import Told, Watch
from tests.parts import SUB, Parts, subscription, until
from tests.polling.scripted import HOUR_MS, POLICY, Scripted, committer, poller, receipt, tracker

ASKING = ("sms.status.changed", "sms.session.completed", "sms.session.overdue")
SOON = msgspec.structs.replace(POLICY, overdue_ms=1_000)


def subscribe(parts: Parts, name: str = SUB, types: tuple[str, ...] = ASKING) -> None:
    parts.subscriptions.put(msgspec.structs.replace(subscription(name), types=types))


def recorded(parts: Parts) -> list[events.Record]:
    return [events.unpack(one.record) for one in parts.log.read("default")]


def told(parts: Parts, event_type: int) -> list[dict[str, object]]:
    found = [json.loads(events.render("default", one)[1]) for one in recorded(parts) if one.type == event_type]
    return [one["data"] for one in found]


def watch(parts: Parts, overdue_ms: int = SOON.overdue_ms, after_ms: int = 62_000) -> Watch:
    parts.clock.note(parts.now_ms() + after_ms)
    return Watch(sessions=parts.sessions, committer=committer(parts), clock=parts.clock, overdue_ms=overdue_ms)


def track_overdue(parts: Parts, *names: str, phone_count: int | None = 1) -> None:
    """Track sessions that were sent long ago; ``watch`` looks when their minute of grace is over."""
    sent = parts.now_ms() - 20 * HOUR_MS
    requests = [SessionRequest(name, phone_count=phone_count, sent_at_ms=sent) for name in names]
    tracker(parts, SOON).track("default", requests)


def test_a_completed_session_is_told_to_those_who_ask_beside_its_phones(parts: Parts) -> None:
    subscribe(parts)
    subscribe(parts, "sub_b", ("sms.session.completed",))
    subscribe(parts, "sub_c", ("sms.status.changed",))
    tracker(parts).track("default", [SessionRequest("s1", phone_count=2, metadata_json='{"n":1}')])
    parts.make_due()
    provider = Scripted({"s1": [receipt()]})
    polling = poller(parts, provider)
    polling.step("default")
    assert told(parts, events.COMPLETED) == []

    provider.says["s1"] = [receipt(), receipt("18500000002", "Fail")]
    parts.make_due()
    polling.step("default")

    (one,) = told(parts, events.COMPLETED)
    assert one == {
        "account": "default",
        "session_no": "s1",
        "statuses": {"delivered": 1, "undelivered": 1},
        "segments": 2,
        "expected_count": 2,
        "metadata": {"n": 1},
    }
    lengths = parts.queues.lengths([SUB, "sub_b", "sub_c"])
    assert lengths == {SUB: 3, "sub_b": 1, "sub_c": 2}
    parts.assert_index_is_right()


def test_without_anybody_who_asks_no_completion_is_recorded(parts: Parts) -> None:
    subscribe(parts, types=("sms.status.changed",))
    tracker(parts).track("default", [SessionRequest("s1", phone_count=1)])
    parts.make_due()
    poller(parts, Scripted({"s1": [receipt()]})).step("default")
    assert [one.type for one in recorded(parts)] == [0]


def test_a_late_receipt_completes_again_under_another_id(parts: Parts) -> None:
    subscribe(parts)
    old_ms = parts.now_ms() - 80 * HOUR_MS
    tracker(parts).track("default", [SessionRequest("s1", phones=(("18500000001", None),), sent_at_ms=old_ms)])
    parts.make_due()
    provider = Scripted()
    polling = poller(parts, provider)
    polling.step("default")
    provider.says["s1"] = [receipt()]
    assert parts.sessions.poll_now("default", ["s1"]) == {"s1"}
    until(lambda: polling.step("default").changed == 2)  # the poller's clock may be a millisecond behind

    assert [one["statuses"] for one in told(parts, events.COMPLETED)] == [{"no_receipt": 1}, {"delivered": 1}]
    ids = {events.event_id("default", one) for one in recorded(parts)}
    assert len(ids) == len(recorded(parts)) == 4
    late = [one for one in recorded(parts) if not one.type][-1]
    assert late.late
    assert parts.sessions.due_ms("default", "s1") is None, "settled still: it was asked once more"


def test_a_session_is_told_as_overdue_once_while_the_provider_is_down(parts: Parts) -> None:
    subscribe(parts)
    track_overdue(parts, "s1")
    provider = Scripted()
    provider.failures.append(TransientProviderError("no answer"))
    parts.make_due()
    assert poller(parts, provider).step("default").failure is not None

    looking = watch(parts)
    assert looking.look() == Told(1, 1, 1)
    assert looking.look() is None
    (one,) = told(parts, events.OVERDUE)
    assert (one["session_no"], one["statuses"]) == ("s1", {"tracked": 1})
    assert parts.queues.lengths([SUB]) == {SUB: 1}
    state = parts.sessions.read("default", ["s1"])["s1"].state
    assert state is not None
    assert state.overdue
    assert state.settled_ms == 0
    assert parts.sessions.due_ms("default", "s1") is not None, "it is polled as before"
    tracker(parts, SOON).track("default", [SessionRequest("s1", sent_at_ms=state.sent_ms - 1)])
    assert watch(parts).look() is None
    parts.assert_index_is_right()


def test_what_has_settled_or_gone_or_cannot_be_read_is_not_overdue(parts: Parts) -> None:
    subscribe(parts)
    track_overdue(parts, "done", "gone", "broken", "late")
    parts.make_due()
    poller(parts, Scripted({"done": [receipt()]}), SOON).step("default")
    parts.redis.delete(f"u{{{parts.shard('gone')}}}:s:default:gone")
    parts.redis.set(f"u{{{parts.shard('broken')}}}:s:default:broken", b"vers\xff")
    while watch(parts).look() is not None:
        pass
    assert [one["session_no"] for one in told(parts, events.OVERDUE)] == ["late"]


def test_before_its_time_nobody_looks(parts: Parts) -> None:
    tracker(parts).track("default", [SessionRequest("s1", phone_count=1)])
    assert watch(parts, POLICY.overdue_ms, after_ms=11 * HOUR_MS).look() is None
    assert watch(parts, POLICY.overdue_ms, after_ms=12 * HOUR_MS + 61_000).look() == Told(1, 1, 0)


def test_a_crash_after_the_telling_tells_nothing_twice(parts: Parts) -> None:
    subscribe(parts)
    names = [f"s{number}" for number in range(20)]
    track_overdue(parts, *names)
    looking = watch(parts)
    lists = parts.sessions.watched(parts.clock.now_ms(), 100)
    looking.look()
    for one in lists:  # as if they had never been forgotten
        for session_no in one.session_nos:
            parts.redis.rpush(f"u{{{one.shard}}}:watch:default:{one.at_ms}", session_no)
        parts.redis.zadd(f"u{{{one.shard}}}:watches", {f"default:{one.at_ms}": one.at_ms})
    while looking.look() is not None:
        pass
    assert sorted(str(one["session_no"]) for one in told(parts, events.OVERDUE)) == sorted(names)


def test_a_session_that_settles_while_it_is_looked_at_is_not_overdue(parts: Parts) -> None:
    """The commit is fenced: whoever was faster is read again."""
    subscribe(parts)
    track_overdue(parts, "s1")
    parts.make_due()
    looking = watch(parts)
    assert parts.sessions.watched(parts.clock.now_ms(), 100)
    commit = parts.sessions.commit
    done: list[CommitResult] = []

    def overtaken(account: str, writes: list[Write], versions: object = None) -> dict[str, CommitResult]:
        if not done:
            done.append(CommitResult.CONFLICT)
            poller(parts, Scripted({"s1": [receipt()]}), SOON).step("default")
        return commit(account, writes, versions)  # type: ignore[arg-type]

    parts.sessions.commit = overtaken  # type: ignore[method-assign,assignment]
    looking.look()
    parts.sessions.commit = commit  # type: ignore[method-assign]
    assert told(parts, events.OVERDUE) == []
