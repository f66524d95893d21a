"""What is due, who wakes whom, how fast an account is called, and what time it is."""

from __future__ import annotations

import pytest

from bridge.domain.rate import Slowed
from bridge.store import keys
from bridge.store.index import Clock, Standing
from tests.parts import SUB, Parts, entry, until


def test_what_is_due_is_found_over_all_shards_and_nothing_else(parts: Parts) -> None:
    for number in range(12):
        parts.write(f"s{number}", entry(f"s{number}", to=(SUB, "sub_b") if number % 2 else (SUB,)), due=1)
    parts.write("later", due=parts.now_ms() + 3_600_000, account="other")

    due = parts.index.due(parts.now_ms())

    assert due.accounts == {"default"}
    odd = {parts.shard(f"s{number}") for number in range(1, 12, 2)}
    every = {parts.shard(f"s{number}") for number in range(12)}
    assert sorted(due.queues) == sorted([("sub_b", shard) for shard in odd] + [(SUB, shard) for shard in every])
    assert parts.index.due(0).queues == ()


def test_no_more_is_read_of_a_shard_than_asked_for_the_longest_due_first(parts: Parts) -> None:
    for number in range(6):
        parts.redis.zadd(keys.index(0), {f"q:sub_{number}": number})
    assert parts.index.due(100, 3).queues == (("sub_0", 0), ("sub_1", 0), ("sub_2", 0))


def test_a_tick_is_remembered_for_a_while(parts: Parts) -> None:
    assert parts.index.last_tick_ms() is None
    parts.index.note_tick(77)
    assert parts.index.last_tick_ms() == 77
    assert 0 < int(str(parts.redis.pttl(keys.BEAT))) <= 10_000


def test_of_many_one_wakes(parts: Parts) -> None:
    assert [parts.wakes.take("deliver", 60_000) for _ in range(5)] == [True] + [False] * 4
    assert parts.wakes.take("poll:default", 60_000)
    parts.wakes.drop("deliver")
    assert parts.wakes.take("deliver", 60_000)


def test_whoever_serves_keeps_others_asleep_until_it_ends(parts: Parts) -> None:
    parts.wakes.keep("deliver", 60_000)
    assert not parts.wakes.take("deliver", 60_000)
    parts.wakes.drop("deliver")
    parts.wakes.drop("deliver")
    assert parts.wakes.take("deliver", 60_000)


def test_a_wake_up_that_came_to_nothing_is_forgotten_by_itself(parts: Parts) -> None:
    assert parts.wakes.take("deliver", 50)
    until(lambda: parts.wakes.take("deliver", 60_000))


def test_an_accounts_calls_come_from_one_bucket(parts: Parts) -> None:
    assert [parts.rate.take("default", 5) for _ in range(5)] == [0] * 5, "a second's worth may be used at once"
    wait_ms = parts.rate.take("default", 5)
    assert 0 < wait_ms <= 200
    assert parts.rate.take("other", 5) == 0
    until(lambda: parts.rate.take("default", 5) == 0)


def test_a_rate_below_one_a_second_makes_one_call_and_waits(parts: Parts) -> None:
    assert parts.rate.take("default", 0.01) == 0
    assert 90_000 < parts.rate.take("default", 0.01) <= 100_000


def test_a_bucket_survives_a_server_whose_clock_was_set_back(parts: Parts) -> None:
    parts.redis.hset(keys.rate("default"), mapping={"tokens": "0.5", "at": parts.now_ms() + 3_600_000})
    parts.redis.pexpire(keys.rate("default"), 60_000)
    assert 0 < parts.rate.take("default", 1) <= 500
    until(lambda: parts.rate.take("default", 100) == 0)


def test_failures_count_until_a_success(parts: Parts) -> None:
    assert parts.rate.standing("default") == Standing()
    before_ms = parts.now_ms()
    assert parts.rate.pause("default", "timed out", 20) == (1, False)
    until(lambda: parts.rate.standing("default").pause_ms == 0)
    assert parts.rate.pause("default", "timed out again", 60_000) == (2, False)
    one = parts.rate.standing("default")
    assert 0 < one.pause_ms <= 60_000
    assert (one.failures, one.reason, one.refused) == (2, "timed out again", False)
    assert before_ms <= one.since_ms <= parts.now_ms()
    assert parts.rate.paused("default")[1:] == (2, "timed out again")
    assert parts.rate.standing("other") == Standing()
    parts.rate.resume("default")
    assert parts.rate.standing("default") == Standing()
    assert parts.rate.paused("default") == (0, 0, "")


def test_calls_that_fail_together_are_one_failure(parts: Parts) -> None:
    """Sixteen under way when the provider goes down: the pause is that of one failure, not of sixteen."""
    told = [parts.rate.pause("default", "down", 60_000) for _ in range(16)]
    assert told == [(1, False)] * 16


def test_that_the_account_is_refused_is_first_said_once_an_outage(parts: Parts) -> None:
    parts.rate.pause("default", "timed out", 60_000)
    assert parts.rate.pause("default", "RetCode 171", 60_000, refused=True) == (2, True)
    assert parts.rate.pause("default", "RetCode 171", 60_000, refused=True) == (2, False)
    assert parts.rate.standing("default").refused
    assert parts.rate.standing("default").reason == "RetCode 171"
    parts.rate.resume("default")
    assert parts.rate.pause("default", "RetCode 171", 60_000, refused=True) == (1, True)


def test_what_an_account_was_slowed_to_is_kept(parts: Parts) -> None:
    parts.rate.take("default", 5)
    parts.rate.slow("default", Slowed(0.1 + 0.2, 77))
    assert parts.rate.standing("default").slowed == Slowed(0.1 + 0.2, 77)
    parts.rate.resume("default")
    assert parts.rate.standing("default").slowed == Slowed(0.1 + 0.2, 77), "that is not forgotten by a success"


def test_a_pause_that_is_over_still_counts(parts: Parts) -> None:
    parts.rate.pause("default", "timed out", 30)
    until(lambda: parts.rate.paused("default")[0] == 0)
    assert parts.rate.paused("default") == (0, 1, "timed out")


def test_the_time_is_the_servers(parts: Parts) -> None:
    before = parts.now_ms()
    assert before <= Clock(parts.client).now_ms() <= parts.now_ms()


def test_the_clock_goes_on_by_itself_and_asks_now_and_then(parts: Parts) -> None:
    ticked = [1_000.0]
    clock = Clock(parts.client, lambda: ticked[0])
    first = clock.now_ms()
    trips = parts.client.round_trips
    ticked[0] += 9.5
    assert clock.now_ms() == first + 9_500
    assert parts.client.round_trips == trips
    clock.note(first + 20_000)
    ticked[0] += 0.25
    assert clock.now_ms() == first + 20_250


def test_a_time_that_was_long_on_its_way_sets_no_clock_back(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault: while a master was replaced a reply was heard seconds after it had been given. From then on events were
    said to have been observed before the provider had said anything of them.
    """
    ticked = [1_000.0]
    clock = Clock(parts.client, lambda: ticked[0])
    now_ms = clock.now_ms()
    clock.note(now_ms - 2_400)
    assert clock.now_ms() == now_ms

    answers: list[tuple[float, int]] = []

    def late(_asked: object) -> list[object]:
        took_s, says_ms = answers.pop(0)
        ticked[0] += took_s
        return [[str(says_ms // 1_000).encode(), str(says_ms % 1_000 * 1_000).encode()]]

    monkeypatch.setattr(parts.client, "commands", late)
    ticked[0] += 11
    answers.append((2.5, now_ms + 11_100))  # given at once, and 2.4 s on its way
    assert clock.now_ms() == now_ms + 13_500
    ticked[0] += 11
    answers.append((0.1, now_ms + 20_000))  # the server's clock was set back by more than that took
    assert clock.now_ms() == now_ms + 20_000


@pytest.mark.parametrize("off_ms", [-3_600_000, 3_600_000])
def test_a_clock_that_is_off_is_set_right_without_a_claim(parts: Parts, off_ms: int) -> None:
    """Fault: after a laptop slept, or the server's clock was set, nothing was polled or sent for that long.

    Only claims set the clock; one that is behind sees nothing due, so it claims nothing. It now asks each 10 s.
    """
    ticked = [1_000.0]
    clock = Clock(parts.client, lambda: ticked[0])
    clock.note(parts.now_ms() + off_ms)
    ticked[0] += 11
    assert abs(clock.now_ms() - parts.now_ms()) < 1_000
