"""What is noted of a session's polls."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.polls import KEPT, Outcome, PollNote, noted, read_notes

TRACKED = 1_795_423_107_123
polls = st.lists(st.tuples(st.integers(0, 24 * 86_400_000), st.sampled_from(Outcome)), max_size=40)


@given(polls)
def test_the_last_sixteen_polls_are_told_to_the_second(made: list[tuple[int, Outcome]]) -> None:
    notes = b""
    for after_ms, outcome in made:
        notes = noted(notes, TRACKED, TRACKED + after_ms, outcome)
    assert len(notes) <= 48
    assert read_notes(notes, TRACKED) == [
        PollNote(TRACKED + after_ms // 1000 * 1000, outcome.text) for after_ms, outcome in made[-KEPT:]
    ]


def test_a_poll_far_away_is_noted_as_far_as_notes_reach() -> None:
    early = noted(b"", TRACKED, TRACKED - 5_000, Outcome.SAME)
    assert read_notes(early, TRACKED) == [PollNote(TRACKED, "nothing new")]
    late = noted(b"", TRACKED, TRACKED + 100 * 86_400_000, Outcome.SAME)
    assert read_notes(late, TRACKED)[0].at_ms == TRACKED + ((1 << 21) - 1) * 1000


def test_a_result_of_a_newer_release_is_told_as_unknown() -> None:
    assert read_notes(b"\x00\x00\x0f", TRACKED) == [PollNote(TRACKED + 1000, "unknown")]
