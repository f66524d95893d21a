"""The registry: who is subscribed, fenced by a version in every shard so that "wanted it then" is exact."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import msgspec

from bridge.domain.events import EVENT_TYPES
from bridge.domain.receipts import Status
from bridge.domain.subscriptions import Subscription, SubscriptionState
from bridge.errors import BridgeError, NotFound, UsageError
from bridge.store import keys
from bridge.store.client import Call, Client

_packer = msgspec.msgpack.Encoder()
_unpacker = msgspec.msgpack.Decoder(Subscription)
_TRIES = 20


class Registry(msgspec.Struct, frozen=True):
    """All subscriptions, by account, at the versions that the shards had before they were read."""

    versions: Mapping[int, bytes]
    by_account: Mapping[str, tuple[Subscription, ...]]
    listeners: Mapping[str, tuple[tuple[str, ...], ...]]
    """Ids of an account's subscriptions that hear of all its sessions, for each status those that want it."""
    implied: Mapping[str, frozenset[str]]
    """Ids of those that hear only of the sessions that name their URL."""

    hearers: Mapping[str, Mapping[int, tuple[str, ...]]]
    """Ids of an account's subscriptions that hear of all its sessions, by the number of the type that they ask for."""

    erased: Mapping[bytes, int]
    """Tombstones of erased phones, with the time of each (Unix ms): no commit under these versions holds one."""

    def of(self, account: str) -> tuple[Subscription, ...]:
        """An account's subscriptions."""
        return self.by_account.get(account, ())

    def audience(self, account: str, callback: str, status: int) -> tuple[str, ...]:
        """Who is to hear of a phone's new status: who listens for it, and the subscription that the session's URL
        implies."""
        group = self.listeners.get(account)
        listeners = group[status] if group else ()
        return (*listeners, callback) if callback and callback in self.implied.get(account, ()) else listeners

    def asking_for(self, account: str, event_type: int) -> tuple[str, ...]:
        """Who is to hear of an event of this type (its number) that is no change of a phone's status."""
        return self.hearers.get(account, {}).get(event_type, ())

    def by_id(self) -> dict[str, Subscription]:
        """Every subscription by its id."""
        return {one.id: one for group in self.by_account.values() for one in group}


def unpack(value: bytes, name: str) -> Subscription:
    """The subscription ``name`` as it is stored.

    Raises:
        BridgeError: it cannot be read. All stops at it, rather than to go on without it: nobody would ever send what is
            recorded meanwhile, and what waits for it would be taken for a removed one's.
    """
    try:
        return _unpacker.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BridgeError(
            f"the record of subscription {name} cannot be read ({type(error).__name__}): restore the store from its "
            f"backup, or remove it with `HDEL {keys.SUBSCRIPTIONS} {name}` and add it anew"
        ) from None


def _listeners(group: Sequence[Subscription]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(one.id for one in group if not one.implicit and one.wants(status)) for status in Status)


def _hearers(group: Sequence[Subscription]) -> dict[int, tuple[str, ...]]:
    return {
        number: tuple(one.id for one in group if not one.implicit and one.hears(name))
        for number, name in EVENT_TYPES.items()
    }


def _absent(subscription: str) -> NotFound:
    return NotFound(f"no subscription {subscription}: see `bridge subscriptions list`")


class Found(msgspec.Struct, frozen=True):
    """A subscription, and the bytes that it is stored as."""

    value: bytes
    subscription: Subscription


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
        # In two round trips: on a cluster, one would read them in no order.
        versions = self._versions()
        stored, tombstones = self._client.commands([["HGETALL", keys.SUBSCRIPTIONS], ["HGETALL", keys.TOMBSTONES]])
        flat = cast("list[bytes]", tombstones)
        groups: dict[str, list[Subscription]] = {}
        pairs = cast("list[bytes]", stored)
        for name, value in zip(pairs[::2], pairs[1::2], strict=True):
            one = unpack(value, name.decode(errors="replace"))
            groups.setdefault(one.account, []).append(one)
        return Registry(
            versions=versions,
            by_account={
                account: tuple(sorted(group, key=lambda one: (one.created_ms, one.id)))
                for account, group in groups.items()
            },
            listeners={account: _listeners(group) for account, group in groups.items()},
            hearers={account: _hearers(group) for account, group in groups.items()},
            implied={
                account: frozenset(one.id for one in group if one.implicit and one.is_routed_to)
                for account, group in groups.items()
            },
            erased={name: int(at) for name, at in zip(flat[::2], flat[1::2], strict=True)},
        )

    def get(self, subscription: str) -> Subscription:
        """One subscription.

        Raises:
            NotFound: there is none of this id.
        """
        return self._found(subscription).subscription

    def put(self, subscription: Subscription, most: int | None = None) -> None:
        """Add or replace a subscription. When this returns, every later commit knows it.

        Not for those that URLs imply: ``CallbackUrls`` adds them.

        Raises:
            UsageError: it would be one more than the ``most`` that its account may have.
        """
        account = subscription.account
        value, limit = _packer.encode(subscription), "" if most is None else most
        added = Call("add_subscription", [keys.SUBSCRIPTIONS, keys.OWNED], [subscription.id, value, account, limit])
        if self._client.run([added]) != [1]:
            raise UsageError(
                f"the account {account} has {most:,} subscriptions, as many as BRIDGE_MAX_SUBSCRIPTIONS allows: remove "
                f"some (see `bridge subscriptions list --account {account}`), or raise it"
            )
        self.bump()

    def find(self, subscription: str) -> Found | None:
        """One subscription as it is stored, None where there is none of this id."""
        (value,) = self._client.commands([["HGET", keys.SUBSCRIPTIONS, subscription]])
        return None if value is None else Found(cast("bytes", value), unpack(cast("bytes", value), subscription))

    def begin(self, subscription: Subscription) -> None:
        """Put a subscription that counts for no account where there is none of its id. Tells nobody."""
        self._client.commands([["HSETNX", keys.SUBSCRIPTIONS, subscription.id, _packer.encode(subscription)]])

    def swap(self, found: Found, after: Subscription) -> Found | None:
        """Replace a subscription, if nobody else has meanwhile: as it is then, else None. Tells nobody."""
        value = _packer.encode(after)
        swap = Call("swap_field", [keys.SUBSCRIPTIONS], [after.id, found.value, value])
        return Found(value, after) if self._client.run([swap]) == [1] else None

    def drop(self, found: Found) -> bool:
        """Take a subscription out, if nobody has changed it meanwhile. Returns whether that was so. Tells nobody."""
        return self._drop(found.subscription, found.value)

    def versions_without(self, subscription: str) -> Mapping[int, bytes] | None:
        """The versions that the shards had before a subscription was looked for in vain; None if it is there."""
        versions = self._versions()
        (is_there,) = self._client.commands([["HEXISTS", keys.SUBSCRIPTIONS, subscription]])
        return None if is_there else versions

    def update(
        self, subscription: str, change: Callable[[Subscription], Subscription], *, bump: bool = True
    ) -> Subscription:
        """Replace a subscription by what ``change`` makes of it, whoever else writes it meanwhile; returns that.

        ``change`` may be called several times. ``bump`` False tells nobody: for what decides nothing.

        Raises:
            NotFound: there is none of this id.
        """
        for _ in range(_TRIES):
            found = self._found(subscription)
            before = found.subscription
            after = change(before)
            if after == before:
                return before
            if self.swap(found, after) is not None:
                if bump:
                    self.bump()
                return after
        raise BridgeError(f"{subscription} kept being changed by others; try again")

    def change(self, subscription: str, changed: Callable[[Subscription], Subscription | None]) -> Subscription | None:
        """As ``update``, but where ``changed`` makes None of it nothing is written, and None returned.

        Raises:
            NotFound: there is none of this id.
        """
        made: Subscription | None = None

        def step(before: Subscription) -> Subscription:
            nonlocal made
            made = changed(before)
            return before if made is None else made

        after = self.update(subscription, step)
        return None if made is None else after

    def disable(self, subscription: str, reason: str, now_ms: int) -> bool:
        """Disable an active subscription. Returns whether it was active, and there at all."""
        try:
            done = self.change(
                subscription,
                lambda one: (
                    msgspec.structs.replace(
                        one,
                        state=SubscriptionState.DISABLED,
                        reason=reason,
                        since_ms=now_ms,
                        disablings=one.disablings + 1,
                    )
                    if one.is_active
                    else None
                ),
            )
        except NotFound:
            return False
        return done is not None

    def remove(self, subscription: str) -> None:
        """Forget a subscription. When this returns, no later commit routes an event to it.

        Raises:
            NotFound: there is none of this id.
        """
        if not self._drop(self.get(subscription)):
            raise _absent(subscription)
        self.bump()

    def bump(self) -> None:
        """Make every later commit read the registry anew."""
        # Random, not counted on: a number that the server lost with its last second would come again, and stand for
        # another registry in a poller that still remembers the first.
        versions = [keys.registry(shard) for shard in range(self._shards)]
        self._client.run([Call("bump_registry", [name], [secrets.token_hex(8)]) for name in versions])

    def _versions(self) -> dict[int, bytes]:
        replies = self._client.commands([["GET", keys.registry(shard)] for shard in range(self._shards)])
        return {shard: cast("bytes | None", version) or keys.NO_REGISTRY for shard, version in enumerate(replies)}

    def _found(self, subscription: str) -> Found:
        found = self.find(subscription)
        if found is None:
            raise _absent(subscription)
        return found

    def _drop(self, one: Subscription, value: bytes = b"") -> bool:
        counted = "" if one.implicit else one.account
        dropped = Call("drop_subscription", [keys.SUBSCRIPTIONS, keys.OWNED], [one.id, counted, value])
        return self._client.run([dropped]) == [1]
