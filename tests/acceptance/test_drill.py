"""A receiver that is down while events wait for it, and then back, in real processes: the bench's drill, made small."""

from __future__ import annotations

from tests.bench import drill


def test_a_receiver_that_comes_back_hears_everything_in_order_and_nobody_else_waits_for_it() -> None:
    sizes = drill.Sizes(events=600, hours=0.3, within_s=90)
    result = drill.measure(sizes, handle_signals=False)
    seen = result.drained
    assert result.probes >= 10, "its breaker was open"
    assert (seen.phones, seen.requests) == (300, 600), "each of its phones heard both of its events"
    assert (seen.out_of_order, seen.repeated) == (0, 0)
    assert (result.waiting, result.dead) == (0, 0)
    assert result.rss <= 200_000_000
    assert result.beside["down"]["events"] > 0, "and all of the other's events arrived, or it had not ended"
