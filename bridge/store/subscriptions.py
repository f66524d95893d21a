"""The registry: who is subscribed, fenced by a version in every shard so that "wanted it then" is exact."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import cast

import msgspec

from bridge.domain.subscriptions import Subscription, SubscriptionState
from bridge.errors import NotFound
from bridge.store import keys
from bridge.store.client import Call, Client

_packer = msgspec.msgpack.Encoder()
_unpacker = msgspec.msgpack.Decoder(Subscription)


class Registry(msgspec.Struct, frozen=True):
    """All subscriptions, by account, at the versions that the shards had before they were read."""

    versions: Mapping[int, bytes]
    by_account: Mapping[str, tuple[Subscription, ...]]
    listeners: Mapping[str, tuple[str, ...]]
    """Ids of an account's subscriptions that hear of all its sessions."""
    implied: Mapping[str, frozenset[str]]
    """Ids of those that hear only of the sessions that name their URL."""

    def of(self, account: str) -> tuple[Subscription, ...]:
        """An account's subscriptions."""
        return self.by_account.get(account, ())

    def audience(self, account: str, callback: str) -> tuple[str, ...]:
        """Who is to hear of a session: every listener, and the subscription that its own URL implies."""
        listeners = self.listeners.get(account, ())
        return (*listeners, callback) if callback and callback in self.implied.get(account, ()) else listeners

    def by_id(self) -> dict[str, Subscription]:
        """Every subscription by its id."""
        return {one.id: one for group in self.by_account.values() for one in group}


class SubscriptionStore:
    """Adds, removes and loads subscriptions."""

    def __init__(self, client: Client, shards: int) -> None:
        self._client = client
        self._shards = shards

    def load(self) -> Registry:
        """The registry as it is now.

        The versions are read first: whoever changes it in between bumps them, and commits fenced by what is
        returned here are refused.
        """
        *versions, stored = self._client.commands(
            [*(["GET", keys.registry(shard)] for shard in range(self._shards)), ["HVALS", keys.SUBSCRIPTIONS]]
        )
        groups: dict[str, list[Subscription]] = {}
        for value in cast("list[bytes]", stored):
            one = _unpacker.decode(value)
            groups.setdefault(one.account, []).append(one)
        return Registry(
            versions={shard: cast("bytes | None", version) or b"0" for shard, version in enumerate(versions)},
            by_account={
                account: tuple(sorted(group, key=lambda one: (one.created_ms, one.id)))
                for account, group in groups.items()
            },
            listeners={
                account: tuple(one.id for one in group if not one.implicit) for account, group in groups.items()
            },
            implied={account: frozenset(one.id for one in group if one.implicit) for account, group in groups.items()},
        )

    def get(self, subscription: str) -> Subscription:
        """One subscription.

        Raises:
            NotFound: there is none of this id.
        """
        (value,) = self._client.commands([["HGET", keys.SUBSCRIPTIONS, subscription]])
        if value is None:
            raise _unknown(subscription)
        return _unpacker.decode(cast("bytes", value))

    def put(self, subscription: Subscription) -> None:
        """Add or replace a subscription. When this returns, every later commit knows it."""
        self._client.commands([["HSET", keys.SUBSCRIPTIONS, subscription.id, _packer.encode(subscription)]])
        self._bump(range(self._shards))

    def change(self, subscription: str, changed: Callable[[Subscription], Subscription | None]) -> Subscription | None:
        """Replace a subscription by what ``changed`` makes of it, again if somebody else changed it meanwhile.

        Returns the new one, or None where ``changed`` did, and nothing was written. When this returns, every later
        commit and slice knows it.

        Raises:
            NotFound: there is none of this id.
        """
        while True:
            (value,) = self._client.commands([["HGET", keys.SUBSCRIPTIONS, subscription]])
            if value is None:
                raise _unknown(subscription)
            old = cast("bytes", value)
            new = changed(_unpacker.decode(old))
            if new is None:
                return None
            call = Call("change_subscription", [keys.SUBSCRIPTIONS], [subscription, old, _packer.encode(new)])
            if self._client.run([call]) == [1]:
                self._bump(range(self._shards))
                return new

    def disable(self, subscription: str, reason: str, now_ms: int) -> bool:
        """Disable an active subscription. Returns whether it was active, and there at all."""
        try:
            done = self.change(
                subscription,
                lambda one: (
                    msgspec.structs.replace(one, state=SubscriptionState.DISABLED, reason=reason, since_ms=now_ms)
                    if one.is_active
                    else None
                ),
            )
        except NotFound:
            return False
        return done is not None

    def version(self) -> bytes:
        """One shard's version: whoever remembers another must load anew."""
        (version,) = self._client.commands([["GET", keys.registry(self._shards - 1)]])
        return cast("bytes | None", version) or b"0"

    def remove(self, subscription: str) -> None:
        """Forget a subscription. When this returns, no later commit routes an event to it.

        Raises:
            NotFound: there is none of this id.
        """
        (removed,) = self._client.commands([["HDEL", keys.SUBSCRIPTIONS, subscription]])
        if not removed:
            raise _unknown(subscription)
        self._bump(range(self._shards))

    def _bump(self, shards: Iterable[int]) -> None:
        # Random, not counted on: a number that the server lost with its last second would come again, and stand for
        # another registry in a poller that still remembers the first.
        self._client.commands([["SET", keys.registry(shard), secrets.token_hex(8)] for shard in shards])


def _unknown(subscription: str) -> NotFound:
    return NotFound(f"no subscription {subscription}: see `bridge subscriptions list`")
