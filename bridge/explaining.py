"""Everything that is known of a session, collected for the one verdict on it (``bridge.domain.explanation``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from bridge.accounts import account_names
from bridge.domain.accounts import DEFAULT_ACCOUNT
from bridge.domain.events import EVENT_TYPES, Record, event_id, readable, unpack
from bridge.domain.explanation import DeliveryFacts, EventFacts, Facts, Finding, Waiting, explain
from bridge.domain.receipts import Status, normalise_phone
from bridge.domain.status import PhoneState, SessionState
from bridge.domain.subscriptions import Subscription, SubscriptionState
from bridge.errors import NotFound
from bridge.store.keys import shard_of
from bridge.store.outcomes import Fate
from bridge.store.subscriptions import Registry
from bridge.store.tracking import Rejected
from bridge.wiring import Bridge

_BEFORE_TRACKING_MS = 60_000
"""Events of a session come after its tracking by the store's one clock; a failover may set that back a little."""


class Told(msgspec.Struct, frozen=True):
    """An event of the session with its record, and where it stands at each subscription."""

    record: Record
    facts: EventFacts


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """A session of an account: the verdict, the facts under it, and what else a person may want to see.

    ``state`` is None where it is not there (any more); ``machine`` is who tracked it, "" where that is not known;
    ``due_ms`` when it is polled next (Unix ms), None if it is not.
    """

    account: str
    session_no: str
    finding: Finding
    facts: Facts
    state: SessionState | None
    machine: str
    due_ms: int | None
    rejected: tuple[Rejected, ...]
    events: tuple[Told, ...]


def stories(
    bridge: Bridge, session_no: str, *, account: str | None, phone: str | None, subscription: str | None
) -> list[Story]:
    """The stories of a session in every account that knows of it; where none does, one that says so.

    ``phone`` and ``subscription`` narrow them to what concerns these.

    Raises:
        NotFound: there is no such subscription, or it is another account's than the one asked for.
    """
    registry = bridge.subscriptions.load()
    only = None if subscription is None else bridge.subscriptions.get(subscription)
    if only is not None and account not in (None, only.account):
        raise NotFound(f"no subscription {only.id} of the account {account}: see `bridge subscriptions list`")
    if only is not None:
        account = only.account
    names = account_names(bridge) if account is None else [account]
    told = [_Teller(bridge, registry, name, session_no, phone=phone, only=only).tell() for name in names]
    known = [one for one in told if one.facts.tracked or one.facts.damaged or one.events or one.facts.rejected]
    return known or [next((one for one in told if one.account == DEFAULT_ACCOUNT), told[0])]


class _Teller:
    """Collects one session's story in one account."""

    def __init__(
        self,
        bridge: Bridge,
        registry: Registry,
        account: str,
        session_no: str,
        *,
        phone: str | None,
        only: Subscription | None,
    ) -> None:
        self._bridge = bridge
        self._registry = registry
        self._account = account
        self._session_no = session_no
        self._digits = None if phone is None else normalise_phone(phone)
        self._only = only
        self._shard = shard_of(session_no, bridge.settings.shards)
        self._stored = bridge.sessions.read(account, [session_no])[session_no]
        self._state = self._stored.state

    def tell(self) -> Story:
        bridge, state = self._bridge, self._state
        rejected = tuple(self._rejected())
        events = tuple(self._events())
        facts = Facts(
            tracked=state is not None,
            damaged=self._stored.damaged,
            rejected=rejected[0].reason if rejected else "",
            stopped=self._stopped(),
            polled=bool(state and state.polled_ms),
            changed=any(one.status > Status.TRACKED for one in self._phones()),
            awaited=self._awaited(),
            refused=state.refused if state else "",
            erased_ms=self._erased_ms(seen=bool(events)),
            events=tuple(one.facts for one in events),
        )
        return Story(
            account=self._account,
            session_no=self._session_no,
            finding=explain(facts),
            facts=facts,
            state=state,
            machine=bridge.origins.name(state.origin) if state and state.origin else "",
            due_ms=bridge.sessions.due_ms(self._account, self._session_no),
            rejected=rejected,
            events=events,
        )

    def _phones(self) -> Iterator[PhoneState]:
        for one in self._state.phones if self._state else ():
            if self._digits in (None, normalise_phone(one.phone)):
                yield one

    def _awaited(self) -> bool:
        """Whether something that is asked about has no status yet."""
        state = self._state
        if state is None:
            return False
        if self._digits is not None:
            return not any(self._phones())
        return bool(state.awaiting) or len(state.phones) < (state.expected_count or 1)

    def _stopped(self) -> str:
        _, failures, reason = self._bridge.rate.paused(self._account)
        if failures:
            return reason
        # Before its first poll nobody has paused it yet. Of default this process may not have the keys that workers do.
        return "" if self._account == DEFAULT_ACCOUNT else self._bridge.providers.trouble(self._account)

    def _erased_ms(self, *, seen: bool) -> int | None:
        if self._digits is None or not self._registry.erased or seen or any(self._phones()):
            return None
        at_ms = self._registry.erased.get(self._bridge.tombstones.of(self._digits))
        if at_ms is not None and self._state is not None and at_ms < self._state.sent_ms:
            return None  # what was sent afterwards is told as usual
        return at_ms

    def _rejected(self) -> Iterator[Rejected]:
        for one in self._bridge.tracking.rejected(self._account):
            if one.names(self._session_no):
                yield one

    def _events(self) -> Iterator[Told]:
        records = self._records()
        if not records:
            return
        hearers = [one for one in self._registry.of(self._account) if self._only is None or one.id == self._only.id]
        now_ms = self._bridge.clock.now_ms()
        fates = {one.id: self._bridge.outcomes.fates(one.id, self._shard, records, now_ms) for one in hearers}
        errors = {one.id: self._last_errors(one.id, fates[one.id]) for one in hearers}
        dropped = {one.id: self._dropped(one.id) for one in hearers}
        for position, packed in sorted(records.items()):
            record = unpack(packed)
            event = event_id(self._account, record)
            deliveries = [
                _delivery(one, record, fates[one.id][position], self._callback(), errors[one.id].get(event, ""))
                for one in hearers
                if self._concerns(one, fates[one.id][position])
            ]
            facts = EventFacts(
                id=event,
                line=EVENT_TYPES[record.type] if record.type else normalise_phone(record.phone),
                sequence=record.sequence,
                at_ms=int.from_bytes(position[:8]),
                deliveries=tuple(msgspec.structs.replace(one, dropped=dropped[one.subscription]) for one in deliveries),
            )
            yield Told(record, facts)

    def _callback(self) -> str:
        return self._state.callback if self._state else ""

    def _concerns(self, one: Subscription, fate: Fate) -> bool:
        """One that stands for another session's URL has nothing to do with this one, unless it is asked about."""
        known = fate.waits or fate.dead or fate.told
        return not one.implicit or bool(known) or one.id == self._callback() or self._only is not None

    def _records(self) -> dict[bytes, bytes]:
        """The session's events by position: of the log, and what queues and dead letters hold beyond it."""
        since_ms = max(0, self._state.tracked_ms - _BEFORE_TRACKING_MS) if self._state else 0
        walk = self._bridge.log.of_session(self._account, self._session_no, since_ms)
        found = {one.position: one.record for one in walk}
        for one in self._registry.of(self._account):
            kept = self._bridge.queues.all_kept(one.id, self._shard)
            found |= {place: record for place, record in kept.items() if self._is_its(record)}
            for letter in self._bridge.queues.dead_letters(one.id, self._shard):
                if letter.record and self._is_its(letter.record):
                    found[letter.position] = letter.record
        if self._digits is None:
            return found
        return {at: one for at, one in found.items() if normalise_phone(unpack(one).phone) == self._digits}

    def _is_its(self, record: bytes) -> bool:
        event = readable(record) if self._session_no.encode() in record else None
        return event is not None and event.session_no == self._session_no

    def _last_errors(self, subscription: str, fates: Mapping[bytes, Fate]) -> dict[str, str]:
        """Each event's last failed attempt, where some wait for another."""
        if not any(fate.waits and fate.waits.attempts for fate in fates.values()):
            return {}
        found: dict[str, str] = {}
        for one in self._bridge.attempts.newest(subscription):
            found.setdefault(one.event, one.error)
        return found

    def _dropped(self, subscription: str) -> int:
        (tally,) = self._bridge.queues.tallies([subscription]).values()
        return self._bridge.queues.dropped(subscription) + tally.dead_dropped


def _delivery(one: Subscription, record: Record, fate: Fate, callback: str, last_error: str) -> DeliveryFacts:
    waits, dead = fate.waits, fate.dead
    return DeliveryFacts(
        subscription=one.id,
        subscribed_ms=one.created_ms,
        told_ms=fate.told[-1].at_ms if fate.told else None,
        died_ms=dead.died_ms if dead else None,
        died_of=dead.error if dead else "",
        waiting=Waiting(waits.attempts, waits.due_ms, waits.behind) if waits else None,
        parked_for=_parked_for(one),
        unwanted=_unwanted(one, record, callback),
        last_error=last_error,
    )


def _parked_for(one: Subscription) -> str:
    if one.is_active:
        return ""
    resume = f"`bridge subscriptions resume {one.id}`"
    if one.state is SubscriptionState.DISABLED:
        return f"disabled: {one.reason}; {resume}"
    return f"paused by an operator; {resume}"


def _unwanted(one: Subscription, record: Record, callback: str) -> str:
    """Why a subscription, as it is, does not hear of an event; "" if it does."""
    if one.implicit:
        return "" if one.id == callback else "it hears only of sessions that name its URL"
    kind = EVENT_TYPES[record.type]
    if not one.hears(kind):
        return f"it hears only of {', '.join(one.types)}"
    if not record.type and not one.wants(Status(record.status)):
        return f"it hears only of {', '.join(one.statuses)}"
    return ""
