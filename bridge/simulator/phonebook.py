"""What was sent, what has become of it, and what the asker was told of it."""

from __future__ import annotations

import random
import string
from collections.abc import Iterable, Sequence

import msgspec

from bridge.simulator.scenario import Echo, digits_of
from bridge.simulator.timeline import NEVER, Moments, Timeline, begin, current, restart

_SESSION_NO_LETTERS = string.ascii_letters + string.digits
_SESSION_NO_LENGTH = 12


class SimReceipt(msgspec.Struct, frozen=True, gc=False):
    """One phone's receipt, with the names and in the order of the provider's example."""

    CostCount: int
    Phone: str
    ReceiptCode: str
    ReceiptDesc: str
    ReceiptResult: str
    ReceiptTime: int
    UserId: str


class Part(msgspec.Struct, frozen=True):
    """One session in an answer: its receipts, and those as JSON (kept, because most answers repeat the last one)."""

    session_no: str
    receipts: tuple[SimReceipt, ...]
    encoded: bytes

    @classmethod
    def of(cls, session_no: str, receipts: tuple[SimReceipt, ...]) -> Part:
        return cls(session_no, receipts, msgspec.json.encode({"ReceiptSet": receipts, "SessionNo": session_no}))


class Word(msgspec.Struct, frozen=True, gc=False):
    """What a phone was said to be. ``time`` is its ReceiptTime, Unix seconds."""

    result: str
    code: str
    time: int


class Told(msgspec.Struct, frozen=True):
    """All that an asker heard of one phone, in order, repetitions left out."""

    session_no: str
    phone: str
    user_id: str
    told: list[Word]


class Target(msgspec.Struct, frozen=True):
    """One SMS to be sent. ``segments`` counts what is billed."""

    phone: str
    user_id: str
    segments: int


class _Phone:
    __slots__ = ("moments", "target")

    def __init__(self, target: Target, moments: Moments) -> None:
        self.target = target
        self.moments = moments


class _Session:
    __slots__ = ("fresh_until", "heard", "owner", "part", "phones", "told")

    def __init__(self, session_no: str, owner: str, phones: list[_Phone]) -> None:
        self.owner = owner
        self.phones = phones
        self.part = Part.of(session_no, ())
        self.fresh_until = 0.0
        self.told: dict[tuple[str, str], list[Word]] = {}
        self.heard: tuple[SimReceipt, ...] = ()


class Phonebook:
    """Sessions by SessionNo, the oldest forgotten beyond ``limit``. Times are Unix seconds."""

    def __init__(self, *, limit: int, echo: Echo, rng: random.Random) -> None:
        self._limit = limit
        self._echo = echo
        self._rng = rng
        self._sessions: dict[str, _Session] = {}
        # Which sessions a phone is in, so that setting one does not search them all.
        self._by_digits: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def send(self, owner: str, targets: Sequence[tuple[Target, Timeline]], *, now: float, time_scale: float) -> str:
        """Begin every target's timeline; the SessionNo."""
        begun: dict[int, Moments] = {}
        phones = []
        for target, timeline in targets:
            moments = begun.get(id(timeline))
            if moments is None:
                moments = begun[id(timeline)] = begin(timeline, now, time_scale)
            phones.append(_Phone(target, moments))
        session_no = self._new_session_no()
        self._sessions[session_no] = _Session(session_no, owner, phones)
        for digits in {digits_of(target.phone) for target, _ in targets}:
            self._by_digits.setdefault(digits, []).append(session_no)
        self._trim()
        return session_no

    def set_echo(self, echo: Echo) -> None:
        """How phones come back from now on."""
        self._echo = echo
        for session in self._sessions.values():
            session.fresh_until = 0.0

    def set_limit(self, limit: int) -> None:
        """How many sessions are kept from now on."""
        self._limit = limit
        self._trim()

    def look_up(self, owner: str, session_no: str, *, now: float) -> Part | None:
        """What the provider has of a session now; None if it was never sent, or by someone else."""
        session = self._sessions.get(session_no)
        if session is None or session.owner != owner:
            return None
        if now >= session.fresh_until:
            receipts, session.fresh_until = _receipts(session.phones, now, self._echo)
            if receipts != session.part.receipts:
                session.part = Part.of(session_no, receipts)
        return session.part

    def set_timeline(
        self,
        phone: str,
        timeline: Timeline,
        *,
        session_no: str | None,
        user_id: str | None,
        now: float,
        time_scale: float,
    ) -> int:
        """Let a phone follow another timeline from now on, in one session or in all; how many SMS that changed."""
        digits = digits_of(phone)
        changed = 0
        for number in [session_no] if session_no is not None else self._by_digits.get(digits, []):
            session = self._sessions.get(number)
            if session is None:
                continue
            for entry in session.phones:
                if digits_of(entry.target.phone) == digits and user_id in (None, entry.target.user_id):
                    entry.moments = restart(entry.moments, timeline, now, time_scale)
                    changed += 1
            session.fresh_until = 0.0
        return changed

    def note_told(self, session_no: str, receipts: tuple[SimReceipt, ...]) -> None:
        """Keep what an answer that was sent whole said of a session."""
        session = self._sessions.get(session_no)
        if session is None or session.heard is receipts:
            return
        session.heard = receipts
        for receipt in receipts:
            words = session.told.setdefault((receipt.Phone, receipt.UserId), [])
            word = Word(receipt.ReceiptResult, receipt.ReceiptCode, receipt.ReceiptTime)
            if not words or words[-1] != word:
                words.append(word)

    def all_told(self) -> list[Told]:
        return [
            Told(session_no, phone, user_id, list(words))
            for session_no, session in self._sessions.items()
            for (phone, user_id), words in session.told.items()
        ]

    def _new_session_no(self) -> str:
        while True:
            session_no = "".join(self._rng.choices(_SESSION_NO_LETTERS, k=_SESSION_NO_LENGTH))
            if session_no not in self._sessions:
                return session_no

    def _trim(self) -> None:
        while len(self._sessions) > self._limit:
            self._forget(next(iter(self._sessions)))

    def _forget(self, session_no: str) -> None:
        session = self._sessions.pop(session_no)
        for digits in {digits_of(entry.target.phone) for entry in session.phones}:
            sessions = self._by_digits[digits]
            sessions.remove(session_no)
            if not sessions:
                del self._by_digits[digits]


def _receipts(phones: Iterable[_Phone], now: float, echo: Echo) -> tuple[tuple[SimReceipt, ...], float]:
    """The receipts that exist now, and until when that stays so."""
    receipts = []
    fresh_until = NEVER
    for entry in phones:
        moment, next_at = current(entry.moments, now)
        fresh_until = min(fresh_until, next_at)
        if moment is None:
            continue
        at, step = moment
        target = entry.target
        receipts.append(
            SimReceipt(
                CostCount=target.segments,
                Phone=_bare(target.phone) if echo == "bare" else target.phone,
                ReceiptCode=step.code,
                ReceiptDesc=step.description,
                ReceiptResult=step.result,
                ReceiptTime=int(at),
                UserId=target.user_id,
            )
        )
    return tuple(receipts), fresh_until


def _bare(phone: str) -> str:
    """Without China's country code; a foreign number keeps its own, or it would be another phone."""
    for code in ("(86)", "(0086)"):
        if phone.startswith(code):
            return phone.removeprefix(code)
    return phone
