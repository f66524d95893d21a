"""Asking the provider about sessions that are due, and recording what changed.

claim → pack → fetch → transition → commit. A crash anywhere leaves the claimed sessions to come due again at the end
of their lease; what was committed is not done twice, because the transition finds nothing new.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec

from bridge.domain import events
from bridge.domain.commits import CommitResult, Due, Entry, Route, Stored, Write
from bridge.domain.packing import MAX_SESSIONS, pack_call
from bridge.domain.policy import PollPolicy
from bridge.domain.receipts import Receipt
from bridge.domain.schedule import next_poll_ms
from bridge.domain.status import SessionState, Transition, transition
from bridge.errors import AccountError, BridgeError, ProviderError, RequestError
from bridge.polling.ports import Clock, Provider, Rate, Registries, Registry, Sessions

_TRIES = 20
_ACCOUNT_PAUSE_MS = 60_000
_FIRST_PAUSE_MS = 1_000
_LONGEST_PAUSE_MS = 60_000
_REFUSED_PAUSE_MS = 3_600_000
"""A session that the provider refuses by itself is asked for again after an hour."""
_REGISTRY_KEPT_MS = 10_000

_Audience = Callable[[int], Sequence[str]]
"""Who is to hear that a phone of the session has a status."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What one step did.

    ``polled`` sessions were answered for, with ``changed`` events recorded, ``routed`` deliveries queued,
    ``regressed`` and ``conflicts`` words of the provider's ignored. ``left`` sessions are still due. ``wait_ms`` is
    how long to wait before the next step is of use. ``failure`` is why the provider's answer could not be used,
    ``failures`` how many came in a row.
    """

    polled: int = 0
    changed: int = 0
    routed: int = 0
    regressed: int = 0
    conflicts: int = 0
    left: int = 0
    wait_ms: int = 0
    failure: ProviderError | None = None
    failures: int = 0


class Poller:
    """Polls the sessions of accounts, a call at a time. Threads and processes may each have one.

    ``provider`` gives the client of an account; it may raise ``BridgeError`` where there is none.
    ``calls_per_second`` gives an account's rate.
    """

    def __init__(
        self,
        *,
        sessions: Sessions,
        registries: Registries,
        rate: Rate,
        clock: Clock,
        provider: Callable[[str], Provider],
        calls_per_second: Callable[[str], float],
        policy: PollPolicy,
        chance: Callable[[], float],
        tombstone: Callable[[str], bytes],
    ) -> None:
        self._sessions = sessions
        self._registries = registries
        self._rate = rate
        self._clock = clock
        self._provider = provider
        self._calls_per_second = calls_per_second
        self._policy = policy
        self._chance = chance
        self._tombstone = tombstone
        self._registry: Registry | None = None
        self._registry_ms = 0

    def step(self, account: str) -> Step:
        """Make at most one call for sessions that are due (more only to find one that the provider refuses)."""
        counts = self._sessions.due_counts(account, self._clock.now_ms())
        total = sum(counts)
        if not total:
            return Step()
        pause_ms, failures, _ = self._rate.paused(account)
        if pause_ms:
            return Step(left=total, wait_ms=pause_ms)
        wait_ms = self._rate.take(account, self._calls_per_second(account))
        if wait_ms:
            return Step(left=total, wait_ms=wait_ms)
        now_ms, claimed = self._sessions.claim(account, self._share(counts), self._policy.lease_ms)
        self._clock.note(now_ms)
        stored = self._sessions.read(account, claimed)
        known = [(no, state) for no in claimed if (state := stored[no].state) is not None]
        if len(known) < len(claimed):
            self._sessions.drop_due(account, [no for no in claimed if stored[no].state is None])
        chosen, rest = pack_call(known)
        if rest:
            self._sessions.reschedule(account, dict.fromkeys(rest, now_ms))
        if not chosen:
            return Step(left=total - len(claimed))
        step, unasked = self._ask(account, chosen, stored)
        if step.failure is not None:
            return msgspec.structs.replace(
                self._put_off(account, unasked, step), left=total - len(claimed) + len(rest) + len(unasked)
            )
        if failures:
            self._rate.resume(account)
        return msgspec.structs.replace(step, left=total - len(claimed) + len(rest))

    def apply(self, account: str, stored: Mapping[str, Stored], receipts: Mapping[str, Sequence[Receipt]]) -> Step:
        """Record what a successful answer says of sessions, of which ``stored`` is what was read before it."""
        registry = self._known_registry()
        pending = dict(stored)
        total = Step(polled=len(receipts))
        for _ in range(_TRIES):
            now_ms = self._clock.now_ms()
            decided = {
                no: self._decide(one, self._unerased(registry, one.state, receipts[no]), now_ms)
                for no, one in pending.items()
                if one.state
            }
            writes = [
                self._write(no, pending[no], done, partial(registry.audience, account, done[0].callback), now_ms)
                for no, done in decided.items()
            ]
            results = self._sessions.commit(account, writes, registry.versions)
            for write in writes:
                if results[write.session_no] is CommitResult.WRITTEN:
                    total = _count(total, decided[write.session_no], write)
            if CommitResult.STALE_REGISTRY in results.values():
                registry = self._load_registry()
            overtaken = [no for no, result in results.items() if result is not CommitResult.WRITTEN]
            if not overtaken:
                return total
            pending = dict(self._sessions.read(account, overtaken))
        raise BridgeError(f"{len(pending)} sessions kept changing while they were polled")

    def _known_registry(self) -> Registry:
        """The registry, read anew every 10 s.

        Commits are fenced by its versions; but a change whose author died before the versions changed is seen only
        by reading it again.
        """
        if self._registry is None or self._clock.now_ms() - self._registry_ms > _REGISTRY_KEPT_MS:
            return self._load_registry()
        return self._registry

    def _load_registry(self) -> Registry:
        read_ms = self._clock.now_ms()
        registry = self._registry = self._registries.load()
        self._registry_ms = read_ms
        return registry

    def _ask(self, account: str, chosen: list[str], stored: Mapping[str, Stored]) -> tuple[Step, list[str]]:
        """Fetch and apply; a request that is refused is halved until the session at fault stands alone.

        Returns what was done and, where it ended in a failure, the sessions that were not answered for.
        """
        step = Step()
        groups = [chosen]
        while groups:
            group = groups.pop()
            try:
                answered = self._provider(account).fetch_receipts(group)
            except RequestError:
                half = len(group) // 2
                if half:
                    groups += [group[half:], group[:half]]
                else:
                    self._sessions.reschedule(account, {group[0]: self._clock.now_ms() + _REFUSED_PAUSE_MS})
                continue
            except ProviderError as failure:
                # What was answered for, or refused, stays as it is: only the others are to be asked again.
                unasked = [no for part in (group, *reversed(groups)) for no in part]
                return msgspec.structs.replace(step, failure=failure), unasked
            step = _add(step, self.apply(account, {no: stored[no] for no in group}, answered.by_session))
        return step, []

    def _put_off(self, account: str, unasked: Sequence[str], step: Step) -> Step:
        """Hand the sessions back as they were, and make no call for a while."""
        _, failures, _ = self._rate.paused(account)
        pause_ms = _ACCOUNT_PAUSE_MS
        if not isinstance(step.failure, AccountError):
            pause_ms = min(_LONGEST_PAUSE_MS, _FIRST_PAUSE_MS * 2 ** min(failures, 10))
            pause_ms = round(pause_ms * (0.5 + 0.5 * self._chance()))
        failures = self._rate.pause(account, str(step.failure), pause_ms)
        self._sessions.reschedule(account, dict.fromkeys(unasked, self._clock.now_ms()))
        return msgspec.structs.replace(step, wait_ms=pause_ms, failures=failures)

    def _share(self, counts: Sequence[int]) -> dict[int, int]:
        """How many to claim of each shard: full calls, from a random shard on, so that none is always served last."""
        start = int(self._chance() * len(counts))
        room = MAX_SESSIONS
        wanted: dict[int, int] = {}
        for i in range(len(counts)):
            shard = (start + i) % len(counts)
            share = min(room, counts[shard])
            if share:
                wanted[shard] = share
                room -= share
        return wanted

    def _decide(self, stored: Stored, receipts: Sequence[Receipt], now_ms: int) -> tuple[SessionState, Transition]:
        assert stored.state is not None  # noqa: S101 - callers leave absent sessions out
        return stored.state, transition(stored.state, receipts, now_ms, self._policy.give_up_ms)

    def _unerased(self, registry: Registry, state: SessionState, receipts: Sequence[Receipt]) -> Sequence[Receipt]:
        """The receipts without those of phones that were erased after the session was sent.

        Of what the session holds none was: only a phone that is new to it costs an HMAC.
        """
        if not registry.erased:
            return receipts
        known = {(phone.phone, phone.user_id) for phone in state.phones}
        return [
            one
            for one in receipts
            if (one.phone, one.user_id) in known or registry.erased.get(self._tombstone(one.phone), -1) < state.sent_ms
        ]

    def _write(
        self,
        session_no: str,
        stored: Stored,
        decided: tuple[SessionState, Transition],
        audience: _Audience,
        now_ms: int,
    ) -> Write:
        before, done = decided
        policy = self._policy
        due_ms = next_poll_ms(done.state, policy.ages_ms, policy.give_up_ms, now_ms, self._chance())
        return Write(
            session_no,
            stored.version,
            done.state,
            Due.NONE if due_ms is None else due_ms,
            done.state.settled_ms + policy.keep_settled_ms if done.state.settled_ms else None,
            _entries(session_no, before, done, audience, now_ms) if done.changes else (),
        )


def _entries(session_no: str, before: SessionState, done: Transition, audience: _Audience, now_ms: int) -> list[Entry]:
    entries = []
    for change in done.changes:
        lane = events.lane_id(session_no, change.phone)
        routes = [Route(name, lane) for name in audience(change.status)]
        entries.append(Entry(events.pack(events.record(session_no, before, change, now_ms)), routes))
    return entries


def _count(total: Step, decided: tuple[SessionState, Transition], write: Write) -> Step:
    _, done = decided
    if not (done.changes or done.regressed or done.conflicts):
        return total
    return msgspec.structs.replace(
        total,
        changed=total.changed + len(write.events),
        routed=total.routed + sum(len(entry.routes) for entry in write.events),
        regressed=total.regressed + done.regressed,
        conflicts=total.conflicts + done.conflicts,
    )


def _add(first: Step, second: Step) -> Step:
    return Step(
        polled=first.polled + second.polled,
        changed=first.changed + second.changed,
        routed=first.routed + second.routed,
        regressed=first.regressed + second.regressed,
        conflicts=first.conflicts + second.conflicts,
    )
