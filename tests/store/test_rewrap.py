"""Sealing everything again under a new key: all of it, once, whoever else writes meanwhile."""

from __future__ import annotations

import msgspec
import pytest

from bridge.domain.credentials import Identity
from bridge.domain.subscriptions import Options, PhoneFormat, Subscription
from bridge.errors import NotFound, SecretsUnreadable
from bridge.store.credentials import Rewrapped, Rewrapping, SigningKeys, rotated, sealed
from bridge.store.secrets import SecretBox
from tests.parts import Parts, subscription

OLD, NEW = bytes(32), bytes(range(32))
OPTIONS = Options(
    phones=PhoneFormat.HASHED, headers=(("X-Token", "s3cret"),), identity=(Identity(b"certificate", b"key", b""), 7)
)


def nothing(_more: int) -> None: ...


class House:
    """A store whose secrets are under the old key, and what reads them with given keys."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        box = SecretBox([OLD])
        for name in ("sub_a", "sub_b"):
            plain = Subscription(
                id=name, account="default", url="", created_ms=1, secrets=(box.seal(name.encode() * 6, name),)
            )
            made = rotated(sealed(plain, OPTIONS, box), b"n" * 32, 60_000, parts.now_ms(), box)
            parts.subscriptions.put(made)
        self.account_key = self.keys(OLD).of_account("default")

    def keys(self, *secret_keys: bytes) -> SigningKeys:
        return SigningKeys(self.parts.client, SecretBox(secret_keys))

    def rewrapping(self, *secret_keys: bytes) -> Rewrapping:
        return Rewrapping(self.parts.client, self.parts.subscriptions, SecretBox(secret_keys))

    def read(self, *secret_keys: bytes) -> list[object]:
        kept = [self.parts.subscriptions.get(name) for name in ("sub_a", "sub_b")]
        return [self.keys(*secret_keys).of(one) for one in kept]


def test_all_that_is_sealed_opens_with_the_new_key_alone(parts: Parts) -> None:
    house = House(parts)
    parts.subscriptions.put(subscription("url_c"))
    before = house.read(OLD)
    versions = parts.subscriptions.load().versions
    with pytest.raises(SecretsUnreadable):
        house.read(NEW)
    steps: list[int] = []

    done = house.rewrapping(NEW, OLD).run(steps.append)

    assert done == Rewrapped(rewrapped=3, current=1, unreadable=())
    assert sum(steps) == 4
    assert house.read(NEW) == before
    assert house.keys(NEW).of_account("default") == house.account_key
    assert parts.subscriptions.load().versions == versions, "who hears of what is the same: nobody need decide again"
    with pytest.raises(SecretsUnreadable):
        house.read(OLD)


def test_again_it_changes_nothing(parts: Parts) -> None:
    house = House(parts)
    house.rewrapping(NEW, OLD).run(nothing)
    stored = parts.redis.hgetall("u:subscriptions")
    assert house.rewrapping(NEW, OLD).run(nothing) == Rewrapped(rewrapped=0, current=3, unreadable=())
    assert parts.redis.hgetall("u:subscriptions") == stored


def test_what_no_key_opens_is_named_and_left(parts: Parts) -> None:
    house = House(parts)
    stored = parts.redis.hgetall("u:subscriptions")
    done = house.rewrapping(NEW).run(nothing)
    assert sorted(done.unreadable) == ["default", "sub_a", "sub_b"]
    assert parts.redis.hgetall("u:subscriptions") == stored


def test_a_rotation_meanwhile_is_not_lost(parts: Parts) -> None:
    """The value changes between the read and the write of the rewrapping: it is read again."""
    house = House(parts)
    box = SecretBox([NEW, OLD])
    calls = 0

    class Racing(SecretBox):
        def rewrap(self, sealed: bytes, owner: str) -> bytes:
            nonlocal calls
            if owner == "sub_a" and not calls:
                calls += 1
                parts.subscriptions.update("sub_a", lambda one: rotated(one, b"r" * 32, 0, parts.now_ms(), box))
            return super().rewrap(sealed, owner)

    Rewrapping(parts.client, parts.subscriptions, Racing([NEW, OLD])).run(nothing)

    assert house.keys(NEW).of(parts.subscriptions.get("sub_a")).keys[0].key == b"r" * 32


def test_one_that_is_removed_meanwhile_stays_removed(parts: Parts) -> None:
    house = House(parts)

    class Racing(SecretBox):
        def rewrap(self, sealed: bytes, owner: str) -> bytes:
            if owner == "sub_a":
                parts.redis.hdel("u:subscriptions", "sub_a")
            return super().rewrap(sealed, owner)

    Rewrapping(parts.client, parts.subscriptions, Racing([NEW, OLD])).run(nothing)

    assert set(parts.subscriptions.load().by_id()) == {"sub_b"}
    assert house.keys(NEW).of(parts.subscriptions.get("sub_b")).keys


def test_an_update_of_what_is_not_there_is_refused(parts: Parts) -> None:
    with pytest.raises(NotFound):
        parts.subscriptions.update("sub_a", lambda one: one)


def test_two_updates_at_once_both_count(parts: Parts) -> None:
    parts.subscriptions.put(subscription("sub_a"))
    versions = parts.subscriptions.load().versions

    def narrow(one: Subscription) -> Subscription:
        if not one.statuses:
            parts.subscriptions.update("sub_a", lambda other: _with(other, "failed"))
        return _with(one, "delivered")

    assert parts.subscriptions.update("sub_a", narrow).statuses == ("failed", "delivered")
    fresh = parts.subscriptions.load()
    assert fresh.by_id()["sub_a"].statuses == ("failed", "delivered")
    assert all(fresh.versions[shard] != versions[shard] for shard in versions)
    assert parts.client.drive(parts.index.looking(0, 1)).registry == fresh.versions[max(versions)]


def _with(one: Subscription, status: str) -> Subscription:
    return msgspec.structs.replace(one, statuses=(*one.statuses, status))
