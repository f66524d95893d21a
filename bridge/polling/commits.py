"""Committing what was decided of sessions, whoever else writes them or the registry meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bridge.domain.commits import CommitResult, Stored, Write
from bridge.errors import BridgeError
from bridge.polling.ports import Clock, Registries, Registry, Sessions

_TRIES = 20
_REGISTRY_KEPT_MS = 10_000

Decide = Callable[[Registry, Mapping[str, Stored], int], Sequence[Write]]
"""What to write of sessions as they are stored, for whom the registry names, at a time (Unix ms)."""


class Committer:
    """Commits decisions, and decides again where somebody was faster. Threads may share it."""

    def __init__(self, sessions: Sessions, registries: Registries, clock: Clock) -> None:
        self._sessions = sessions
        self._registries = registries
        self._clock = clock
        # One value, replaced whole: threads share it.
        self._known: tuple[Registry, int] | None = None

    def commit(
        self, account: str, stored: Mapping[str, Stored], decide: Decide, written: Callable[[Write], None]
    ) -> None:
        """Write what ``decide`` makes of sessions; ``written`` hears of each that was.

        Raises:
            BridgeError: sessions were written by others twenty times in a row.
        """
        registry = self._registry()
        pending = stored
        for _ in range(_TRIES):
            writes = decide(registry, pending, self._clock.now_ms())
            results = self._sessions.commit(account, writes, registry.versions)
            overtaken = []
            stale = False
            for write in writes:
                result = results[write.session_no]
                if result is CommitResult.WRITTEN:
                    written(write)
                else:
                    overtaken.append(write.session_no)
                    stale = stale or result is CommitResult.STALE_REGISTRY
            if not overtaken:
                return
            if stale:
                registry = self._load()
            pending = self._sessions.read(account, overtaken)
        raise BridgeError(f"{len(pending)} sessions kept changing while they were polled")

    def _registry(self) -> Registry:
        """The registry, read anew every 10 s.

        Commits are fenced by its versions; but a change whose author died before the versions changed is seen only
        by reading it again.
        """
        known = self._known
        if known is None or self._clock.now_ms() - known[1] > _REGISTRY_KEPT_MS:
            return self._load()
        return known[0]

    def _load(self) -> Registry:
        read_ms = self._clock.now_ms()
        registry = self._registries.load()
        self._known = (registry, read_ms)
        return registry
