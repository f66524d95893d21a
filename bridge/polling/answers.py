"""Recording what an answer of the provider says of sessions, and what a failure was to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from bridge.domain import events
from bridge.domain.commits import Due, Entry, Route, Stored, Write
from bridge.domain.erasure import without_erased
from bridge.domain.policy import PollPolicy
from bridge.domain.polls import Outcome, noted
from bridge.domain.receipts import Receipt, normalise_phone
from bridge.domain.schedule import next_poll_ms, refused_poll_ms
from bridge.domain.session_events import completes, record_of_completed
from bridge.domain.status import SessionState, Transition, transition
from bridge.errors import AccountError, ProviderError, TransientProviderError
from bridge.polling.commits import Committer
from bridge.polling.ports import Registry


class Recorded(msgspec.Struct):
    """What was recorded: sessions answered for, events, deliveries queued; words of the provider's ignored."""

    polled: int = 0
    changed: int = 0
    routed: int = 0
    regressed: int = 0
    conflicts: int = 0


class Recorder:
    """Turns answers and failures into what is stored of sessions."""

    def __init__(
        self,
        *,
        committer: Committer,
        policy: PollPolicy,
        chance: Callable[[], float],
        tombstone: Callable[[str], bytes],
    ) -> None:
        self._committer = committer
        self._policy = policy
        self._chance = chance
        self._tombstone = tombstone

    def record(self, account: str, stored: Mapping[str, Stored], receipts: Mapping[str, Sequence[Receipt]]) -> Recorded:
        """Record a successful answer for sessions, of which ``stored`` is what was read before it.

        Raises:
            BridgeError: a session was written by others twenty times in a row.
        """
        total = Recorded(polled=len(receipts))
        decided: dict[str, Transition] = {}

        def decide(registry: Registry, pending: Mapping[str, Stored], now_ms: int) -> list[Write]:
            writes = []
            for session_no, one in pending.items():
                if one.state is None:
                    continue
                state, words = self._unerased(registry, one.state, receipts[session_no])
                done = decided[session_no] = transition(state, words, now_ms, self._policy.give_up_ms)
                writes.append(self._write(account, registry, session_no, (one, done)))
            return writes

        def written(write: Write) -> None:
            done = decided[write.session_no]
            if write.events or done.regressed or done.conflicts:
                total.changed += len(write.events)
                total.routed += sum([len(entry.routes) for entry in write.events])
                total.regressed += done.regressed
                total.conflicts += done.conflicts

        self._committer.commit(account, stored, decide, written)
        return total

    def refuse(self, account: str, stored: Mapping[str, Stored], why: str, *, suspected: bool = False) -> None:
        """Put sessions that the provider refuses into quarantine: seen, asked for alone and at a slow pace.

        ``suspected``: one of them is at fault at least; all are asked for alone, and their due times stay.
        """

        def decide(_registry: Registry, pending: Mapping[str, Stored], now_ms: int) -> list[Write]:
            writes = []
            for name, one in pending.items():
                if one.state is not None:
                    notes = noted(one.state.notes, one.state.tracked_ms, now_ms, Outcome.REFUSED)
                    after = msgspec.structs.replace(one.state, notes=notes, refused=why)
                    later_ms = refused_poll_ms(after, now_ms, self._chance())
                    writes.append(self._unchanged(name, one, after, Due.KEEP if suspected else later_ms))
            return writes

        self._committer.commit(account, stored, decide, lambda _write: None)

    def note_failure(self, account: str, stored: Mapping[str, Stored], failure: ProviderError) -> None:
        """Note with sessions that a call for them failed; their due times stay as they are."""
        outcome = _outcome_of(failure)

        def decide(_registry: Registry, pending: Mapping[str, Stored], now_ms: int) -> list[Write]:
            writes = []
            for name, one in pending.items():
                if one.state is not None:
                    notes = noted(one.state.notes, one.state.tracked_ms, now_ms, outcome)
                    after = msgspec.structs.replace(one.state, notes=notes)
                    writes.append(self._unchanged(name, one, after, Due.KEEP))
            return writes

        self._committer.commit(account, stored, decide, lambda _write: None)

    def _unchanged(self, session_no: str, stored: Stored, after: SessionState, due: int | Due) -> Write:
        """A write that keeps a session as settled as it was."""
        return Write(session_no, stored.version, after, due, Due.KEEP, leased=True)

    def _unerased(
        self, registry: Registry, state: SessionState, receipts: Sequence[Receipt]
    ) -> tuple[SessionState, Sequence[Receipt]]:
        """A session and its receipts without the phones that were erased after it was sent.

        Of what the session holds none was: only a phone that is new to it costs an HMAC.
        """
        if not registry.erased:
            return state, receipts
        known = {(phone.phone, phone.user_id) for phone in state.phones}
        kept, erased = [], set()
        for one in receipts:
            is_known = (one.phone, one.user_id) in known
            if is_known or registry.erased.get(self._tombstone(one.phone), -1) < state.sent_ms:
                kept.append(one)
            else:
                erased.add((normalise_phone(one.phone), one.user_id))
        return without_erased(state, erased) if erased else state, kept

    def _write(self, account: str, registry: Registry, session_no: str, decided: tuple[Stored, Transition]) -> Write:
        policy, (stored, done) = self._policy, decided
        after = done.state
        now_ms = after.polled_ms
        due_ms = next_poll_ms(after, policy.ages_ms, policy.give_up_ms, now_ms, self._chance())
        return Write(
            session_no,
            stored.version,
            after,
            Due.NONE if due_ms is None else due_ms,
            _expiry(stored, after, policy.keep_settled_ms),
            _entries(account, registry, session_no, decided) if done.changes or after.settled_ms else (),
            leased=True,
        )


def _expiry(stored: Stored, after: SessionState, keep_ms: int) -> int | Due | None:
    if after.settled_ms:
        return after.settled_ms + keep_ms
    # Of one that was open nothing need be taken out: a look-up less for each of most polls.
    return Due.KEEP if stored.state is not None and not stored.state.settled_ms else None


def _entries(account: str, registry: Registry, session_no: str, decided: tuple[Stored, Transition]) -> list[Entry]:
    stored, done = decided
    before = stored.state
    assert before is not None  # noqa: S101 - callers leave absent sessions out
    now_ms = done.state.polled_ms
    entries: list[Entry] = []
    for change in done.changes:
        lane = events.lane_id(session_no, change.phone)
        audience = registry.audience(account, before.callback, change.status)
        record = events.record(session_no, before, change, now_ms)
        entries.append(Entry(events.pack(record), [Route(name, lane) for name in audience]))
    if completes(before, done) and (audience := registry.asking_for(account, events.COMPLETED)):
        # A lane of its own: it is not ordered against those of the phones, only against its like.
        lane = events.lane_id(session_no, "")
        record = record_of_completed(account, session_no, done, before.polled_ms)
        entries.append(Entry(events.pack(record), [Route(name, lane) for name in audience]))
    return entries


def _outcome_of(failure: ProviderError) -> Outcome:
    if isinstance(failure, AccountError):
        return Outcome.ACCOUNT_REFUSED
    throttled = isinstance(failure, TransientProviderError) and failure.throttled
    return Outcome.THROTTLED if throttled else Outcome.FAILED
