"""Which events a subscription hears of, and how it is asked for them."""

from __future__ import annotations

import base64
import hashlib

import pytest

from bridge.domain import events
from bridge.domain.receipts import Status
from bridge.domain.subscriptions import (
    BodyFormat,
    SealedIdentity,
    Subscription,
    SubscriptionState,
    callback_id,
    check_options,
    is_asked_for,
    parse_statuses,
    parse_types,
)
from bridge.errors import UsageError


def subscription(**fields: object) -> Subscription:
    given = {"id": "sub_a", "account": "default", "url": "https://example.com/", "created_ms": 1, "secrets": ()}
    return Subscription(**{**given, **fields})  # type: ignore[arg-type]  # the fields are each test's own


def changed(status: Status) -> events.Record:
    return events.Record(1, "s1", "1", "", status, 0, 1, False, False, "x", "", "", 1, 1, 1, 0, "")


def test_what_does_not_go_together_is_refused() -> None:
    certificate = SealedIdentity(b"", 0, own_authorities=False)
    check_options(subscription(identity=certificate))
    with pytest.raises(UsageError, match=r"^--client-cert and --ca-file: they are for https:// URLs$"):
        check_options(subscription(identity=certificate, url="http://example.com/"))
    check_options(subscription(format=BodyFormat.USMS, types=("sms.*", "bridge.test")))
    for kind in ("bridge.*", "bridge.subscription.disabled", "bridge.delivery.exhausted", "bridge.backlog.dropped"):
        check_options(subscription(types=(kind,)))
        with pytest.raises(UsageError) as caught:
            check_options(subscription(format=BodyFormat.USMS, types=("sms.*", kind)))
        assert str(caught.value) == (
            "--format usms: the provider's format has no words for operators' events (bridge.*)"
        )


@pytest.mark.parametrize("state", SubscriptionState)
def test_only_an_active_one_is_sent_to(state: SubscriptionState) -> None:
    assert subscription(state=state).is_active is (state is SubscriptionState.ACTIVE)


@pytest.mark.parametrize("status", Status)
def test_without_statuses_it_wants_all_of_them(status: Status) -> None:
    assert subscription().wants(status)
    assert subscription(types=("sms.*",)).wants(status)
    assert not subscription(types=("bridge.*",)).wants(status)
    assert subscription(statuses=(status.text,)).wants(status)
    assert not subscription(statuses=tuple(one.text for one in Status if one is not status)).wants(status)


def test_a_change_is_heard_by_those_who_want_its_status() -> None:
    assert subscription().is_to_hear(changed(Status.DELIVERED))
    assert not subscription(statuses=("expired",)).is_to_hear(changed(Status.DELIVERED))
    assert subscription(statuses=("expired",)).is_to_hear(changed(Status.EXPIRED))


def test_an_operators_event_is_heard_by_those_who_asked_but_by_no_test_and_not_about_itself() -> None:
    disabled = events.record_of_ours(events.DISABLED, "sub_b", {"account": "default"}, 1)
    own = events.record_of_ours(events.DISABLED, "sub_a", {"account": "default"}, 1)
    test = events.record_of_test("default", "sub_b", "nonce", 1)
    asking = subscription(types=("bridge.*",))
    assert asking.is_to_hear(disabled)
    assert not asking.is_to_hear(own)
    assert not asking.is_to_hear(test)
    assert not subscription(types=("sms.*",)).is_to_hear(disabled)


def test_a_session_whose_number_ends_like_a_subscription_is_not_about_it() -> None:
    completed = events.record_of_session(events.COMPLETED, "s sub_a", "", "{}", (1, 2))
    assert subscription(types=("sms.session.completed",)).is_to_hear(completed)
    assert not subscription().is_to_hear(completed)


def test_an_event_of_a_type_that_this_release_does_not_know_is_nobodys() -> None:
    newer = events.Record(1, "s1", "", "", 0, 0, 1, False, False, None, "", "", 0, 0, 1, 0, "", 99)
    assert not subscription(types=("sms.*", "bridge.*")).is_to_hear(newer)


@pytest.mark.parametrize(
    ("event_type", "asked", "is_it"),
    [
        ("sms.status.changed", ("sms.status.changed",), True),
        ("sms.status.changed", ("sms.*",), True),
        ("sms.status.changed", ("bridge.*", "sms.session.completed"), False),
        ("sms.status.changed", ("sms.status.*",), False),
        ("bridge.test", ("bridge.*",), True),
        ("bridge.test", (), False),
    ],
)
def test_a_wildcard_stands_for_all_of_its_kind(event_type: str, asked: tuple[str, ...], is_it: bool) -> None:
    assert is_asked_for(event_type, asked) is is_it


def test_names_are_kept_once_in_the_order_of_the_documents() -> None:
    assert parse_types(" bridge.* ,sms.status.changed, bridge.*") == ("sms.status.changed", "bridge.*")
    assert parse_statuses("expired,delivered") == tuple(
        name for name in events.STATUSES if name in {"expired", "delivered"}
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sms.status.chnaged", "--types: there is no 'sms.status.chnaged'; did you mean sms.status.changed?"),
        ("sms.status.changed,", "--types: there is no ''; give some of sms.status.changed, "),
        ("x" * 50, f"--types: there is no '{'x' * 40}'; give some of sms.status.changed, "),
    ],
)
def test_a_type_that_there_is_not_is_said_with_the_nearest(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_types(text)
    assert str(caught.value).startswith(says)


def test_a_status_that_there_is_not_is_said_too_and_tracked_is_none() -> None:
    with pytest.raises(UsageError, match=r"^--statuses: there is no 'deliverd'; did you mean delivered\?$"):
        parse_statuses("deliverd")
    with pytest.raises(UsageError, match=r"^--statuses: there is no 'tracked'; "):
        parse_statuses("tracked")


def test_a_url_of_an_account_has_one_id_that_tells_neither() -> None:
    """Queues are named by it: another one after an upgrade would be another subscription, without its queue."""
    digest = hashlib.blake2b(b"shop\0https://example.com/sms", digest_size=10).digest()
    assert callback_id("shop", "https://example.com/sms") == "url_" + base64.b32encode(digest).decode().lower()
    assert callback_id("shop", "https://example.com/a") != callback_id("bank", "https://example.com/a")
    assert callback_id("a", "b/https://x") != callback_id("a/b", "https://x")
