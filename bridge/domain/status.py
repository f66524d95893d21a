"""How a session's phones change: ``transition(state, receipts, now)`` and what completes a session.

::

    tracked    → unknown | delivered | undelivered | expired | failed | no_receipt
    unknown    → delivered | undelivered | expired | failed | no_receipt
    no_receipt → delivered | undelivered | expired | failed        late
    a provider's final → another one, if its ReceiptTime increased   corrected

Everything else the provider may say changes nothing and is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from bridge.domain.receipts import Receipt, Status, classify, normalise_phone
from bridge.domain.tracking import SessionRequest

LONGEST_AGE_MS = 15 * 24 * 3600 * 1000
"""``sent_at`` is clamped to this age: the provider's console shows receipts for 15 days."""

OPEN_SESSION_AGES_MS = (20 * 60_000, 3 * 3600_000, 12 * 3600_000, 24 * 3600_000)
"""When a session without an expectation is asked again, after every phone seen so far is final."""


class PhoneState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is known of one phone of a session.

    ``phone`` is as the provider echoed it (or as the sender gave it, where only our deadline spoke);
    ``receipt_time`` is Unix seconds of the receipt that set ``status``; ``changed_ms`` is when we saw it.
    ``expected`` marks a phone that the sender listed.
    """

    phone: str
    user_id: str
    status: int
    sequence: int
    receipt_time: int
    changed_ms: int
    expected: bool


class SessionState(msgspec.Struct, frozen=True, array_like=True):
    """All that is known of a session. Times are Unix milliseconds, 0 for "not yet".

    ``awaiting`` holds the listed (phone, user id or None) that no receipt has matched yet; ``expected_count`` is
    None without an expectation; ``metadata`` is the sender's JSON object as compact text, "" for none.
    """

    sent_ms: int
    tracked_ms: int
    polled_ms: int = 0
    settled_ms: int = 0
    expected_count: int | None = None
    awaiting: tuple[tuple[str, str | None], ...] = ()
    phones: tuple[PhoneState, ...] = ()
    metadata: str = ""


class Change(msgspec.Struct, frozen=True, gc=False):
    """One phone's step from ``previous`` to ``status``. ``receipt`` is None where our own deadline spoke."""

    phone: str
    user_id: str
    status: Status
    previous: Status
    sequence: int
    corrected: bool
    late: bool
    receipt: Receipt | None


class Transition(msgspec.Struct, frozen=True):
    """What an answer did. ``regressed`` and ``conflicts`` count words of the provider's that change nothing."""

    state: SessionState
    changes: tuple[Change, ...]
    regressed: int = 0
    conflicts: int = 0


def transition(state: SessionState, receipts: Iterable[Receipt], now_ms: int, give_up_ms: int) -> Transition:
    """Apply a successful answer of the provider to a session.

    ``receipts`` are all that the answer holds for this session, in any order; one key's latest word counts.
    ``give_up_ms`` is the age (since sending) from which phones without a final word become ``no_receipt``.
    """
    known = {(phone.phone, phone.user_id): phone.status for phone in state.phones}
    news = [
        receipt
        for receipt in receipts
        if known.get((receipt.phone, receipt.user_id)) != classify(receipt.result, receipt.code)
    ]
    past_deadline = now_ms - state.sent_ms >= give_up_ms
    if not news and not past_deadline:
        return Transition(_polled(state, now_ms, settled=is_complete(state, now_ms)), ())
    draft = _Draft(state, now_ms)
    for receipt in _latest_words(news):
        draft.hear(receipt)
    if past_deadline:
        draft.give_up()
    after = draft.state()
    settled = past_deadline or is_complete(after, now_ms)
    return Transition(_polled(after, now_ms, settled=settled), tuple(draft.changes), draft.regressed, draft.conflicts)


def is_complete(state: SessionState, now_ms: int) -> bool:
    """Whether every expected phone is final or, without an expectation, all seen are and the last look was made."""
    if state.awaiting:
        return False
    listed = [phone for phone in state.phones if phone.expected]
    if listed:
        return all(Status(phone.status).is_final for phone in listed)
    if state.expected_count is not None:
        return sum(Status(phone.status).is_final for phone in state.phones) >= state.expected_count
    # Polls are spread by ±10 %: the last look may have been that much early.
    return is_quiet(state) and now_ms - state.sent_ms >= 0.9 * OPEN_SESSION_AGES_MS[-1]


def is_quiet(state: SessionState) -> bool:
    """Whether a session without an expectation has only final phones, and at least one."""
    if state.expected_count is not None or not state.phones:
        return False
    return all(Status(phone.status).is_final for phone in state.phones)


def track(state: SessionState | None, request: SessionRequest, now_ms: int) -> SessionState:
    """What tracking makes of a session: a new one, or the known one merged with the later call's words.

    The later call's expectation and metadata count where given, the earlier ``sent_at`` does. A settled session
    reopens only if the new expectation names phones that it has not heard of.
    """
    sent_ms = now_ms if request.sent_at_ms is None else request.sent_at_ms
    sent_ms = min(now_ms, max(sent_ms, now_ms - LONGEST_AGE_MS))
    if state is None:
        state = SessionState(sent_ms=sent_ms, tracked_ms=now_ms)
    elif request.sent_at_ms is not None:
        state = msgspec.structs.replace(state, sent_ms=min(sent_ms, state.sent_ms))
    if request.metadata_json:
        state = msgspec.structs.replace(state, metadata=request.metadata_json)
    if request.phones is not None:
        state = _expect(state, request.phones)
    elif request.phone_count is not None:
        state = msgspec.structs.replace(
            state,
            expected_count=request.phone_count,
            awaiting=(),
            phones=tuple(msgspec.structs.replace(phone, expected=False) for phone in state.phones),
        )
    if state.settled_ms and not is_complete(state, now_ms) and not is_quiet(state):
        state = msgspec.structs.replace(state, settled_ms=0)
    return state


def _polled(state: SessionState, now_ms: int, *, settled: bool) -> SessionState:
    settled_ms = (state.settled_ms or now_ms) if settled else 0
    return SessionState(
        state.sent_ms,
        state.tracked_ms,
        now_ms,
        settled_ms,
        state.expected_count,
        state.awaiting,
        state.phones,
        state.metadata,
    )


def _latest_words(receipts: Sequence[Receipt]) -> list[Receipt]:
    """One receipt per (phone, user id), whatever the order they came in: a final word, then the latest one."""
    if len(receipts) == 1:
        return list(receipts)
    best: dict[tuple[str, str], tuple[tuple[bool, int, int, str, str, str], Receipt]] = {}
    for receipt in receipts:
        key = (normalise_phone(receipt.phone), receipt.user_id)
        status = classify(receipt.result, receipt.code)
        rank = (
            status.is_final,
            receipt.time,
            int(status),
            receipt.phone,
            receipt.code,
            receipt.description,
        )
        if key not in best or rank > best[key][0]:
            best[key] = (rank, receipt)
    return [receipt for _, receipt in best.values()]


def _take_expectation(awaiting: list[tuple[str, str | None]], phone: str, user_id: str) -> bool:
    """Remove from ``awaiting`` what this phone meets: its own user id first, else an entry that names none."""
    digits = normalise_phone(phone)
    for wanted in (user_id, None):
        for place, (listed, listed_user) in enumerate(awaiting):
            if listed_user == wanted and normalise_phone(listed) == digits:
                del awaiting[place]
                return True
    return False


def _expect(state: SessionState, listed: tuple[tuple[str, str | None], ...]) -> SessionState:
    awaiting = list(listed)
    phones = tuple(
        msgspec.structs.replace(phone, expected=_take_expectation(awaiting, phone.phone, phone.user_id))
        for phone in state.phones
    )
    return msgspec.structs.replace(state, expected_count=len(listed), awaiting=tuple(awaiting), phones=phones)


class _Draft:
    """A session while an answer is applied to it."""

    def __init__(self, state: SessionState, now_ms: int) -> None:
        self._before = state
        self._now_ms = now_ms
        self._awaiting = list(state.awaiting)
        self._phones = {(normalise_phone(phone.phone), phone.user_id): phone for phone in state.phones}
        self.changes: list[Change] = []
        self.regressed = 0
        self.conflicts = 0

    def hear(self, receipt: Receipt) -> None:
        status = classify(receipt.result, receipt.code)
        known = self._phones.get((normalise_phone(receipt.phone), receipt.user_id))
        previous = Status.TRACKED if known is None else Status(known.status)
        if status == previous:
            return
        if previous.is_final and not status.is_final:
            self.regressed += 1
            return
        corrected = previous.is_provider_final
        if corrected and known is not None and receipt.time <= known.receipt_time:
            self.conflicts += 1
            return
        self._change(
            receipt.phone,
            receipt.user_id,
            status,
            previous,
            receipt=receipt,
            corrected=corrected,
            late=previous is Status.NO_RECEIPT,
        )

    def give_up(self) -> None:
        for phone in list(self._phones.values()):
            if not Status(phone.status).is_final:
                self._change(phone.phone, phone.user_id, Status.NO_RECEIPT, Status(phone.status))
        for listed, user_id in list(self._awaiting):
            if (normalise_phone(listed), user_id or "") not in self._phones:
                self._change(listed, user_id or "", Status.NO_RECEIPT, Status.TRACKED)
        self._awaiting = []

    def state(self) -> SessionState:
        return msgspec.structs.replace(
            self._before, awaiting=tuple(self._awaiting), phones=tuple(self._phones.values())
        )

    def _change(
        self,
        phone: str,
        user_id: str,
        status: Status,
        previous: Status,
        *,
        receipt: Receipt | None = None,
        corrected: bool = False,
        late: bool = False,
    ) -> None:
        digits = normalise_phone(phone)
        # Counted over the phone's user ids together: a receiver orders by phone, and does not know ours.
        sequence = 1 + max((p.sequence for (d, _), p in self._phones.items() if d == digits), default=0)
        known = self._phones.get((digits, user_id))
        expected = known.expected if known else _take_expectation(self._awaiting, phone, user_id)
        self._phones[digits, user_id] = PhoneState(
            phone=phone,
            user_id=user_id,
            status=int(status),
            sequence=sequence,
            receipt_time=receipt.time if receipt else 0,
            changed_ms=self._now_ms,
            expected=expected,
        )
        self.changes.append(Change(phone, user_id, status, previous, sequence, corrected, late, receipt))
