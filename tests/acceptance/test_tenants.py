"""Two accounts on one bridge: neither is told, shown, or slowed by anything of the other's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import cast

import msgspec
import pytest
import standardwebhooks
import structlog

from bridge.cli.receiver import Receiver, Request
from bridge.domain.events import event_id, unpack
from bridge.domain.signing import encode_secret
from bridge.domain.subscriptions import callback_id
from bridge.errors import AccountError
from bridge.store import keys
from bridge.wiring import Bridge
from tasks.process import Process
from tests.commands import ONE, TWO, Terminal, answer, heard, track
from tests.delivery.slices import deliver
from tests.parts import Parts
from tests.servers import bridge_on

NO = "nAQDODtO"
ACCOUNTS = ("shop", "bank")


@dataclass
class Tenant:
    """An account with a subscription, its receiver, and its secret."""

    account: str
    subscription: str
    receiver: Receiver
    secret: str

    def told(self) -> list[tuple[str, str, str]]:
        """(account, SessionNo, phone) of each callback, all of which its own secret verifies."""
        return [self._verified(post) for post in self.receiver.recorded]

    def _verified(self, post: Request) -> tuple[str, str, str]:
        event = standardwebhooks.Webhook(self.secret).verify(post.body, dict(post.headers))
        return event["data"]["account"], event["data"]["session_no"], event["data"]["phone"]


@pytest.fixture(name="local")
def _local(bridge: Bridge, server: str) -> Iterator[Bridge]:
    """The store of ``bridge``, with callbacks to this machine over plain http."""
    assert bridge.settings.redis_url is not None
    with bridge_on(server, allow_http=True) as made:
        yield made


@pytest.fixture(name="tenants")
def _tenants(local: Bridge) -> Iterator[tuple[Tenant, Tenant]]:
    with ExitStack() as stack:
        found = []
        for name in ACCOUNTS:
            receiver = stack.enter_context(Receiver(record=True))
            subscription, secret, _ = local.subscribe(receiver.url, name)
            found.append(Tenant(name, subscription.id, receiver, secret))
        yield found[0], found[1]


def test_each_is_told_of_its_own_sessions_alone(local: Bridge, tenants: tuple[Tenant, Tenant]) -> None:
    """The same SessionNo in both: a number is the provider's, and accounts of different providers may share one."""
    shop, bank = tenants
    for name, phone in (("shop", ONE), ("bank", TWO), ("default", ONE)):
        track(local, NO, account=name)
        answer(local, NO, heard(phone, "Success"), account=name)
    deliver(local)
    assert shop.told() == [("shop", NO, ONE)]
    assert bank.told() == [("bank", NO, TWO)]
    (post,) = shop.receiver.recorded
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(bank.secret).verify(post.body, dict(post.headers))


def test_one_url_named_by_sessions_of_both_is_two_subscriptions_with_two_secrets(local: Bridge) -> None:
    process = Process(lambda _name, _args: None)
    process.__dict__["bridge"] = local
    secrets = {name: encode_secret(local.signing_keys.of_account(name)) for name in ACCOUNTS}
    assert secrets["shop"] != secrets["bank"]
    with Receiver(record=True) as receiver:
        for name in ACCOUNTS:
            process.track([{"session_no": NO, "callback_url": receiver.url}], name)
            answer(local, NO, heard(ONE, "Success"), account=name)
        assert callback_id("shop", receiver.url) != callback_id("bank", receiver.url)
        deliver(local)
        posts = receiver.recorded
    assert len(posts) == 2
    for post in posts:
        account = str(msgspec.json.decode(post.body, type=dict[str, dict[str, object] | str])["data"]["account"])  # type: ignore[index]
        standardwebhooks.Webhook(secrets[account]).verify(post.body, dict(post.headers))


def test_an_event_is_sent_again_to_its_own_accounts_subscriptions_alone(
    local: Bridge, tenants: tuple[Tenant, Tenant], terminal: Terminal
) -> None:
    shop, bank = tenants
    track(local, NO, account="shop")
    answer(local, NO, heard(ONE, "Success"), account="shop")
    deliver(local)
    (row,) = terminal("events", "list", "--account", "shop", "--json").rows()
    assert terminal("resend", str(row["id"])).code == 0
    deliver(local)
    assert shop.told() == [("shop", NO, ONE)] * 2
    # Not even where the other's subscription is asked for by name.
    ran = terminal("resend", str(row["id"]), "--subscription", bank.subscription)
    assert (ran.code, "no such event" in ran.err) == (1, True)
    ran = terminal("resend", "--subscription", bank.subscription, "--since", "1h", "--json")
    assert ran.rows()[0]["found"] == 0
    deliver(local)
    assert bank.told() == []


def test_what_is_listed_of_one_has_nothing_of_the_other(
    local: Bridge, tenants: tuple[Tenant, Tenant], terminal: Terminal
) -> None:
    _, bank = tenants
    for name, phone in (("shop", ONE), ("bank", TWO)):
        track(local, {"session_no": f"of-{name}", "phone_count": 1}, account=name)
        answer(local, f"of-{name}", heard(phone, "Success"), account=name)
        local.tracking.reject(name, [(f'"{name}-item"', "wrong")])
    for command in ("sessions list", "events list", "rejected list", "subscriptions list"):
        ran = terminal(*command.split(), "--account", "bank", "--json")
        assert ran.code == 0, ran.err
        assert ran.rows(), command
        for foreign in ("of-shop", ONE, "shop-item", tenants[0].subscription):
            assert foreign not in ran.out, command
    for command in (
        f"deliveries list --subscription {bank.subscription}",
        f"explain of-bank --subscription {bank.subscription}",
    ):
        ran = terminal(*command.split(), "--json")
        assert "of-shop" not in ran.out
    assert terminal("sessions", "show", "of-shop", "--account", "bank").code == 1
    (story,) = terminal("explain", "of-shop", "--account", "bank", "--json").rows()
    assert (story["verdict"], story["events"], story["phones"]) == ("not tracked", [], [])
    (events,) = terminal("events", "list", "--account", "bank", "--json").rows()
    assert cast("dict[str, object]", events["data"])["session_no"] == "of-bank"


def test_rates_pauses_and_hints_are_apart(local: Bridge) -> None:
    assert local.rate.take("shop", 0.01) == 0
    assert local.rate.take("shop", 0.01) > 0
    assert local.rate.take("bank", 0.01) == 0
    local.rate.pause("shop", "RetCode 171", 60_000, refused=True)
    assert local.rate.standing("bank").pause_ms == 0
    for name in ACCOUNTS:
        track(local, NO, account=name)
    due_ms = local.sessions.due_ms("bank", NO)
    local.pushes.take("shop", [NO], 1)
    assert local.sessions.due_ms("bank", NO) == due_ms
    token = local.push_tokens.show("shop")
    assert not local.push_tokens.admits("bank", token)


def test_an_id_is_of_its_account(local: Bridge) -> None:
    for name in ACCOUNTS:
        track(local, NO, account=name)
        answer(local, NO, heard(ONE, "Success"), account=name)
    ids = [list(local.log.read(name)) for name in ACCOUNTS]
    assert [len(one) for one in ids] == [1, 1]
    made = {event_id(name, unpack(one[0].record)) for name, one in zip(ACCOUNTS, ids, strict=True)}
    assert len(made) == 2


def test_what_is_tracked_for_an_account_that_does_not_exist_waits_and_is_said_once(
    local: Bridge, server: str, terminal: Terminal
) -> None:
    """A sender is told nothing (it enqueued), so nothing it said may be lost: the operator is told, loudly."""
    process = Process(lambda _name, _args: None)
    process.__dict__["bridge"] = local
    process.track([NO], "shop")
    store = Parts(server, local.settings.shards)
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            store.make_due()
            store.redis.hdel(keys.rate("shop"), "until")
            local.wakes.drop("poll:shop")
            process.tick()
            process.poll("shop")
    store.close()
    errors = [line for line in lines if line["log_level"] == "error"]
    assert len(errors) == 1, "an error line is what Sentry is told"
    assert errors[0]["account"] == "shop"
    assert "bridge accounts add shop" in str(errors[0]["reason"])
    assert len([line for line in lines if line["log_level"] == "warning"]) == 2
    assert local.sessions.unsettled("shop") == 1
    found = terminal("doctor", "--json").rows()
    said = [row for row in found if "shop" in str(row["detail"]) and row["verdict"] == "fail"]
    assert {row["check"] for row in said} == {"provider", "accounts"}
    assert all("bridge accounts add shop" in str(row["detail"]) for row in said)
    # Trimming, and every other account, goes on.
    process.trim()


def test_polling_of_one_without_credentials_asks_nobody(local: Bridge) -> None:
    with pytest.raises(AccountError, match="bridge accounts add shop"):
        local.providers.of("shop").fetch_receipts([NO])
