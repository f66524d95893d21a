"""Secrets of subscriptions and accounts as they are stored: each sealed to its owner and its use, so that none opens as
another."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Iterable
from typing import cast

import msgspec

from bridge.domain.accounts import Account
from bridge.domain.credentials import Credentials, Identity, SigningKey
from bridge.domain.headers import changed_headers
from bridge.domain.signing import SECRET_BYTES
from bridge.domain.subscriptions import (
    Changes,
    Options,
    PhoneFormat,
    RetiredKey,
    SealedHeader,
    SealedIdentity,
    Subscription,
)
from bridge.errors import NotFound, SecretsUnreadable, UsageError
from bridge.store import keys
from bridge.store.accounts import AccountStore
from bridge.store.client import Call, Client
from bridge.store.secrets import SecretBox
from bridge.store.subscriptions import SubscriptionStore

MOST_RETIRED = 2
"""Old keys that sign beside the current one: each is another signature in every callback."""

_identities = msgspec.msgpack.Decoder(Identity)
_SECRET = "callback_secret"  # noqa: S105 - the name of a field
_PUSH = "push_token"
_PUSH_BYTES = 24


def sealed(subscription: Subscription, options: Options, box: SecretBox) -> Subscription:
    """The subscription with what was asked for, its secrets sealed."""
    # Not derived from the signing secret: that one is rotated when it leaks, and this one never can be.
    phone_key = secrets.token_bytes(SECRET_BYTES) if options.phones is PhoneFormat.HASHED else b""
    return msgspec.structs.replace(
        subscription,
        types=options.types,
        statuses=options.statuses,
        phones=options.phones,
        format=options.format,
        phone_key=phone_key and box.seal(phone_key, _phones(subscription.id)),
        headers=_sealed_headers(subscription.id, options.headers, box),
        identity=options.identity and _sealed_identity(subscription.id, *options.identity, box),
    )


def with_changes(subscription: Subscription, changes: Changes, box: SecretBox) -> Subscription:
    """The subscription with what of its options is to be another, its secrets sealed.

    Raises:
        UsageError: a header that is to be dropped is not there, or callbacks may not carry what comes of them.
        SecretsUnreadable: none of BRIDGE_SECRET_KEYS opens those that it has.
    """
    headers, identity = subscription.headers, None if changes.drop_identity else subscription.identity
    if changes.headers or changes.drop_headers:
        had = [(one.name, box.open(one.sealed, _header(subscription.id, one.name)).decode()) for one in headers]
        headers = _sealed_headers(subscription.id, changed_headers(had, changes.headers, changes.drop_headers), box)
    if changes.identity:
        before = _opened_identity(subscription.id, identity, box)
        identity = _sealed_identity(subscription.id, *_with_parts(changes.identity, before), box)
    return msgspec.structs.replace(
        subscription,
        types=subscription.types if changes.types is None else changes.types,
        statuses=subscription.statuses if changes.statuses is None else changes.statuses,
        headers=headers,
        identity=identity,
    )


def _with_parts(given: tuple[Identity, int], present: tuple[Identity, int]) -> tuple[Identity, int]:
    """A certificate with its key replaces one, and authorities replace authorities: each leaves the other as it was."""
    (identity, expires_ms), (before, before_ms) = given, present
    if not identity.certificate:
        identity = msgspec.structs.replace(identity, certificate=before.certificate, key=before.key)
        expires_ms = before_ms
    return msgspec.structs.replace(identity, authorities=identity.authorities or before.authorities), expires_ms


def _opened_identity(subscription: str, held: SealedIdentity | None, box: SecretBox) -> tuple[Identity, int]:
    if held is None:
        return Identity(b"", b"", b""), 0
    return _identities.decode(box.open(held.sealed, _identity(subscription))), held.expires_ms


def _sealed_headers(subscription: str, headers: Iterable[tuple[str, str]], box: SecretBox) -> tuple[SealedHeader, ...]:
    return tuple(SealedHeader(name, box.seal(value.encode(), _header(subscription, name))) for name, value in headers)


def _sealed_identity(subscription: str, identity: Identity, expires_ms: int, box: SecretBox) -> SealedIdentity:
    packed = msgspec.msgpack.encode(identity)
    return SealedIdentity(box.seal(packed, _identity(subscription)), expires_ms, bool(identity.authorities))


def rotated(subscription: Subscription, key: bytes, overlap_ms: int, now_ms: int, box: SecretBox) -> Subscription:
    """The subscription with ``key`` as its current one; the one before signs for ``overlap_ms`` more.

    Raises:
        UsageError: it is its current key already.
    """
    current, *_ = subscription.secrets
    if key == box.open(current, subscription.id):
        raise UsageError(f"{subscription.id}: this is its secret already; give another")
    retired = [one for one in subscription.retired if one.until_ms > now_ms]
    if overlap_ms:
        retired.insert(0, RetiredKey(current, now_ms + overlap_ms))
    return msgspec.structs.replace(
        subscription, secrets=(box.seal(key, subscription.id),), retired=tuple(retired[:MOST_RETIRED])
    )


def _resealed(subscription: Subscription, box: SecretBox) -> Subscription:
    """The subscription with all that is sealed in it under the first key."""
    name = subscription.id
    return msgspec.structs.replace(
        subscription,
        secrets=tuple(box.rewrap(one, name) for one in subscription.secrets),
        retired=tuple(RetiredKey(box.rewrap(one.sealed, name), one.until_ms) for one in subscription.retired),
        phone_key=subscription.phone_key and box.rewrap(subscription.phone_key, _phones(name)),
        headers=tuple(
            SealedHeader(one.name, box.rewrap(one.sealed, _header(name, one.name))) for one in subscription.headers
        ),
        identity=subscription.identity
        and msgspec.structs.replace(
            subscription.identity, sealed=box.rewrap(subscription.identity.sealed, _identity(name))
        ),
    )


def _identity(subscription: str) -> str:
    return f"{subscription}:identity"


def _header(subscription: str, name: str) -> str:
    return f"{subscription}:header:{name}"


def _phones(subscription: str) -> str:
    return f"{subscription}:phones"


class SigningKeys:
    """The keys that a subscription's callbacks are signed with: its own, or its account's."""

    def __init__(self, client: Client, box: SecretBox) -> None:
        self._client = client
        self._box = box

    def of(self, subscription: Subscription) -> Credentials:
        """What its callbacks are made with.

        Raises:
            SecretsUnreadable: none of BRIDGE_SECRET_KEYS opens them.
        """
        if subscription.implicit:
            return Credentials(keys=(SigningKey(self.of_account(subscription.account)),))
        name, box, held = subscription.id, self._box, subscription.identity
        signing = [SigningKey(box.open(sealed, name)) for sealed in subscription.secrets]
        signing += [SigningKey(box.open(one.sealed, name), one.until_ms) for one in subscription.retired]
        headers = [
            f"{one.name}: ".encode() + box.open(one.sealed, _header(name, one.name)) for one in subscription.headers
        ]
        return Credentials(
            keys=tuple(signing),
            phone_key=subscription.phone_key and box.open(subscription.phone_key, _phones(name)),
            headers=tuple(headers),
            identity=_identities.decode(box.open(held.sealed, _identity(name))) if held else None,
        )

    def of_account(self, account: str) -> bytes:
        """The key of callbacks to URLs that sessions name, made when it is first asked for.

        Raises:
            SecretsUnreadable: none of BRIDGE_SECRET_KEYS opens it.
        """
        name, owner = keys.account(account), _account(account)
        (sealed,) = self._client.commands([["HGET", name, _SECRET]])
        if sealed is None:
            fresh = self._box.seal(secrets.token_bytes(SECRET_BYTES), owner)
            # A script, because a plain HSETNX is refused with memory short, and every slice that comes upon such a
            # callback would end.
            self._client.run([Call("swap_field", [name], [_SECRET, "", fresh])])
            (sealed,) = self._client.commands([["HGET", name, _SECRET]])
        return self._box.open(cast("bytes", sealed), owner)


class ProviderKeys:
    """The private keys that accounts call the provider with."""

    def __init__(self, box: SecretBox) -> None:
        self._box = box

    def seal(self, account: str, private_key: str) -> bytes:
        """A private key as its account's record holds it."""
        return self._box.seal(private_key.encode(), _private_key(account))

    def private_key(self, account: Account) -> str:
        """An account's private key.

        Raises:
            SecretsUnreadable: none of BRIDGE_SECRET_KEYS opens it.
        """
        return self._box.open(account.private_key, _private_key(account.name)).decode()


class PushTokens:
    """What the provider's own push must name in its URL, for each account: sealed, so that it can be shown again."""

    def __init__(self, client: Client, box: SecretBox) -> None:
        self._client = client
        self._box = box

    def show(self, account: str) -> str:
        """An account's token, made when it is first asked for.

        Raises:
            SecretsUnreadable: none of BRIDGE_SECRET_KEYS opens it.
        """
        name, fresh = keys.account(account), self._box.seal(_token(), _push(account))
        _, sealed = self._client.commands([["HSETNX", name, _PUSH, fresh], ["HGET", name, _PUSH]])
        return self._box.open(cast("bytes", sealed), _push(account)).decode()

    def rotate(self, account: str) -> str:
        """A new token; the one before is refused from now on."""
        token = _token()
        self._client.commands([["HSET", keys.account(account), _PUSH, self._box.seal(token, _push(account))]])
        return token.decode()

    def admits(self, account: str, token: str) -> bool:
        """Whether this is the account's token. One that has none, or is none, takes as long as another.

        Raises:
            SecretsUnreadable: none of BRIDGE_SECRET_KEYS opens what there is.
        """
        (sealed,) = self._client.commands([["HGET", keys.account(account), _PUSH]])
        kept = self._box.open(cast("bytes", sealed), _push(account)) if sealed is not None else _token()
        return hmac.compare_digest(kept, token.encode(errors="surrogatepass"))


def _token() -> bytes:
    return secrets.token_urlsafe(_PUSH_BYTES).encode()


class Rewrapped(msgspec.Struct, frozen=True):
    """How many subscriptions and accounts had a secret under another key than the first, and how many had none.

    ``unreadable`` are those whose secrets no key opens: they are left as they are.
    """

    rewrapped: int = 0
    current: int = 0
    unreadable: tuple[str, ...] = ()


class Rewrapping:
    """Seals everything again with the first of BRIDGE_SECRET_KEYS, so that the others can be taken away.

    Each value is swapped only where it is still the one that was read: two of these at once, or a rotation meanwhile,
    lose nothing; what a crash leaves undone the next run does.
    """

    def __init__(self, client: Client, subscriptions: SubscriptionStore, box: SecretBox) -> None:
        self._client = client
        self._subscriptions = subscriptions
        self._accounts = AccountStore(client)
        self._box = box

    def run(self, advance: Callable[[int], None]) -> Rewrapped:
        """Go through all of the store; ``advance`` hears of each object done."""
        done: list[bool] = []
        unreadable: list[str] = []
        accounts = {key.decode().removeprefix(keys.account("")) for key in self._client.scan(keys.account("*"))}
        accounts |= {one.name for one in self._accounts.all()}
        for work, name in [
            *((self._subscription, one) for one in self._subscriptions.load().by_id()),
            *((self._account, one) for one in sorted(accounts)),
        ]:
            try:
                done.append(work(name))
            except SecretsUnreadable:
                unreadable.append(name)
            advance(1)
        return Rewrapped(sum(done), len(done) - sum(done), tuple(unreadable))

    def _subscription(self, name: str) -> bool:
        changed = False

        def change(one: Subscription) -> Subscription:
            nonlocal changed
            after = _resealed(one, self._box)
            changed = after != one
            return after

        try:
            # Nobody is told: who hears of what is the same, and what slices have opened stays right.
            self._subscriptions.update(name, change, bump=False)
        except NotFound:
            return False  # removed meanwhile
        return changed

    def _account(self, name: str) -> bool:
        # Each of them, whatever became of the others.
        done = [self._field(name, _SECRET, _account(name)), self._field(name, _PUSH, _push(name)), self._provider(name)]
        return any(done)

    def _field(self, account: str, field: str, owner: str) -> bool:
        key = keys.account(account)
        while True:
            (value,) = self._client.commands([["HGET", key, field]])
            if value is None:
                return False
            before = cast("bytes", value)
            after = self._box.rewrap(before, owner)
            if after == before:
                return False
            if self._client.run([Call("swap_field", [key], [field, before, after])]) == [1]:
                return True

    def _provider(self, name: str) -> bool:
        changed = False

        def change(one: Account) -> Account:
            nonlocal changed
            after = self._box.rewrap(one.private_key, _private_key(name))
            changed = after != one.private_key
            return msgspec.structs.replace(one, private_key=after)

        try:
            self._accounts.update(name, change)
        except NotFound:
            return False  # default, or one that has only tracked, or removed meanwhile
        return changed


def _account(name: str) -> str:
    return f"account:{name}"


def _private_key(account: str) -> str:
    return f"account:{account}:private_key"


def _push(account: str) -> str:
    return f"account:{account}:push_token"
