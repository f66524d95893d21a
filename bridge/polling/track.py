"""Recording what senders say they sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from bridge.domain.commits import CommitResult, Due, Stored, Write
from bridge.domain.policy import PollPolicy
from bridge.domain.schedule import first_poll_ms
from bridge.domain.session_events import watched_until_ms
from bridge.domain.status import is_complete, track
from bridge.domain.tracking import SessionRequest
from bridge.errors import BridgeError
from bridge.polling.ports import Clock, Sessions

_TRIES = 20


class Tracker:
    """Makes requests into sessions that are stored and due."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        clock: Clock,
        policy: PollPolicy,
        chance: Callable[[], float],
        await_disk: Callable[[Sequence[str]], None] | None = None,
    ) -> None:
        """``await_disk`` returns once what was written of sessions outlives a crash; None: nobody waits for that."""
        self._await_disk = await_disk
        self._sessions = sessions
        self._clock = clock
        self._policy = policy
        self._chance = chance

    def track(
        self,
        account: str,
        requests: Sequence[SessionRequest],
        callbacks: Mapping[str, str] | None = None,
        origin: int = 0,
    ) -> None:
        """Store requests, merging each with what is known of its session. When this returns they are stored.

        ``callbacks`` has, for each ``callback_url`` among them, the id of the subscription that it implies. ``origin``
        is the number of who asks, kept with the sessions that were not tracked before.

        Raises:
            BridgeError: a session was written by others twenty times in a row, or ``await_disk`` failed; nothing of
                the rest is lost, the message comes back.
            StoreUnreachable: no answer.
        """
        pending = list(requests)
        for _ in range(_TRIES):
            pending = self._store(account, pending, callbacks or {}, origin)
            if not pending:
                if self._await_disk is not None:
                    self._await_disk([request.session_no for request in requests])
                return
        raise BridgeError(f"{len(pending)} sessions kept changing while they were tracked")

    def _store(
        self, account: str, requests: Sequence[SessionRequest], callbacks: Mapping[str, str], origin: int
    ) -> list[SessionRequest]:
        """One try; returns the requests that another writer overtook."""
        now_ms = self._clock.now_ms()
        groups: dict[str, list[SessionRequest]] = {}
        for request in requests:
            groups.setdefault(request.session_no, []).append(request)
        stored = self._sessions.read(account, list(groups))
        writes = [self._write(no, stored[no], group, now_ms, callbacks, origin=origin) for no, group in groups.items()]
        results = self._sessions.commit(account, writes)
        overtaken = [group for no, group in groups.items() if results[no] is not CommitResult.WRITTEN]
        return [request for group in overtaken for request in group]

    def _write(
        self,
        session_no: str,
        stored: Stored,
        requests: Sequence[SessionRequest],
        now_ms: int,
        callbacks: Mapping[str, str],
        *,
        origin: int,
    ) -> Write:
        """What all the requests for one session make of it together, one after the other."""
        first, *more = requests
        state = track(stored.state, first, now_ms, _callback(first, callbacks))
        for request in more:
            state = track(state, request, now_ms, _callback(request, callbacks))
        due: int | Due = Due.KEEP
        was_open = stored.state is not None and not stored.state.settled_ms
        expires_ms: int | Due | None = Due.KEEP if was_open else None
        if state.settled_ms:
            # Somebody may have asked for one that settled: an operator, or the provider with news of it.
            due, expires_ms = Due.LEAVE, state.settled_ms + self._policy.keep_settled_ms
        elif stored.state is None:
            state = msgspec.structs.replace(state, origin=origin)
            due = first_poll_ms(state, self._policy.ages_ms, now_ms, self._chance())
        elif is_complete(state, now_ms):
            # By what is expected of it now; its next poll may be hours away.
            due = now_ms
        return Write(
            session_no=session_no,
            version=stored.version,
            state=state,
            due=due,
            expires_ms=expires_ms,
            watch_ms=watched_until_ms(stored.state, state, self._policy.overdue_ms, now_ms),
        )


def _callback(request: SessionRequest, callbacks: Mapping[str, str]) -> str:
    return callbacks[request.callback_url] if request.callback_url else ""
