"""The rows of polling: what is measured for each, and its tables."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable

from tests.bench import calls, growth, polling
from tests.bench.tables import Row, goal, shown, text_of


def _polling(options: Namespace) -> tuple[object, str]:
    result = polling.measure(polling.Sizes(calls=options.calls, rounds=options.rounds))
    return result, polling_text(result)


def _calls(_options: Namespace) -> tuple[object, str]:
    result = calls.measure(calls.Sizes())
    return result, calls_text(result)


def _growth(options: Namespace) -> tuple[object, str]:
    result = growth.measure(growth.Sizes(waiting=tuple(options.tracked), messages=options.calls, rounds=options.rounds))
    return result, growth_text(result)


POLL_ROWS: dict[str, Callable[[Namespace], tuple[object, str]]] = {
    "polling": _polling,
    "calls": _calls,
    "growth": _growth,
}


_PARTS = ("process", "server")


def polling_text(result: polling.Polling) -> str:
    table: list[Row] = [("µs of CPU a receipt", "µs")]
    table += [(name, f"{micros:,.2f}") for name, micros in result.micros.items()]
    goals = [
        ("target", "wanted", "measured", ""),
        goal("unchanged receipts, 10 a session", "≤ 3 µs", result.micros["unchanged, 10 a session"], "µs", high=3),
        goal("changed, an event, 10 a session", "≤ 25 µs", result.micros["changed, 10 a session"], "µs", high=25),
        goal("changed, an event, 1 a session", "≤ 60 µs", result.micros["changed, 1 a session"], "µs", high=60),
        goal("sessions a call, of a backlog", "≥ 95", result.sessions_a_call, "", low=95),
    ]
    return text_of("polling", result.about, table, goals)


def calls_text(result: calls.Calls) -> str:
    table: list[Row] = [("sent through one account", "calls", "sessions a call", "polls a session")]
    for name, one in (("each when it is due", result.apart), ("with those due soon", result.along)):
        figures = (f"{one[key]:,.2f}" for key in ("sessions a call", "polls a session"))
        table.append((name, f"{one['calls']:,.0f}", *figures))
    goals = [
        ("target", "wanted", "measured", ""),
        goal("polls a session, with phone_count", "≤ 2", result.with_count, "", high=2),
        goal("polls a session, without", "≤ 7", result.without, "", high=7),
    ]
    return text_of("calls", result.about, table, goals)


def growth_text(result: growth.Growth) -> str:
    sizes = list(result.by_size)
    table: list[Row] = [("by sessions that wait", *(f"{size:,}" for size in sizes))]
    table += [
        (name, *(f"{one[name]:,.1f}" if name in one else "" for one in result.by_size.values()))
        for name in result.by_size[sizes[-1]]
    ]
    goals: list[Row] = [("target", "wanted", "measured", "")]
    first, last = result.by_size[sizes[0]], result.by_size[sizes[-1]]
    for what, bare in (("track", "new"), ("poll", "new"), ("poll one that waits", "waiting")):
        own = last[f"{what}, process"] / first[f"{what}, process"]
        both = sum(last[f"{what}, {part}"] for part in _PARTS) / sum(first[f"{what}, {part}"] for part in _PARTS)
        of_bare = last[f"bare, {bare}, server"] / first[f"bare, {bare}, server"]
        of_ours = last[f"{what}, server"] / first[f"{what}, server"]
        goals.append(goal(f"CPU to {what}, the process's, last of first", "≤ 1.2 ×", own, "×", high=1.2))
        goals.append(goal(f"CPU to {what}, with the server's", "≤ 1.2 ×", both, "×", high=1.2))
        goals.append(
            shown(f"the server's, of plain commands' ({of_ours:.3g} of {of_bare:.3g} ×)", of_ours / of_bare, "×")
        )
    most = result.by_size[sizes[-1]]["bytes, 16 polls noted"]
    goals.append(goal("a waiting session, all keys", "≤ 300 B", most, "B", high=300))
    return text_of("growth", result.about, table, goals)
