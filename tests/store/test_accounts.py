"""Accounts in the store: each change is whole, each secret sealed, and one that goes takes all of its own along."""

from __future__ import annotations

from typing import cast

import msgspec
import pytest

from bridge.domain.accounts import Account, shown_key
from bridge.domain.commits import ABSENT, Write
from bridge.errors import NotFound, SecretsUnreadable
from bridge.store import keys
from bridge.store.credentials import ProviderKeys, PushTokens, Rewrapping
from bridge.store.secrets import SecretBox
from bridge.store.tracking import TrackingStore
from tests.parts import OPEN, Parts, account, entry, subscription

OLD, NEW = SecretBox([bytes(32)]), SecretBox([bytes(range(32)), bytes(32)])


def test_a_name_is_given_once(parts: Parts) -> None:
    first = account()
    assert parts.accounts.add(first)
    assert not parts.accounts.add(msgspec.structs.replace(first, public_key="another"))
    assert parts.accounts.get("shop") == first
    parts.accounts.add(account("bank"))
    assert [one.name for one in parts.accounts.all()] == ["bank", "shop"]


def test_one_that_is_not_there_is_said(parts: Parts) -> None:
    with pytest.raises(NotFound, match="bridge accounts list"):
        parts.accounts.get("shop")
    with pytest.raises(NotFound):
        parts.accounts.update("shop", lambda one: one)
    assert parts.accounts.record("shop") is None


def test_two_changes_at_once_are_both_made(parts: Parts) -> None:
    parts.accounts.add(account())

    def another() -> None:
        parts.accounts.update("shop", lambda one: msgspec.structs.replace(one, region="cn-bj2"))

    others = iter([another])

    def change(one: Account) -> Account:
        for other in others:
            other()
        return msgspec.structs.replace(one, rate=2.0)

    parts.accounts.update("shop", change)
    after = parts.accounts.get("shop")
    assert (after.rate, after.region) == (2.0, "cn-bj2")


def test_a_record_is_another_after_each_change_and_the_same_without_one(parts: Parts) -> None:
    parts.accounts.add(account())
    before = parts.accounts.record("shop")
    assert parts.accounts.record("shop") == before
    parts.accounts.update("shop", lambda one: msgspec.structs.replace(one, rate=2.0))
    assert parts.accounts.record("shop") != before


def test_a_private_key_is_nowhere_in_the_store_and_opens_for_its_account_alone(parts: Parts) -> None:
    provider_keys = ProviderKeys(OLD)
    sealed = provider_keys.seal("shop", "the-private-key")
    one = msgspec.structs.replace(account(), private_key=sealed)
    parts.accounts.add(one)
    assert b"the-private-key" not in cast("bytes", parts.accounts.record("shop"))
    assert provider_keys.private_key(parts.accounts.get("shop")) == "the-private-key"
    with pytest.raises(SecretsUnreadable):
        provider_keys.private_key(msgspec.structs.replace(one, name="bank"))


@pytest.mark.parametrize(
    ("key", "shown"), [("ucloudsomeone@example.com1296", "uclo…1296"), ("short", "short"), ("12345678", "12345678")]
)
def test_a_public_key_is_shown_by_its_ends(key: str, shown: str) -> None:
    assert shown_key(key) == shown


def test_a_push_token_stays_until_it_is_rotated_and_is_its_accounts_alone(parts: Parts) -> None:
    tokens = PushTokens(parts.client, OLD)
    first = tokens.show("shop")
    assert tokens.show("shop") == first
    assert len(first) >= 32
    assert tokens.admits("shop", first)
    assert not tokens.admits("bank", first)
    assert not tokens.admits("shop", first[:-1])
    assert not tokens.admits("shop", "")
    assert not tokens.admits("shop", "é\ud800")
    second = tokens.rotate("shop")
    assert not tokens.admits("shop", first)
    assert tokens.admits("shop", second)
    stored = cast("dict[bytes, bytes]", parts.redis.hgetall(keys.account("shop")))
    assert second.encode() not in stored[b"push_token"]


def test_an_account_that_never_made_a_token_admits_none_and_keeps_nothing(parts: Parts) -> None:
    tokens = PushTokens(parts.client, OLD)
    assert not tokens.admits("shop", "")
    assert not tokens.admits("shop", "a" * 32)
    assert parts.redis.keys("*") == []


def test_rewrapping_covers_private_keys_and_push_tokens(parts: Parts) -> None:
    parts.accounts.add(msgspec.structs.replace(account(), private_key=ProviderKeys(OLD).seal("shop", "secret")))
    token = PushTokens(parts.client, OLD).show("shop")
    default = PushTokens(parts.client, OLD).show("default")
    done = Rewrapping(parts.client, parts.subscriptions, NEW).run(lambda _more: None)
    assert (done.rewrapped, done.current, done.unreadable) == (2, 0, ())
    alone = SecretBox([bytes(range(32))])
    assert ProviderKeys(alone).private_key(parts.accounts.get("shop")) == "secret"
    assert PushTokens(parts.client, alone).show("shop") == token
    assert PushTokens(parts.client, alone).show("default") == default
    assert Rewrapping(parts.client, parts.subscriptions, NEW).run(lambda _more: None).rewrapped == 0


def test_rewrapping_names_an_account_that_no_key_opens(parts: Parts) -> None:
    parts.accounts.add(account())
    done = Rewrapping(parts.client, parts.subscriptions, OLD).run(lambda _more: None)
    assert done.unreadable == ("shop",)


def test_what_is_kept_under_a_name_goes_with_it_and_anothers_stays(parts: Parts) -> None:
    for watch_ms, name in enumerate(("shop", "bank"), start=1_700_000_000_000):
        parts.accounts.add(account(name))
        parts.tracking.note_account(name)
        parts.tracking.reject(name, [("{}", "empty")])
        parts.subscriptions.put(subscription(f"sub_{name}", account=name))
        parts.write("s1", entry("s1", to=[f"sub_{name}"]), account=name, due=5)
        parts.sessions.set_aside(name, ["s1"])
        parts.sessions.commit(name, [Write("s9", ABSENT, OPEN, 1, None, watch_ms=watch_ms)])
        parts.rate.take(name, 5)
        parts.rate.pause(name, "down", 1_000)
        parts.pushes.take(name, ["s1"], 7)
        parts.redis.zadd(keys.erased(0, name), {"p": 1})
        parts.redis.set(keys.begin(0, name), "1-1")
        PushTokens(parts.client, OLD).show(name)
    parts.sessions.forget("shop", ["s1", "s9"])
    parts.accounts.remove("shop", parts.shards)

    left = [cast("bytes", key).decode() for key in parts.redis.keys("*")]
    assert [key for key in left if "shop" in key and not key.endswith(":sub_shop")] == [
        key for key in left if ":l:sub_shop:" in key
    ]  # its subscription's queue is removed with the subscription
    assert parts.accounts.all() == [parts.accounts.get("bank")]
    assert parts.tracking.accounts() == ["bank"]
    assert parts.sessions.read("bank", ["s1"])["s1"].state is not None
    assert parts.redis.exists(keys.watch(parts.shard("s9"), "bank", 1_700_000_000_001))
    assert parts.redis.zrange(keys.watches(parts.shard("s9")), 0, -1) == [b"bank:1700000000001"]
    assert parts.pushes.counts("bank").pushes == 1
    assert len(list(parts.log.read("bank"))) == 1


def test_an_account_that_tracks_again_after_it_was_removed_is_noted_again(parts: Parts) -> None:
    now = [0.0]
    tracking = TrackingStore(parts.client, parts.shards, ticking=lambda: now[0])
    tracking.note_account("shop")
    parts.accounts.remove("shop", parts.shards)
    before = parts.client.round_trips
    tracking.note_account("shop")
    assert parts.client.round_trips == before, "each message would cost a round trip"
    now[0] = 60.0
    tracking.note_account("shop")
    assert tracking.accounts() == ["shop"]
