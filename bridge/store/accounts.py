"""Accounts: their credential sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import msgspec

from bridge.domain.accounts import Account
from bridge.errors import BridgeError, NotFound
from bridge.store import keys
from bridge.store.client import Argument, Call, Client

_TRIES = 20
_IN_EACH_SHARD = (keys.log, keys.begin, keys.erased, keys.hinted, keys.damaged)
_packer = msgspec.msgpack.Encoder()
_unpacker = msgspec.msgpack.Decoder(Account)


def unpack(record: bytes) -> Account:
    """An account as ``AccountStore.record`` gives it.

    Raises:
        BridgeError: it cannot be read.
    """
    try:
        return _unpacker.decode(record)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BridgeError(
            f"an account's record cannot be read ({type(error).__name__}): restore the store from its backup, or "
            "remove it with `bridge accounts remove`, and add it anew"
        ) from None


class AccountStore:
    """Credential sets, all in one hash: few, and read whole by whoever lists them."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def add(self, account: Account) -> bool:
        """Store a new account. Returns False, and stores nothing, where there is one of this name."""
        (done,) = self._client.commands([["HSETNX", keys.CREDENTIALS, account.name, _packer.encode(account)]])
        return done == 1

    def record(self, name: str) -> bytes | None:
        """An account as it is stored, None if there is none. It is another as soon as anything of it has changed."""
        (record,) = self._client.commands([["HGET", keys.CREDENTIALS, name]])
        return cast("bytes | None", record)

    def get(self, name: str) -> Account:
        """One account.

        Raises:
            NotFound: there is none of this name.
        """
        record = self.record(name)
        if record is None:
            raise NotFound(f"no account {name}: see `bridge accounts list`")
        return unpack(record)

    def all(self) -> list[Account]:
        """Every account, by name."""
        (records,) = self._client.commands([["HVALS", keys.CREDENTIALS]])
        return sorted(map(unpack, cast("list[bytes]", records)), key=lambda one: one.name)

    def update(self, name: str, changed: Callable[[Account], Account]) -> Account:
        """Change an account, as of now; what others change at the same moment stays changed.

        Raises:
            NotFound: there is none of this name.
        """
        for _ in range(_TRIES):
            before = self.record(name)
            if before is None:
                raise NotFound(f"no account {name}: see `bridge accounts list`")
            after = changed(unpack(before))
            swap = Call("swap_field", [keys.CREDENTIALS], [name, before, _packer.encode(after)])
            if self._client.run([swap]) == [1]:
                return after
        raise BridgeError(f"account {name} kept being changed by others; try again")

    def remove(self, name: str, shards: int) -> None:
        """Forget an account with all that is kept under its name but its sessions and subscriptions.

        Those are to be removed before: a crash in between leaves an account that is removed by doing it again.
        """
        everywhere = [keys.account, keys.callbacks, keys.rejected, keys.rate, keys.pushes]
        commands: list[list[Argument]] = [["UNLINK", make(name)] for make in everywhere]
        for shard in range(shards):
            commands += [["UNLINK", make(shard, name)] for make in _IN_EACH_SHARD]
            (members,) = self._client.commands([["ZRANGE", keys.watches(shard), 0, -1]])
            for member in cast("list[bytes]", members):
                owner, _, at_ms = member.decode().rpartition(":")
                if owner == name:
                    commands.append(["UNLINK", keys.watch(shard, name, int(at_ms))])
                    commands.append(["ZREM", keys.watches(shard), member])
        self._client.commands([*commands, ["SREM", keys.ACCOUNTS, name], ["HDEL", keys.CREDENTIALS, name]])
