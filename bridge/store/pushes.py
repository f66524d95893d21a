"""What the provider pushed by itself: hints that make sessions due, and counts of them for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec

from bridge.store import keys
from bridge.store.client import Call, Client
from bridge.store.sessions import SessionStore

HINT_GAP_MS = 5_000
"""A push makes a session due at most once in this time: a flood of pushes is no flood of calls."""


class Pushed(msgspec.Struct, frozen=True):
    """How many pushes came for an account, how many sessions they made due, and how many they named that nobody
    tracks; when the last came (Unix ms, 0 for never)."""

    pushes: int = 0
    hinted: int = 0
    unknown: int = 0
    at_ms: int = 0


class PushStore:
    """Takes hints and counts them."""

    def __init__(self, client: Client, sessions: SessionStore) -> None:
        self._client = client
        self._sessions = sessions

    def take(self, account: str, session_nos: Sequence[str], now_ms: int) -> tuple[int, int]:
        """Make the named sessions due. Returns how many are due sooner than before, and how many nobody tracks."""
        named = list(dict.fromkeys(session_nos))
        known, sooner = self.hint(account, named)
        unknown = len(named) - known
        name = keys.pushes(account)
        self._client.commands(
            [
                ["HINCRBY", name, "pushes", 1],
                ["HINCRBY", name, "hinted", sooner],
                ["HINCRBY", name, "unknown", unknown],
                ["HSET", name, "at", now_ms],
            ]
        )
        return sooner, unknown

    def hint(self, account: str, session_nos: Sequence[str]) -> tuple[int, int]:
        """Make sessions due now, each at most once in ``HINT_GAP_MS``: one hinted at a moment ago is due after it.

        Returns how many of them there are, and how many are due sooner than before.
        """
        calls = [
            Call(
                "hint_sessions",
                [
                    keys.index(shard),
                    keys.due(shard, account),
                    keys.hinted(shard, account),
                    *(keys.session(shard, account, no) for no in group),
                ],
                [keys.poll_member(account), HINT_GAP_MS, 2 * HINT_GAP_MS, *group],
            )
            for shard, group in self._sessions.by_shard(dict.fromkeys(session_nos)).items()
        ]
        known = sooner = 0
        for reply in self._client.run(calls):
            there, moved = cast("list[int]", reply)
            known, sooner = known + there, sooner + moved
        return known, sooner

    def counts(self, account: str) -> Pushed:
        """What came so far."""
        (reply,) = self._client.commands([["HMGET", keys.pushes(account), "pushes", "hinted", "unknown", "at"]])
        return Pushed(*(int(value or 0) for value in cast("list[bytes | None]", reply)))
