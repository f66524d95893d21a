"""How a session's phones change: ``transition(state, receipts, now)`` and what completes a session.

::

    tracked    → unknown | delivered | undelivered | expired | failed | no_receipt
    unknown    → delivered | undelivered | expired | failed | no_receipt
    no_receipt → delivered | undelivered | expired | failed        late
    a provider's final → another one, if its ReceiptTime increased   corrected

Everything else the provider may say changes nothing and is counted. No decision depends on the order within an
answer, and the same answer applied again changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from bridge.domain.polls import Outcome, PollNote, noted, read_notes
from bridge.domain.receipts import Receipt, Status, classify, normalise_phone
from bridge.domain.tracking import SessionRequest

LONGEST_AGE_MS = 15 * 24 * 3600 * 1000
"""``sent_at`` is clamped to this age: the provider's console shows receipts for 15 days."""

OPEN_SESSION_AGES_MS = (20 * 60_000, 3 * 3600_000, 12 * 3600_000, 24 * 3600_000)
"""When a session without an expectation is asked again, after every phone seen so far is final."""

_FIRST_FINAL = int(Status.DELIVERED)

Key = tuple[str, str]
"""What tells one receipt of a session from another: the normalised phone and the user id."""

Word = tuple[Status, Receipt]

Expectation = tuple[str, str | None]
"""A phone as the sender listed it, and its user id where one was given."""


_Number = Annotated[int, Meta(ge=0, le=int(max(Status)))]
_Millis = Annotated[int, Meta(ge=0, le=253_402_300_799_999)]  # the end of the year 9999


class PhoneState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is known of one phone of a session.

    ``phone`` is as the provider echoed it (or as the sender gave it, where only our deadline spoke);
    ``receipt_time`` is Unix seconds of the receipt that set ``status``; ``changed_ms`` is when we saw it.
    ``expected`` marks a phone that the sender listed; ``segments`` counts the billed SMS of that receipt.
    """

    phone: str
    user_id: str
    status: _Number
    sequence: int
    receipt_time: int
    changed_ms: int
    expected: bool
    segments: int = 0


class SessionState(msgspec.Struct, frozen=True, array_like=True):
    """All that is known of a session. Times are Unix milliseconds, 0 for "not yet". Bounds are held when it is read.

    ``awaiting`` holds the listed (phone, user id or None) that no receipt has matched yet; ``expected_count`` is
    None without an expectation; ``metadata`` is the sender's JSON object as compact text, "" for none;
    ``callback`` is the id of the subscription that the session's own URL implies, "" for none. ``notes`` are its last
    polls (``bridge.domain.polls``); ``overdue`` that it was told of as overdue; ``refused`` why the provider refuses
    to be asked for it, "" while it does not. ``origin`` is the number of the machine that tracked it first, 0 where
    that is not known: a name would cost each session ten times as much. ``erased_count`` is of how many erased phones
    it is known that they were its own, without being listed: ``expected_count`` is without them.
    """

    sent_ms: _Millis
    tracked_ms: _Millis
    polled_ms: _Millis = 0
    settled_ms: _Millis = 0
    expected_count: int | None = None
    awaiting: tuple[Expectation, ...] = ()
    phones: tuple[PhoneState, ...] = ()
    metadata: str = ""
    callback: str = ""
    notes: bytes = b""
    overdue: bool = False
    refused: str = ""
    origin: int = 0
    erased_count: int = 0

    @property
    def is_listed(self) -> bool:
        """Whether phones themselves are expected, and not a number of them."""
        return bool(self.awaiting) or any(phone.expected for phone in self.phones)

    @property
    def polls(self) -> list[PollNote]:
        """The last polls, the oldest first."""
        return read_notes(self.notes, self.tracked_ms)


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
    receipts = list(receipts)
    known = {(phone.phone, phone.user_id): phone.status for phone in state.phones}
    # Most answers say what is known already, in the spelling that is known: those are told apart without more ado.
    news = [True for word in receipts if known.get((word.phone, word.user_id)) != classify(word.result, word.code)]
    past_deadline = now_ms - state.sent_ms >= give_up_ms
    if not news and not past_deadline:
        outcome = Outcome.SAME if receipts else Outcome.EMPTY
        return Transition(_polled(state, now_ms, outcome, settled=is_complete(state, now_ms)), ())
    draft = _Draft(state, now_ms)
    # Not of the news alone: a key may have a known and a new word in one answer, and the known one be the later.
    for key, (status, receipt) in _latest_words(receipts):
        draft.hear(key, status, receipt)
    draft.match()
    if past_deadline:
        draft.give_up()
    after = draft.state()
    settled = past_deadline or is_complete(after, now_ms)
    outcome = Outcome.CHANGED if draft.changes else Outcome.SAME if receipts else Outcome.EMPTY
    after = _polled(after, now_ms, outcome, settled=settled)
    return Transition(after, tuple(draft.changes), draft.regressed, draft.conflicts)


def is_complete(state: SessionState, now_ms: int) -> bool:
    """Whether every expected phone is final or, without an expectation, all seen are and the last look was made."""
    if state.awaiting:
        return False
    listed = [phone.status for phone in state.phones if phone.expected]
    if listed:
        return min(listed) >= _FIRST_FINAL
    if state.expected_count is not None:
        return _finals(state) >= state.expected_count
    # Polls are spread by ±10 %: the last look may have been that much early.
    return is_quiet(state) and now_ms - state.sent_ms >= 0.9 * OPEN_SESSION_AGES_MS[-1]


def is_quiet(state: SessionState) -> bool:
    """Whether a session without an expectation has only final phones, and at least one, be it erased."""
    was_heard_of = bool(state.phones or state.erased_count)
    return state.expected_count is None and was_heard_of and len(state.phones) == _finals(state)


def track(state: SessionState | None, request: SessionRequest, now_ms: int, callback: str = "") -> SessionState:
    """What tracking makes of a session: a new one, or the known one merged with the later call's words.

    The later call's expectation, metadata and ``callback`` (the id that its URL implies) count where given, the
    earlier ``sent_at`` does. A settled session
    reopens only if the later call expects phones that it did not settle for.
    """
    sent_ms = now_ms if request.sent_at_ms is None else request.sent_at_ms
    sent_ms = min(now_ms, max(sent_ms, now_ms - LONGEST_AGE_MS))
    if state is None:
        state = SessionState(sent_ms=sent_ms, tracked_ms=now_ms)
    elif request.sent_at_ms is not None:
        state = msgspec.structs.replace(state, sent_ms=min(sent_ms, state.sent_ms))
    if request.metadata_json:
        state = msgspec.structs.replace(state, metadata=request.metadata_json)
    if callback:
        state = msgspec.structs.replace(state, callback=callback)
    if request.phones is not None:
        after = _expect(state, request.phones)
    elif request.phone_count is not None:
        phones = tuple(msgspec.structs.replace(phone, expected=False) for phone in state.phones)
        after = msgspec.structs.replace(
            state, expected_count=request.phone_count, awaiting=(), phones=phones, erased_count=0
        )
    else:
        return state
    if state.settled_ms and _expects_more(state, after):
        return msgspec.structs.replace(after, settled_ms=0)
    return after


def _expects_more(settled: SessionState, after: SessionState) -> bool:
    """Whether a new expectation asks for phones beyond those that a session settled for."""
    listed = [phone.status for phone in after.phones if phone.expected]
    if after.awaiting or listed:
        # By the deadline a session settles with expectations unmet: to repeat them asks for nothing new.
        unmet = Counter(after.awaiting) - Counter(settled.awaiting)
        return bool(unmet) or min(listed, default=_FIRST_FINAL) < _FIRST_FINAL
    return (after.expected_count or 0) > max(settled.expected_count or 0, _finals(settled))


def _expect(state: SessionState, listed: Sequence[Expectation]) -> SessionState:
    awaiting, met = _match(listed, [(normalise_phone(phone.phone), phone.user_id) for phone in state.phones])
    phones = tuple(
        msgspec.structs.replace(phone, expected=(normalise_phone(phone.phone), phone.user_id) in met)
        for phone in state.phones
    )
    return msgspec.structs.replace(state, expected_count=len(listed), awaiting=tuple(awaiting), phones=phones)


def _match(awaiting: Sequence[Expectation], heard: Sequence[Key]) -> tuple[list[Expectation], set[Key]]:
    """Which expectations are left once those that ``heard`` meets are taken, and which of ``heard`` meet one.

    A multiset: each phone heard meets one listing of it. Its own user id comes first, then a listing without one,
    then any: carriers shorten user ids, and a session must not wait three days for a spelling.
    """
    by_key: dict[Key, list[int]] = {}
    for place, (listed, wanted) in enumerate(awaiting):
        by_key.setdefault((normalise_phone(listed), wanted or ""), []).append(place)
    met = {key for key in heard if key in by_key}
    taken = {by_key[key].pop(0) for key in met}
    by_phone: dict[str, list[int]] = {}
    for key, places in sorted(by_key.items(), key=lambda item: item[0][1] != ""):
        by_phone.setdefault(key[0], []).extend(places)
    for key in heard:
        if key not in met and by_phone.get(key[0]):
            taken.add(by_phone[key[0]].pop(0))
            met.add(key)
    return [one for place, one in enumerate(awaiting) if place not in taken], met


def _finals(state: SessionState) -> int:
    return len([True for phone in state.phones if phone.status >= _FIRST_FINAL])


def _polled(state: SessionState, now_ms: int, outcome: Outcome, *, settled: bool) -> SessionState:
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
        state.callback,
        noted(state.notes, state.tracked_ms, now_ms, outcome),
        state.overdue,
        "",
        state.origin,
        state.erased_count,
    )


def _latest_words(receipts: Sequence[Receipt]) -> list[tuple[Key, Word]]:
    """One word per key, in an order that is not the answer's: of a key, a final one, then the latest.

    Finals come first, then the earlier: so which user id of a phone gets which sequence, and which receipt meets an
    expectation, is the same however the provider sorts.
    """
    words: dict[Key, Word] = {}
    for receipt in receipts:
        key = (normalise_phone(receipt.phone), receipt.user_id)
        word = (classify(receipt.result, receipt.code), receipt)
        other = words.get(key)
        if other is None or _rank(word) > _rank(other):
            words[key] = word
    return sorted(words.items(), key=lambda item: (item[1][0] < _FIRST_FINAL, item[1][1].time, item[0]))


def _rank(word: Word) -> tuple[bool, int, int, tuple[object, ...]]:
    status, receipt = word
    return status >= _FIRST_FINAL, receipt.time, int(status), msgspec.structs.astuple(receipt)


class _Draft:
    """A session while an answer is applied to it."""

    def __init__(self, state: SessionState, now_ms: int) -> None:
        self._before = state
        self._now_ms = now_ms
        self._awaiting: Sequence[Expectation] = state.awaiting
        self._phones: dict[Key, PhoneState] = {}
        # Counted over a phone's user ids together: a receiver orders by phone, and does not know ours.
        self._sequences: dict[str, int] = {}
        self._unmatched: list[Key] = []
        self.changes: list[Change] = []
        self.regressed = 0
        self.conflicts = 0
        for phone in state.phones:
            digits = normalise_phone(phone.phone)
            self._phones[digits, phone.user_id] = phone
            self._sequences[digits] = max(phone.sequence, self._sequences.get(digits, 0))

    def hear(self, key: Key, status: Status, receipt: Receipt) -> None:
        known = self._phones.get(key) or self._given_up(key[0])
        previous = Status.TRACKED if known is None else Status(known.status)
        if status is previous:
            return
        if previous >= _FIRST_FINAL and status < _FIRST_FINAL:
            self.regressed += 1
            return
        corrected = previous.is_provider_final
        if corrected and known is not None and receipt.time <= known.receipt_time:
            self.conflicts += 1
            return
        if known is None:
            self._unmatched.append(key)
        elif known.user_id != key[1]:
            del self._phones[key[0], known.user_id]
        expected = known is not None and known.expected
        self._change(key, receipt.phone, status, previous, receipt, expected=expected, corrected=corrected)

    def match(self) -> None:
        """Let the phones first heard of in this answer meet expectations."""
        if self._awaiting and self._unmatched:
            self._awaiting, met = _match(self._awaiting, self._unmatched)
            for key in met:
                self._phones[key] = msgspec.structs.replace(self._phones[key], expected=True)

    def give_up(self) -> None:
        for key, phone in list(self._phones.items()):
            if phone.status < _FIRST_FINAL:
                status = Status(phone.status)
                self._change(key, phone.phone, Status.NO_RECEIPT, status, None, expected=phone.expected)
        left = []
        for listed, user_id in self._awaiting:
            key = (normalise_phone(listed), user_id or "")
            if key in self._phones:
                # Listed twice, heard of once: there is no second key to speak of.
                left.append((listed, user_id))
            else:
                self._change(key, listed, Status.NO_RECEIPT, Status.TRACKED, None, expected=True)
        self._awaiting = left

    def state(self) -> SessionState:
        return msgspec.structs.replace(
            self._before, awaiting=tuple(self._awaiting), phones=tuple(self._phones.values())
        )

    def _given_up(self, digits: str) -> PhoneState | None:
        """The phone given up on as it was listed, without a user id: its late receipt may come with one."""
        phone = self._phones.get((digits, ""))
        return phone if phone is not None and phone.expected and phone.status == Status.NO_RECEIPT else None

    def _change(
        self,
        key: Key,
        phone: str,
        status: Status,
        previous: Status,
        receipt: Receipt | None,
        *,
        expected: bool,
        corrected: bool = False,
    ) -> None:
        digits, user_id = key
        sequence = self._sequences[digits] = self._sequences.get(digits, 0) + 1
        time = receipt.time if receipt else 0
        segments = receipt.segments if receipt else 0
        self._phones[key] = PhoneState(phone, user_id, int(status), sequence, time, self._now_ms, expected, segments)
        late = previous is Status.NO_RECEIPT
        self.changes.append(Change(phone, user_id, status, previous, sequence, corrected, late, receipt))
