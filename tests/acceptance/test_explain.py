"""``bridge explain``: each verdict of the contract, come about on a real store, as a sentence and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import cast

import msgspec
import pytest
import redis

from bridge.domain.accounts import DEFAULT_ACCOUNT
from bridge.domain.deliveries import FailedAttempt
from bridge.domain.events import event_id, unpack
from bridge.domain.explanation import Verdict
from bridge.domain.outcome import Verdict as Outcome
from bridge.domain.subscriptions import Deliver, Options, Subscription
from bridge.lifecycle import pause, resume
from bridge.store import keys
from bridge.wiring import Bridge
from tasks.process import Process
from tests.commands import ONE, TWO, URL, Terminal, answer, heard, settle, track
from tests.parts import Parts, until

NO = "nAQDODtO"


def told(terminal: Terminal, *options: str, session: str = NO) -> dict[str, object]:
    """The one story of a session."""
    ran = terminal("explain", session, *options, "--json")
    assert ran.code == 0, ran.err
    (row,) = ran.rows()
    return row


def verdict(terminal: Terminal, *options: str, session: str = NO) -> tuple[object, object]:
    row = told(terminal, *options, session=session)
    return row["verdict"], row["why"]


def changed(bridge: Bridge, *phones: str, **options: object) -> Subscription:
    """A subscription, and a session of which these phones were delivered."""
    subscription, _, _ = bridge.subscribe(URL, options=Options(**options))  # type: ignore[arg-type]
    track(bridge, {"session_no": NO, "phone_count": len(phones)})
    answer(bridge, NO, *(heard(phone, "Success") for phone in phones))
    return subscription


# each verdict


@pytest.mark.usefixtures("bridge")
def test_not_tracked(terminal: Terminal) -> None:
    assert verdict(terminal)[0] == "not tracked"
    assert "not tracked" in terminal("explain", NO).out.splitlines()[0]


def test_not_tracked_where_it_cannot_be_read(bridge: Bridge, terminal: Terminal) -> None:
    track(bridge, NO, account="shop")
    broken = keys.session(keys.shard_of(NO, bridge.settings.shards), "shop", NO)
    bridge.client.redis.set(broken, b"vers\xff")
    assert verdict(terminal) == ("not tracked", "what is stored of it cannot be read: track it again")
    assert told(terminal)["account"] == "shop"


def test_rejected(bridge: Bridge, terminal: Terminal) -> None:
    process = Process(lambda _name, _args: None)
    process.__dict__["bridge"] = bridge
    process.track([{"session_no": NO, "phone_count": 0}, "other"], DEFAULT_ACCOUNT)
    found, why = verdict(terminal)
    assert (found, "phone_count" in str(why)) == ("rejected", True)
    assert verdict(terminal, session="phone_count")[0] == "not tracked"
    # Tracked rightly afterwards, it is no longer what matters; it is told all the same.
    track(bridge, NO)
    row = told(terminal)
    assert row["verdict"] == "not polled yet"
    assert len(cast("list[object]", row["rejected"])) == 1


def test_account_stopped(bridge: Bridge, terminal: Terminal) -> None:
    track(bridge, NO)
    bridge.rate.pause(DEFAULT_ACCOUNT, "RetCode 171: the Signature is wrong", 60_000)
    assert verdict(terminal) == ("account stopped", "RetCode 171: the Signature is wrong")


def test_account_stopped_for_want_of_credentials(bridge: Bridge, terminal: Terminal) -> None:
    track(bridge, NO, account="shop")
    found, why = verdict(terminal)
    assert found == "account stopped"
    assert "bridge accounts add shop" in str(why)
    assert told(terminal)["account"] == "shop"


def test_not_polled_yet(bridge: Bridge, terminal: Terminal) -> None:
    bridge.tracking.note_account(DEFAULT_ACCOUNT)
    process = Process(lambda _name, _args: None)
    process.__dict__["bridge"] = bridge
    process.track([NO], DEFAULT_ACCOUNT, "gen7@sender-1")
    row = told(terminal)
    assert (row["verdict"], row["tracked_by"]) == ("not polled yet", "sender-1")
    assert row["next_poll_at"] is not None
    assert row["polls"] == []


def test_provider_has_no_receipt(bridge: Bridge, terminal: Terminal) -> None:
    track(bridge, {"session_no": NO, "phones": [ONE]})
    for _ in range(20):
        answer(bridge, NO)
    row = told(terminal)
    assert row["verdict"] == "provider has no receipt"
    polls = cast("list[dict[str, object]]", row["polls"])
    assert [one["outcome"] for one in polls] == ["no receipts"] * 16
    assert verdict(terminal, "--phone", ONE)[0] == "provider has no receipt"


def test_filtered_out(bridge: Bridge, terminal: Terminal) -> None:
    changed(bridge, ONE, statuses=("failed", "expired"))
    assert verdict(terminal) == ("filtered out", "it hears only of failed, expired")


def test_a_wildcard_that_has_the_event_is_not_why_it_was_filtered_out(bridge: Bridge, terminal: Terminal) -> None:
    changed(bridge, ONE, types=("sms.*",), statuses=("failed",))
    assert verdict(terminal, "--phone", ONE) == ("filtered out", "it hears only of failed")


def test_filtered_out_where_nobody_subscribes(bridge: Bridge, terminal: Terminal) -> None:
    track(bridge, NO)
    answer(bridge, NO, heard(ONE, "Success"))
    assert verdict(terminal) == ("filtered out", "its account has no subscription")
    assert "nobody subscribed" in terminal("explain", NO).out


def test_filtered_out_where_a_subscription_is_another_sessions_own(bridge: Bridge, terminal: Terminal) -> None:
    implied = bridge.callback_for(DEFAULT_ACCOUNT, URL)
    changed(bridge, ONE)
    assert verdict(terminal)[0] == "queued behind"
    assert verdict(terminal, "--subscription", implied) == (
        "filtered out",
        "it hears only of sessions that name its URL",
    )


def test_subscribed_later(bridge: Bridge, log: Parts, terminal: Terminal) -> None:
    """Fault: beside much else the clock's last answer had been half a second on its way, and the subscription seemed
    to be older than what had just happened: its filters were said to have been others then."""
    track(bridge, NO)
    answer(bridge, NO, heard(ONE, "Success"))
    happened_ms = log.now_ms()
    until(lambda: log.now_ms() > happened_ms)
    bridge.clock._noted = monotonic(), happened_ms - 500
    subscription, _, _ = bridge.subscribe(URL)
    assert verdict(terminal)[0] == "subscribed later"
    assert told(terminal)["subscription"] == subscription.id


def test_queued_behind(bridge: Bridge, terminal: Terminal) -> None:
    bridge.subscribe(URL)
    track(bridge, {"session_no": NO, "phone_count": 1})
    answer(bridge, NO, heard(ONE, "Unknown"))
    assert told(terminal)["behind"] == 0
    answer(bridge, NO, heard(ONE, "Success"))
    row = told(terminal)
    assert (row["verdict"], row["behind"]) == ("queued behind", 1)
    assert "queued behind 1 at sub_" in terminal("explain", NO).out


def test_retrying(bridge: Bridge, terminal: Terminal) -> None:
    subscription = changed(bridge, ONE)
    settle(bridge, subscription, {ONE: (Outcome.RETRY, True)})
    (logged,) = bridge.log.read(DEFAULT_ACCOUNT)
    event = event_id(DEFAULT_ACCOUNT, unpack(logged.record))
    failed = FailedAttempt(1, event, 2, 500, 9, "HTTP 500", b"", b"")
    newer = msgspec.structs.replace(failed, attempt=3, error="no answer within 15 s")
    bridge.attempts.add([(subscription.id, failed), (subscription.id, newer)])
    row = told(terminal)
    assert (row["verdict"], row["why"], row["event"]) == ("retrying", "no answer within 15 s", event)
    assert row["at"] is not None
    assert terminal("explain", NO).out.startswith("retrying at 20")


@pytest.mark.parametrize("how", ["paused", "disabled"])
def test_parked(bridge: Bridge, terminal: Terminal, how: str) -> None:
    subscription = changed(bridge, ONE)
    if how == "paused":
        pause(bridge, subscription.id)
    else:
        bridge.subscriptions.disable(subscription.id, "410", bridge.clock.now_ms())
    found, why = verdict(terminal)
    assert found == "parked"
    assert str(why).startswith(how)
    assert f"bridge subscriptions resume {subscription.id}" in str(why)


def test_dead(bridge: Bridge, terminal: Terminal) -> None:
    subscription = changed(bridge, ONE)
    settle(bridge, subscription, {ONE: (Outcome.DEAD, True)})
    assert verdict(terminal) == ("dead", "HTTP 500")


def test_dead_is_known_of_a_letter_that_outlived_the_log(bridge: Bridge, terminal: Terminal) -> None:
    subscription = changed(bridge, ONE)
    settle(bridge, subscription, {ONE: (Outcome.DEAD, True)})
    bridge.log.trim(DEFAULT_ACCOUNT, [subscription.id], bridge.clock.now_ms() + 60_000)
    assert bridge.log.length(DEFAULT_ACCOUNT) == 0
    bridge.sessions.forget(DEFAULT_ACCOUNT, [NO])
    assert verdict(terminal) == ("dead", "HTTP 500")


def test_dead_by_an_operator_who_dropped_what_waited(bridge: Bridge, terminal: Terminal) -> None:
    subscription = changed(bridge, ONE)
    pause(bridge, subscription.id)
    resume(bridge, subscription.id, Deliver.NONE)
    found, why = verdict(terminal)
    assert (found, "dropped by an operator" in str(why)) == ("dead", True)


def test_accepted(bridge: Bridge, terminal: Terminal) -> None:
    subscription = changed(bridge, ONE, TWO)
    settle(bridge, subscription, {ONE: (Outcome.ACCEPTED, True), TWO: (Outcome.ACCEPTED, True)})
    row = told(terminal)
    assert (row["verdict"], row["subscription"]) == ("accepted", subscription.id)
    assert row["at"] is not None
    assert f"by {subscription.id}" in terminal("explain", NO).out
    # So it is for as long as the log has it, the session itself forgotten or not.
    bridge.sessions.forget(DEFAULT_ACCOUNT, [NO])
    assert verdict(terminal)[0] == "accepted"


def test_erased(bridge: Bridge, terminal: Terminal) -> None:
    changed(bridge, ONE, TWO)
    bridge.erase(ONE, [DEFAULT_ACCOUNT], lambda _more: None, dry=False)
    assert verdict(terminal, "--phone", ONE)[0] == "erased"
    assert verdict(terminal, "--phone", ONE.replace("(86)", "0086"))[0] == "erased"
    assert verdict(terminal, "--phone", TWO)[0] == "queued behind"
    # What is sent to it afterwards is another matter.
    track(bridge, "s2")
    assert verdict(terminal, "--phone", ONE, session="s2")[0] == "not polled yet"


def test_expired_from_the_log(bridge: Bridge, terminal: Terminal) -> None:
    subscription = changed(bridge, ONE)
    settle(bridge, subscription, {ONE: (Outcome.ACCEPTED, True)})
    bridge.log.trim(DEFAULT_ACCOUNT, [subscription.id], bridge.clock.now_ms() + 60_000)
    assert verdict(terminal)[0] == "expired from the log"


def test_what_the_log_dropped_and_a_queue_kept_is_still_queued(bridge: Bridge, terminal: Terminal) -> None:
    subscription = changed(bridge, ONE)
    bridge.log.trim(DEFAULT_ACCOUNT, [subscription.id], bridge.clock.now_ms() + 60_000)
    assert verdict(terminal)[0] == "queued behind"


def test_every_verdict_has_a_test_here() -> None:
    named = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    for one in Verdict:
        assert one.value.replace(" ", "_") in named


# the story


def test_the_whole_story_is_told(bridge: Bridge, terminal: Terminal) -> None:
    other, _, _ = bridge.subscribe(URL, options=Options(statuses=("failed",)))
    subscription = changed(bridge, ONE, TWO)
    settle(bridge, subscription, {ONE: (Outcome.ACCEPTED, True), TWO: (Outcome.DEAD, True)})
    row = told(terminal)
    assert (row["verdict"], row["account"], row["session_no"]) == ("dead", "default", NO)
    assert [one["outcome"] for one in cast("list[dict[str, object]]", row["polls"])] == ["changed"]
    assert [one["status"] for one in cast("list[dict[str, object]]", row["phones"])] == ["delivered", "delivered"]
    assert row["settled_at"] is not None
    events = {str(one["change"]): one for one in cast("list[dict[str, object]]", row["events"])}
    assert set(events) == {f"{phone} tracked → delivered" for phone in (ONE, TWO)}
    deliveries = {
        name: {str(one["subscription"]): one["verdict"] for one in cast("list[dict[str, object]]", each["deliveries"])}
        for name, each in events.items()
    }
    assert deliveries[f"{ONE} tracked → delivered"] == {subscription.id: "accepted", other.id: "filtered out"}
    assert deliveries[f"{TWO} tracked → delivered"] == {subscription.id: "dead", other.id: "filtered out"}
    plain = terminal("explain", NO).out
    for heading in ("tracked by", "\npolls\n", "\nphones\n", "\nevents, and who was told\n"):
        assert heading in plain
    assert verdict(terminal, "--phone", ONE)[0] == "accepted"
    assert verdict(terminal, "--subscription", other.id) == ("filtered out", "it hears only of failed")


def test_a_sessions_own_events_are_in_its_story(bridge: Bridge, terminal: Terminal) -> None:
    completed = changed(bridge, ONE, types=("sms.session.completed",))
    row = told(terminal)
    # It hears of the session and not of the phone: what it was to hear of is what is told.
    assert (row["verdict"], row["subscription"]) == ("queued behind", completed.id)
    events = {str(one["change"]): one for one in cast("list[dict[str, object]]", row["events"])}
    assert set(events) == {f"{ONE} tracked → delivered", "sms.session.completed"}
    (phones,) = cast("list[dict[str, object]]", events[f"{ONE} tracked → delivered"]["deliveries"])
    assert phones["why"] == "it hears only of sms.session.completed"
    assert verdict(terminal, "--phone", ONE) == ("filtered out", "it hears only of sms.session.completed")


def test_a_session_of_two_accounts_has_a_story_in_each(bridge: Bridge, terminal: Terminal) -> None:
    track(bridge, NO)
    track(bridge, NO, account="shop")
    subscription, _, _ = bridge.subscribe(URL, "shop")
    answer(bridge, NO, heard(ONE, "Success"), account="shop")
    rows = terminal("explain", NO, "--json").rows()
    assert [(row["account"], row["verdict"]) for row in rows] == [
        ("default", "not polled yet"),
        ("shop", "queued behind"),
    ]
    assert told(terminal, "--account", "shop")["subscription"] == subscription.id
    assert told(terminal, "--subscription", subscription.id)["account"] == "shop"
    # Another tenant's session is none of this one's.
    assert verdict(terminal, "--account", "bank")[0] == "not tracked"
    assert told(terminal, "--account", "default")["events"] == []


def test_what_is_not_there_is_said(bridge: Bridge, terminal: Terminal) -> None:
    subscription, _, _ = bridge.subscribe(URL, "shop")
    ran = terminal("explain", NO, "--subscription", "sub_nobody")
    assert (ran.code, "no subscription sub_nobody" in ran.err) == (1, True)
    ran = terminal("explain", NO, "--subscription", subscription.id, "--account", "default")
    assert (ran.code, ran.out) == (1, "")
    assert terminal("explain", NO, "--account", "A:B").code == 2


@pytest.mark.parametrize("phones", [1, 300])
def test_a_phone_more_costs_the_server_a_few_commands(
    bridge: Bridge, terminal: Terminal, server: str, phones: int
) -> None:
    numbers = [f"(86)185{place:08d}" for place in range(phones)]
    subscription = changed(bridge, *numbers)
    settle(bridge, subscription, dict.fromkeys(numbers[:1], (Outcome.ACCEPTED, True)))
    with redis.Redis.from_url(server) as store:
        before = _calls(store)
        assert len(cast("list[object]", told(terminal)["phones"])) == phones
        assert _calls(store) - before < 400 + 4 * phones


def _calls(store: redis.Redis) -> int:
    return int(cast("dict[str, int]", store.info("stats"))["total_commands_processed"])


def test_it_changes_nothing(bridge: Bridge, terminal: Terminal, server: str) -> None:
    changed(bridge, ONE)
    with redis.Redis.from_url(server) as store:
        dump: Callable[[], dict[bytes, bytes]] = lambda: {  # noqa: E731
            key: cast("bytes", store.dump(key)) for key in cast("list[bytes]", store.keys("*"))
        }
        before = dump()
        terminal("explain", NO)
        terminal("explain", "nobody")
        assert dump() == before
        assert store.exists(keys.due(0, "nobody")) == 0
