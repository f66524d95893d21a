from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.packing import MAX_SESSIONS, expected_phones, pack_call
from bridge.domain.receipts import Receipt
from bridge.domain.status import SessionState, track, transition
from bridge.domain.tracking import SessionRequest

NOW = 1_795_423_107_000
MOST_PHONES = 4_000_000 // 200  # 4 MB of receipts of 200 bytes


def sized(phones: int) -> SessionState:
    return track(None, SessionRequest("s", phone_count=phones), NOW)


def numbered(sizes: list[int]) -> list[tuple[str, SessionState]]:
    return [(f"s{place}", sized(size)) for place, size in enumerate(sizes)]


def test_an_answer_is_expected_to_hold_what_was_announced_or_seen_and_at_least_one() -> None:
    assert expected_phones(track(None, SessionRequest("s"), NOW)) == 1
    assert expected_phones(sized(7)) == 7
    listed = track(None, SessionRequest("s", phones=(("1", None), ("2", None)), phone_count=2), NOW)
    assert expected_phones(listed) == 2
    heard = [Receipt(str(phone), "", "Success", "", "", 1, 1) for phone in (1, 3, 4)]
    assert expected_phones(transition(listed, heard, NOW, 10**9).state) == 4


def test_a_call_takes_at_most_a_hundred_sessions_in_order() -> None:
    chosen, rest = pack_call(numbered([1] * 250))
    assert MAX_SESSIONS == 100
    assert chosen == [f"s{place}" for place in range(100)]
    assert rest == [f"s{place}" for place in range(100, 250)]


def test_a_call_holds_no_more_phones_than_keep_its_answer_under_four_megabytes() -> None:
    chosen, rest = pack_call(numbered([1000] * 30))
    assert len(chosen) == 20
    assert len(rest) == 10


def test_a_session_that_does_not_fit_is_handed_back_and_smaller_ones_behind_it_go() -> None:
    chosen, rest = pack_call(numbered([MOST_PHONES - 5, 10, 3, 2, 1]))
    assert chosen == ["s0", "s2", "s3"]
    assert rest == ["s1", "s4"]


def test_the_first_session_fits_however_large() -> None:
    assert pack_call(numbered([MOST_PHONES * 2, 1])) == (["s0"], ["s1"])


def test_nothing_to_pack_is_no_call() -> None:
    assert pack_call([]) == ([], [])


@given(st.lists(st.integers(1, 1000), max_size=300))
def test_every_session_is_chosen_or_handed_back_once_in_order(sizes: list[int]) -> None:
    sessions = numbered(sizes)
    chosen, rest = pack_call(sessions)
    names = [name for name, _ in sessions]
    assert sorted(chosen + rest, key=names.index) == names
    assert chosen == sorted(chosen, key=names.index)
    assert rest == sorted(rest, key=names.index)
    assert len(chosen) <= 100
    size_of = dict(zip(names, sizes, strict=True))
    used = sum(size_of[name] for name in chosen)
    assert used <= MOST_PHONES
    assert len(chosen) == 100 or all(size_of[name] > MOST_PHONES - used for name in rest)
    assert bool(chosen) is bool(sizes)
