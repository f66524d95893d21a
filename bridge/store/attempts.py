"""Failed attempts: what subscribers answered instead of accepting, for people who ask why. The newest 10,000 each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import cast

import msgspec

from bridge.domain.deliveries import FailedAttempt
from bridge.store import keys
from bridge.store.client import Argument, Client

_MOST = 10_000
KEPT_MS = 30 * 86_400_000
_PAGE = 500
_packer = msgspec.msgpack.Encoder()
_unpacker = msgspec.msgpack.Decoder(FailedAttempt)


class AttemptLog:
    """One stream a subscription, outside the shards: nothing but people reads it."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def add(self, attempts: Sequence[tuple[str, FailedAttempt]]) -> None:
        """Write attempts, each with its subscription, in one round trip.

        The stream is cut at whole nodes (``~``), so a few more than 10,000 may be there.

        Raises:
            BridgeError: the server refuses (out of memory), or does not answer. Nothing depends on them.
        """
        commands: list[list[Argument]] = [
            ["XADD", keys.attempts(name), "MAXLEN", "~", _MOST, "*", "a", _packer.encode(one)] for name, one in attempts
        ]
        # A slice may note the attempts of a subscription that was removed meanwhile: nobody would look for those.
        names = {name for name, _ in attempts}
        commands += [["PEXPIRE", keys.attempts(name), KEPT_MS] for name in names]
        self._client.commands(commands)

    def newest(self, subscription: str) -> Iterator[FailedAttempt]:
        """A subscription's failed attempts, the newest first."""
        for _, one in self._walk(subscription):
            yield one

    def last_errors(self, subscription: str, events: Collection[str]) -> dict[str, str]:
        """Why the last attempt of each of these events failed, of those whose attempts are still kept."""
        left, found = set(events), dict[str, str]()
        for one in self.newest(subscription) if left else ():
            if one.event in left:
                found[one.event] = one.error
                left.remove(one.event)
                if not left:
                    break
        return found

    def trim(self, subscriptions: Iterable[str], before_ms: int) -> int:
        """Drop attempts older than ``before_ms`` (Unix ms). Returns how many."""
        replies = self._client.commands(
            [["XTRIM", keys.attempts(name), "MINID", f"{before_ms}-0"] for name in subscriptions]
        )
        return sum(cast("list[int]", replies))

    def erase(self, subscription: str, phone: bytes, *, dry: bool) -> int:
        """Drop the attempts of a phone (its tag). Returns how many; ``dry``, how many there are."""
        found = [stream_id for stream_id, one in self._walk(subscription) if one.phone == phone]
        if found and not dry:
            self._client.commands([["XDEL", keys.attempts(subscription), *found]])
        return len(found)

    def remove(self, subscription: str) -> None:
        """Forget a subscription's attempts."""
        self._client.commands([["UNLINK", keys.attempts(subscription)]])

    def _walk(self, subscription: str) -> Iterator[tuple[bytes, FailedAttempt]]:
        high = "+"
        while True:
            command: list[Argument] = ["XREVRANGE", keys.attempts(subscription), high, "-", "COUNT", _PAGE]
            page = cast("list[tuple[bytes, list[bytes]]]", self._client.commands([command])[0])
            for stream_id, flat in page:
                with suppress(msgspec.MsgspecError, UnicodeDecodeError):  # one that cannot be read hides no other
                    yield stream_id, _unpacker.decode(flat[1])
            if len(page) < _PAGE:
                return
            high = f"({page[-1][0].decode()}"
