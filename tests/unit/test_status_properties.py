"""Random lives of sessions, against the rules themselves and against a second, slow telling of the contract."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.receipts import Receipt
from bridge.domain.status import SessionState, Transition, track, transition
from bridge.domain.tracking import SessionRequest
from tests.examples import examples

START = 1_795_423_107_000
GIVE_UP = 1_000
FINALS = {"delivered", "undelivered", "expired", "failed"}
ARROWS = (
    {("tracked", "unknown")}
    | {(old, new) for old in ("tracked", "unknown", "no_receipt", *FINALS) for new in FINALS if old != new}
    | {("tracked", "no_receipt"), ("unknown", "no_receipt")}
)

# (ReceiptResult, ReceiptCode) → status, in this test's own words.
WORDS = {
    ("发送成功", "DELIVRD"): "delivered",
    ("Success", ""): "delivered",
    ("发送失败", "UNDELIV"): "undelivered",
    ("Fail", "MSBLACK"): "undelivered",
    ("Fail", "EXPIRED:001"): "expired",
    ("SubmitFail", ""): "failed",
    ("Unknow", ""): "unknown",
    ("a value of tomorrow", "EXPIRED"): "unknown",
}
STRENGTH = ["unknown", "delivered", "undelivered", "expired", "failed"]
PHONES = {
    "18500000000": "8618500000000",
    "(86)18500000000": "8618500000000",
    "(0086)18500000000": "8618500000000",
    "(60)1234567": "601234567",
    "00601234567": "601234567",
    "QbPtKJPa": "QbPtKJPa",
}

Key = tuple[str, str]
Step = tuple[Key, str, str, int, bool, bool]

receipts = st.builds(
    lambda phone, user_id, word, time, segments: Receipt(phone, user_id, word[0], word[1], "", time, segments),
    st.sampled_from(sorted(PHONES)),
    st.sampled_from(["", "a", "b"]),
    st.sampled_from(sorted(WORDS)),
    st.integers(0, 4),
    st.integers(1, 2),
)
answers = st.lists(receipts, max_size=6)
counts = st.none() | st.integers(1, 4)
listings = st.lists(
    st.tuples(st.sampled_from(sorted(PHONES)), st.sampled_from([None, "a", "c"])), min_size=1, max_size=4
)
trackings = st.one_of(
    counts.map(lambda count: SessionRequest("s", phone_count=count)),
    listings.map(lambda phones: SessionRequest("s", phones=tuple(phones), phone_count=len(phones))),
)
waits = st.sampled_from([0, 1, 150, 400, GIVE_UP - 1, GIVE_UP])


def status_of(receipt: Receipt) -> str:
    return WORDS[receipt.result, receipt.code]


def apply(state: SessionState, heard: Sequence[Receipt], now_ms: int) -> Transition:
    return transition(state, heard, now_ms, GIVE_UP)


@dataclass
class Told:
    """What a subscriber who believes every event knows of a session; each event must follow from the last."""

    status: dict[Key, str] = field(default_factory=dict)
    time: dict[Key, int] = field(default_factory=dict)
    sequence: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def hear(self, done: Transition, age: int) -> None:
        for change in done.changes:
            phone = PHONES[change.phone]
            key = (phone, change.user_id)
            old, new = change.previous.text, change.status.text
            assert (old, new) in ARROWS
            if key not in self.status and old == "no_receipt":
                # The late receipt of a phone that was listed, and given up, without a user id.
                assert self.status.pop((phone, "")) == "no_receipt"
            else:
                assert old == self.status.get(key, "tracked")
            self.sequence[phone] += 1
            assert change.sequence == self.sequence[phone]
            assert change.late is (old == "no_receipt")
            assert change.corrected is (old in FINALS)
            time = change.receipt.time if change.receipt else 0
            assert not change.corrected or time > self.time[key]
            if new == "no_receipt":
                assert change.receipt is None
                assert age >= GIVE_UP
            else:
                assert change.receipt is not None
                assert status_of(change.receipt) == new
                assert (PHONES[change.receipt.phone], change.receipt.user_id) == key
            self.status[key], self.time[key] = new, time

    def agrees_with(self, state: SessionState) -> None:
        kept = {(PHONES[phone.phone], phone.user_id): STATUSES[phone.status] for phone in state.phones}
        assert kept == self.status
        assert len(kept) == len(state.phones)


STATUSES = ["tracked", "unknown", "delivered", "undelivered", "expired", "failed", "no_receipt"]


@examples(300)
@given(trackings, st.lists(st.tuples(waits, answers | trackings), min_size=1, max_size=6))
def test_whatever_the_provider_says_in_any_order_each_event_follows_from_the_last(
    first: SessionRequest, life: list[tuple[int, list[Receipt] | SessionRequest]]
) -> None:
    now_ms = START
    expectation = first
    state = track(None, first, now_ms)
    told = Told()
    for wait, step in life:
        now_ms += wait
        if isinstance(step, SessionRequest):
            state = track(state, step, now_ms)
            expectation = expectation if step.phone_count is None else step
            told.agrees_with(state)
            continue
        done = apply(state, step, now_ms)
        told.hear(done, now_ms - START)
        told.agrees_with(done.state)
        check_settling(done.state, expectation, now_ms)
        check_repetition(done.state, step, now_ms)
        check_order(state, step, now_ms, done)
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(done.state), type=SessionState)
        assert state == done.state


def check_settling(state: SessionState, expectation: SessionRequest, now_ms: int) -> None:
    """Settled at the deadline, and before it exactly when what was expected is final."""
    assert state.polled_ms == now_ms
    finals = [phone for phone in state.phones if STATUSES[phone.status] not in {"tracked", "unknown"}]
    if now_ms - START >= GIVE_UP:
        assert finals == list(state.phones)
        assert state.settled_ms
        complete = True
    elif expectation.phones is not None:
        complete = not state.awaiting and all(phone in finals for phone in state.phones if phone.expected)
    else:
        complete = len(finals) >= (expectation.phone_count or 99)
    assert bool(state.settled_ms) is complete
    assert state.settled_ms <= now_ms
    check_listing(state, expectation)


def check_listing(state: SessionState, expectation: SessionRequest) -> None:
    """Every listing is met by a phone of its own or awaited; none is awaited while a phone could meet it."""
    listed = Counter(PHONES[phone] for phone, _ in expectation.phones or ())
    known = Counter(PHONES[phone.phone] for phone in state.phones)
    met = Counter(PHONES[phone.phone] for phone in state.phones if phone.expected)
    awaited = Counter(PHONES[phone] for phone, _ in state.awaiting)
    assert met == listed & known
    assert awaited == listed - met


def check_repetition(state: SessionState, heard: list[Receipt], now_ms: int) -> None:
    again = apply(state, heard, now_ms)
    assert again.changes == ()
    assert msgspec.structs.replace(again.state, notes=state.notes) == state, "but for the poll itself"


def check_order(before: SessionState, heard: list[Receipt], now_ms: int, done: Transition) -> None:
    assert apply(before, heard[::-1], now_ms) == done
    assert apply(before, sorted(heard, key=repr), now_ms) == done
    assert apply(before, heard + heard, now_ms) == done


@dataclass
class Model:
    """What the contract says of a session without a listing, phone by phone: no shortcuts, no speed."""

    status: dict[Key, str] = field(default_factory=dict)
    time: dict[Key, int] = field(default_factory=dict)
    sequence: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def answer(self, heard: list[Receipt], age: int) -> tuple[list[Step], int, int]:
        """The steps, and how many words were regressions and conflicts."""
        steps: list[Step] = []
        regressed = conflicts = 0
        for key, status, time in latest_words(heard):
            old = self.status.get(key, "tracked")
            if status == old:
                continue
            if status == "unknown" and old != "tracked":
                regressed += 1
            elif old in FINALS and time <= self.time[key]:
                conflicts += 1
            else:
                steps.append(self._step(key, status, time))
        if age >= GIVE_UP:
            steps += [self._step(key, "no_receipt", 0) for key, status in self.status.items() if status == "unknown"]
        return steps, regressed, conflicts

    def _step(self, key: Key, status: str, time: int) -> Step:
        old = self.status.get(key, "tracked")
        self.status[key], self.time[key] = status, time
        self.sequence[key[0]] += 1
        return key, old, status, self.sequence[key[0]], old in FINALS, old == "no_receipt"


def latest_words(heard: list[Receipt]) -> list[tuple[Key, str, int]]:
    """Of each key, a final word before an unknown one, then the latest; finals before others, then by time."""
    by_key: dict[Key, list[tuple[bool, int, int]]] = defaultdict(list)
    for one in heard:
        status = status_of(one)
        by_key[PHONES[one.phone], one.user_id].append((status in FINALS, one.time, STRENGTH.index(status)))
    words = [(key, *max(ranks)) for key, ranks in by_key.items()]
    words.sort(key=lambda word: (not word[1], word[2], word[0]))
    return [(key, STRENGTH[strength], time) for key, _, time, strength in words]


@examples(300)
@given(counts, st.lists(st.tuples(waits, answers), min_size=1, max_size=6))
def test_a_session_lives_as_the_contract_tells_it(count: int | None, life: list[tuple[int, list[Receipt]]]) -> None:
    now_ms = START
    state = track(None, SessionRequest("s", phone_count=count), now_ms)
    model = Model()
    for wait, heard in life:
        now_ms += wait
        done = apply(state, heard, now_ms)
        state = done.state
        steps = [
            (
                (PHONES[change.phone], change.user_id),
                change.previous.text,
                change.status.text,
                change.sequence,
                change.corrected,
                change.late,
            )
            for change in done.changes
        ]
        assert (steps, done.regressed, done.conflicts) == model.answer(heard, now_ms - START)
