"""What is outside: a provider whose words follow the figures that the schedule was made for, and receivers that fail.

Each keeps a record of what it said and heard, which knows nothing of the store.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec

from bridge.domain.outcome import Answer, Failure, Wish
from bridge.domain.receipts import Receipt, normalise_phone
from bridge.errors import AccountError, RequestError, TransientProviderError
from tests.simulation.store import Server

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000

PHONES = tuple(f"(86)1850000{number:04}" for number in range(12))

FINAL_BY = ((0.60, 10 * SECOND), (0.25, 30 * SECOND), (0.08, MINUTE), (0.03, 5 * MINUTE), (0.02, 20 * MINUTE))
"""60 % of phones have a final word within 10 s, another 25 % within 30 s, and so on; of 2 % see below."""
BY_SIX_HOURS = 0.01
"""And of as many there is never any."""

_OK, _BAD, _OPEN = "发送成功", "发送失败", "状态未知"


class Told(msgspec.Struct, frozen=True):
    """One word, from ``at_ms`` on, until the next."""

    at_ms: int
    receipt: Receipt


class Word(msgspec.Struct, frozen=True):
    """A word as it was given in an answer, at ``at_ms``."""

    at_ms: int
    receipt: Receipt


class Window(msgspec.Struct, frozen=True):
    """A time in which something is otherwise than well."""

    from_ms: int
    until_ms: int
    mood: str


def mood_at(windows: Sequence[Window], now_ms: int) -> str:
    """How it is now: "well", unless a window says otherwise."""
    return next((one.mood for one in windows if one.from_ms <= now_ms < one.until_ms), "well")


class Answered(msgspec.Struct, frozen=True):
    """A successful answer."""

    by_session: Mapping[str, Sequence[Receipt]]
    skipped: int = 0
    strangers: int = 0
    unseen_results: frozenset[str] = frozenset()


class Provider:
    """What it will say of each session, when, and what it did say."""

    def __init__(self, server: Server, chance: random.Random, windows: Sequence[Window]) -> None:
        self._server = server
        self._chance = chance
        self._windows = windows
        self._plans: dict[str, list[list[Told]]] = {}
        self._refused: dict[str, int] = {}
        self.said: dict[tuple[str, str], list[Word]] = defaultdict(list)
        self.asked: dict[str, list[int]] = defaultdict(list)
        self.in_vain: dict[str, int] = defaultdict(int)
        """How often each session was asked for after an answer that had a final word of all its phones."""
        self._told_all: set[str] = set()

    def send(self, session_no: str, phones: Sequence[str], sent_ms: int) -> None:
        """An SMS goes to these phones."""
        self._plans[session_no] = [self._plan(phone, sent_ms) for phone in phones]
        if self._chance.random() < 0.01:
            self._refused[session_no] = sent_ms + self._chance.randrange(6 * HOUR)

    def _plan(self, phone: str, sent_ms: int) -> list[Told]:
        chance = self._chance
        final_ms = self._final_age()
        told: list[Told] = []

        def say(age_ms: int, result: str, code: str = "") -> None:
            at_ms = sent_ms + age_ms
            told.append(Told(at_ms, Receipt(phone, "", result, code, "", at_ms // 1000, 1)))

        if chance.random() < 0.5:
            say(chance.randrange(final_ms or 10 * MINUTE), _OPEN)
        if final_ms is None:
            return told
        code = chance.choice(["DELIVRD", "DELIVRD", "DELIVRD", "UNDELIV", "EXPIRED"])
        say(final_ms, _OK if code == "DELIVRD" else _BAD, code)
        if chance.random() < 0.04:  # it takes it back, for a while: that changes nothing
            back = final_ms + chance.randrange(MINUTE, HOUR)
            say(back, _OPEN)
            told.append(msgspec.structs.replace(told[-2], at_ms=sent_ms + back + chance.randrange(SECOND, 2 * HOUR)))
        elif chance.random() < 0.03:  # it corrects itself
            say(
                final_ms + chance.randrange(5 * SECOND, 10 * HOUR),
                *((_BAD, "UNDELIV") if code == "DELIVRD" else (_OK, "")),
            )
        return told

    def _final_age(self) -> int | None:
        drawn, shortest = self._chance.random(), SECOND
        for part, age_ms in (*FINAL_BY, (BY_SIX_HOURS, 6 * HOUR)):
            if drawn < part:
                return self._chance.randrange(shortest, age_ms)
            drawn, shortest = drawn - part, age_ms
        return None

    def fetch_receipts(self, session_nos: Sequence[str]) -> Answered:
        """Answer for sessions, or do not."""
        now_ms = self._server.now_ms
        mood = mood_at(self._windows, now_ms)
        if mood == "down" or self._chance.random() < 0.003:
            raise TransientProviderError("HTTP 502")
        if mood == "busy" and self._chance.random() < 0.7:
            raise TransientProviderError("RetCode 153", 153, throttled=True)
        if mood == "refuses":
            raise AccountError("RetCode 171", 171)
        if any(self._refused.get(no, 0) > now_ms for no in session_nos):
            raise RequestError("RetCode 18001: SessionNo is wrong", 18001)
        return Answered({no: self._answer(no, now_ms) for no in session_nos})

    def _answer(self, session_no: str, now_ms: int) -> list[Receipt]:
        self.asked[session_no].append(now_ms)
        words = []
        for plan in self._plans[session_no]:
            heard = [one for one in plan if one.at_ms <= now_ms]
            if heard:
                words.append(heard[-1].receipt)
                key = session_no, normalise_phone(words[-1].phone)
                self.said[key].append(Word(now_ms, words[-1]))
        self.in_vain[session_no] += session_no in self._told_all
        if len(words) == len(self._plans[session_no]) and all(word.result in (_OK, _BAD) for word in words):
            self._told_all.add(session_no)
        self._chance.shuffle(words)
        return words


class Heard(msgspec.Struct):
    """A POST that reached a receiver: what it carried (id and bytes of each event), and whether it was accepted.

    ``is_heard``: the answer reached whoever asked. ``lost``: that one went, or was overtaken, before it was noted.
    """

    subscription: str
    at_ms: int
    events: list[tuple[str, bytes]]
    places: list[tuple[int, bytes]]
    accepted: bool
    is_heard: bool
    lost: bool = False


class Receivers:
    """How each receiver answers."""

    def __init__(self, server: Server, chance: random.Random, windows: Mapping[str, Sequence[Window]]) -> None:
        self._server = server
        self._chance = chance
        self._windows = windows

    def answer(self, name: str, timeout_ms: int) -> tuple[Answer, bool]:
        """What comes back of a POST that is sent now, after ``elapsed_ms``; and whether it was accepted there."""
        mood = mood_at(self._windows[name], self._server.now_ms)
        quick_ms = 5 + int(self._chance.random() * 200)
        if mood == "well" and self._chance.random() > 0.995:
            return self._odd(quick_ms, timeout_ms)
        if mood == "slow":
            return self._slow(int(self._chance.random() * 1.2 * timeout_ms), timeout_ms)
        if mood == "busy":
            after = str(self._chance.choice([1, 30, 600, 7_200]))
            return Answer(429, None, "", b"", quick_ms, retry_after=after), False
        answer = {
            "well": Answer(200, None, "", b"", quick_ms),
            "hangs": Answer(0, Failure.TIMEOUT, "no answer", b"", timeout_ms),
            "gone": Answer(410, None, "", b"", quick_ms),
            "down": Answer(0, Failure.CONNECT, "refused", b"", quick_ms),
        }[mood]
        return answer, mood == "well"

    def _slow(self, slow_ms: int, timeout_ms: int) -> tuple[Answer, bool]:
        """It is accepted there in any case; if too late, nobody hears of it."""
        if slow_ms >= timeout_ms:
            return Answer(0, Failure.TIMEOUT, "no answer", b"", timeout_ms), True
        return Answer(200, None, "", b"", slow_ms), True

    def _odd(self, quick_ms: int, timeout_ms: int) -> tuple[Answer, bool]:
        kind = self._chance.randrange(4)
        if kind == 0:
            return Answer(500, None, "", b"", quick_ms), False
        if kind == 1:
            return Answer(400, None, "", b"", quick_ms, wish=Wish.ABORT), False
        if kind == 2:
            return Answer(0, Failure.RESET, "reset", b"", quick_ms), True
        return Answer(200, None, "", b"", min(timeout_ms - 1, 40 * quick_ms)), True
