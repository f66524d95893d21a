"""How many calls, cores and bytes so many SMS a day take, from the constants that the other rows measured.

Nothing is measured here and nothing runs: arithmetic alone, so that the README's table can be held to it.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.bench.tables import Row

SMS_A_DAY = (10_000, 1_000_000, 50_000_000)


@dataclass(frozen=True, slots=True)
class Constant:
    """A measured figure; ``row`` is the line of tests/bench/results/history.md, or a part of one, that has it."""

    value: float
    row: str


POLLS = Constant(1.90, "Polls a settled session: 1.90 with `phone_count`")
POLLS_WITHOUT_COUNT = Constant(5.83, "5.83 without")
SESSIONS_A_CALL = Constant(100, "Sessions a call of a backlog: 100")
TRACK_US = Constant(27.1, "| CPU of tracking a session | ≤ 40 µs | 27.1 µs |")
TRACK_SERVER_US = Constant(21.3, "| µs to track one, server | 12.8 | 16.2 | 21.3 |")
RECEIPT_US = Constant(22.7, "| changed, 1 a session (≤ 60: holds) | 22.7 |")
POLL_SERVER_US = Constant(22.1, "| µs to poll one, server | 12.5 | 20.0 | 22.1 |")
EVENT_US = Constant(29.8, "| bridge | 24,615 | 29.8 |")
EVENT_SERVER_US = Constant(6.5, "6.5 µs of which")
WAITING_SESSION_B = Constant(246, "| bytes each, 16 polls noted (≤ 300: holds) | | | 246 |")
SETTLED_SESSION_B = Constant(261, "| session, settled | 256 | 261 |")
LOGGED_EVENT_B = Constant(213, "| log, with 86 bytes of metadata | 213 | 213 |")
QUEUED_B = Constant(106, "| queue (target ≤ 120: holds) | 104 | 106 |")
OUTCOME_B = Constant(18, "takes 15 to 18 bytes of it")
SERVER_B = Constant(598, "| server, all of it | 590 | 598 |")
CONSTANTS = tuple(value for value in dict(globals()).values() if isinstance(value, Constant))

# What is assumed, not measured. The shares are those that the row `calls` plays; the rest waits for minutes.
EVENTS_AN_SMS = 2  # `unknown`, then a final status
PEAK_HOUR = 0.1  # of a day's SMS
WAIT_DAYS = ((0.01, 3.0), (0.01, 0.25))  # the share without a final word until it is given up, and that after 6 h
KEEP_SETTLED_DAYS = 3  # BRIDGE_KEEP_SETTLED
KEEP_EVENTS_DAYS = 4  # BRIDGE_KEEP_EVENTS


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """What it takes. Rates and cores are those of the peak hour; ``cores`` of worker processes, sizes in bytes."""

    sms_a_day: float
    calls_a_second: float
    calls_without_count: float
    cores: float
    server_cores: float
    sessions_b: float
    log_b: float
    waiting_events: float
    queue_b: float
    memory_b: float


def need(sms_a_day: float) -> Need:
    """For one phone a session, ``phone_count`` given, one subscription, default times, and a receiver that was down
    for the whole peak hour (``waiting_events``, ``queue_b``).
    """
    second = sms_a_day * PEAK_HOUR / 3600
    events = sms_a_day * EVENTS_AN_SMS
    process_us = TRACK_US.value + POLLS.value * RECEIPT_US.value + EVENTS_AN_SMS * EVENT_US.value
    server_us = TRACK_SERVER_US.value + POLLS.value * POLL_SERVER_US.value + EVENTS_AN_SMS * EVENT_SERVER_US.value
    waiting = sms_a_day * sum(share * days for share, days in WAIT_DAYS)
    sessions_b = sms_a_day * KEEP_SETTLED_DAYS * SETTLED_SESSION_B.value + waiting * WAITING_SESSION_B.value
    log_b = events * KEEP_EVENTS_DAYS * LOGGED_EVENT_B.value
    queued = events * PEAK_HOUR
    # The server takes more than all keys together do.
    more = SERVER_B.value / (QUEUED_B.value + LOGGED_EVENT_B.value + SETTLED_SESSION_B.value)
    outcomes_b = events * KEEP_EVENTS_DAYS * OUTCOME_B.value
    return Need(
        sms_a_day=sms_a_day,
        calls_a_second=second * POLLS.value / SESSIONS_A_CALL.value,
        calls_without_count=second * POLLS_WITHOUT_COUNT.value / SESSIONS_A_CALL.value,
        cores=second * process_us / 1e6,
        server_cores=second * server_us / 1e6,
        sessions_b=sessions_b,
        log_b=log_b,
        waiting_events=queued,
        queue_b=queued * QUEUED_B.value,
        memory_b=more * (sessions_b + log_b + outcomes_b + queued * QUEUED_B.value),
    )


def table(needs: tuple[Need, ...]) -> list[Row]:
    """One column a size, as the README has it."""
    return [
        ("SMS a day", *(f"{one.sms_a_day:,.0f}" for one in needs)),
        ("SMS a second, in the peak hour", *(_two(one.sms_a_day * PEAK_HOUR / 3600) for one in needs)),
        ("provider calls a second that suffice", *(_two(one.calls_a_second) for one in needs)),
        ("the same, without `phone_count`", *(_two(one.calls_without_count) for one in needs)),
        ("cores for workers", *(_two(one.cores) for one in needs)),
        ("cores for the store", *(_two(one.server_cores) for one in needs)),
        ("memory: sessions", *(_size(one.sessions_b) for one in needs)),
        ("memory: the log of events", *(_size(one.log_b) for one in needs)),
        ("events that wait after a peak hour", *(_two(one.waiting_events) for one in needs)),
        ("memory: their queue", *(_size(one.queue_b) for one in needs)),
        ("memory of the store, all of it", *(_size(one.memory_b) for one in needs)),
    ]


def _two(value: float) -> str:
    """Two digits that count: more would claim what no figure here is good for."""
    if value < 0.01:
        return "< 0.01"
    return f"{float(f'{value:.2g}'):,.10g}"


def _size(size: float) -> str:
    return f"{_two(size / 1e9)} GB" if size >= 1e9 else f"{_two(size / 1e6)} MB"
