"""The audit trail: who did what with the bridge, when, and what came of it. The newest 10,000 actions.

An action is noted before it is begun, and that note replaced by another once it has ended. So none goes without a note:
where a crash came in between, or the store was gone at the end, the first note stays, and says that nobody knows how it
ended. What it dropped is counted with the subscription in any case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import cast

import msgspec

from bridge.store import keys
from bridge.store.client import Argument, Call, Client

MOST = 10_000
_PAGE = 500


class Outcome(StrEnum):
    """How an action ended. ``unfinished``: it is under way, or was cut short by a crash."""

    UNFINISHED = "unfinished"
    DONE = "done"
    FAILED = "failed"


class Noted(msgspec.Struct):
    """An action under way: on what (an id), and what there is to say of it. Never a secret, never a phone.

    Both may be changed until it ends: an id may be known only then, and counts are.
    """

    target: str
    details: dict[str, object]


class _Entry(msgspec.Struct, frozen=True, array_like=True):
    who: str
    action: str
    target: str
    outcome: Outcome
    details: Mapping[str, object]
    begun: str = ""


class Action(msgspec.Struct, frozen=True):
    """An action as it is shown. ``at_ms`` is when it ended, or began where it did not; both are Unix ms."""

    began_ms: int
    at_ms: int
    who: str
    action: str
    target: str
    outcome: Outcome
    details: Mapping[str, object]


_packer = msgspec.msgpack.Encoder()
_unpacker = msgspec.msgpack.Decoder(_Entry)


class AuditTrail:
    """One stream, outside the shards."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @contextmanager
    def noted(
        self, who: str, action: str, target: str = "", details: Mapping[str, object] | None = None
    ) -> Iterator[Noted]:
        """Note what is done in the block: before it, and how it ended.

        ``action`` is a command's words, such as ``subscriptions pause``, ``details`` what is known of it beforehand.
        An error that ends the block is noted by its kind, with the details so far, and goes on.

        Raises:
            StoreUnreachable: no answer. Before the block, nothing was done; after it, the first note stays.
        """
        noted = Noted(target, dict(details or {}))
        begun = self._write(_Entry(who, action, target, Outcome.UNFINISHED, details or {}))
        try:
            yield noted
        except BaseException as error:
            sofar = noted.details | {"error": type(error).__name__}
            self._write(_Entry(who, action, noted.target, Outcome.FAILED, sofar, begun))
            raise
        self._write(_Entry(who, action, noted.target, Outcome.DONE, noted.details, begun))

    def newest(self, since_ms: int = 0) -> Iterator[Action]:
        """Actions that ended, or began and did not, from ``since_ms`` on (Unix ms), the newest first."""
        seen: set[str] = set()
        high, low = "+", str(max(0, since_ms))
        while True:
            command: list[Argument] = ["XREVRANGE", keys.AUDIT, high, low, "COUNT", _PAGE]
            page = cast("list[tuple[bytes, list[bytes]]]", self._client.commands([command])[0])
            for stream_id, flat in page:
                try:
                    name, entry = stream_id.decode(), _unpacker.decode(flat[1])
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    continue  # one that cannot be read hides no other
                begun = entry.begun or name
                if begun not in seen:
                    seen.add(begun)
                    yield _action(name, begun, entry)
            if len(page) < _PAGE:
                return
            high = f"({page[-1][0].decode()}"

    def _write(self, entry: _Entry) -> str:
        call = Call("note_action", [keys.AUDIT], [MOST, entry.begun, _packer.encode(entry)])
        return cast("bytes", self._client.run([call])[0]).decode()


def _action(name: str, begun: str, entry: _Entry) -> Action:
    began_ms, at_ms = (int(one.partition("-")[0]) for one in (begun, name))
    return Action(began_ms, at_ms, entry.who, entry.action, entry.target, entry.outcome, entry.details)
