"""The charts that are made of a run."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from tests.bench import growth, idle, minutely
from tests.bench.figures import Goal, Measured, median
from tests.bench.record import Run
from tests.bench.svg import Bar, Chart, Kind, draw


def charts(run: Run) -> dict[str, str]:
    """SVG by file name: of each row that the run has."""
    drawn = {name: draw(make(run.rows[row])) for name, (row, make) in _OF_ROWS.items() if row in run.rows}
    return drawn | ({"targets.svg": draw(targets(run))} if any(goal.share for goal in run.goals) else {})


def targets(run: Run) -> Chart:
    """How much of each target is met."""
    bars = [
        Bar(label=goal.what, value=100 * goal.share, kind=_kind(goal)) for goal in run.goals if goal.share is not None
    ]
    zero = [goal for goal in run.goals if goal.wanted == 0]
    busy = "; on a BUSY machine" if run.was_busy else ""
    rest = (
        f"; {sum(bool(goal.holds) for goal in zero)} of {len(zero)} targets of zero hold, and have no share"
        if zero
        else ""
    )
    return Chart(
        title=run.verdict + busy,
        caption=f"share of each that is met: 100 % just so, 200 % twice as good as wanted{rest}",
        unit="%",
        bars=tuple(sorted(bars, key=lambda bar: -(bar.value or 0))),
        log=True,
        line=100,
    )


def _kind(goal: Goal) -> Kind:
    return "ours" if goal.holds else "missed"


def _cpu(row: Measured) -> Chart:
    whose: dict[str, Kind] = {name: "ours" if name == "bridge" else "other" for name in row.figures}
    cpu = {name: median(found["CPU µs/event"]) for name, found in row.figures.items()}
    return Chart(
        title="CPU of a delivered event",
        caption="the sending processes' own, µs; " + row.about["body"] + ", to " + row.about["receiver"],
        unit="µs",
        bars=tuple(
            Bar(label=name, value=micros, kind=whose[name])
            for name, micros in sorted(cpu.items(), key=lambda one: one[1])
        ),
        log=True,
    )


def _latency(row: Measured) -> Chart:
    half = row.figures["half load"]
    goals = {goal.what.rpartition(", ")[2]: goal for goal in row.goals}
    bars = [
        Bar(label=name, value=median(half[f"{name} ms"]), mark=goal.wanted, kind=_kind(goal))
        for name, goal in goals.items()
    ]
    return Chart(
        title="From the provider's answer to the callback",
        caption=f"ms at half load, {median(half['sessions/s']):,.0f} sessions a second",
        unit="ms",
        bars=tuple(bars),
    )


def _growth(row: Measured) -> Chart:
    bars: list[Bar] = []
    known = next(iter(row.figures.values()))
    for what in (one for one in growth.WORKS if growth.cpu_of(one, "process") in known):  # an older run has fewer
        bars.append(Bar(label=f"to {what} one, process and server"))
        for who, found in row.figures.items():
            parts = (median(found[growth.cpu_of(what, whose)]) for whose in ("process", "server"))
            bars.append(Bar(label=who, value=sum(parts)))
    return Chart(
        title="CPU of a session or an event, by how many sessions wait",
        caption="µs; flat is what is wanted, within 20 %",
        unit="µs",
        bars=tuple(bars),
    )


def _memory(row: Measured) -> Chart:
    goals = {goal.samples: goal for goal in row.goals}
    bars = []
    for name, found in row.figures.items():
        goal = goals.get(found["bytes each"])
        kind = _kind(goal) if goal else "ours"
        bars.append(Bar(label=name, value=median(found["bytes each"]), kind=kind, mark=goal.wanted if goal else None))
    return Chart(title="Memory of an item in the store", caption="bytes, all keys counted", unit="B", bars=tuple(bars))


def _minutely(row: Measured) -> Chart:
    ours, theirs = row.figures[minutely.BRIDGE], row.figures[minutely.BY_HAND]
    names = {
        "CPU µs/settled session": "CPU of a settled session, all processes",
        "p50 s": "provider's word to callback, p50",
        "p99 s": "provider's word to callback, p99",
        "provider calls": "provider calls meanwhile",
    }
    bars = [Bar(label=label, value=100 * median(ours[what]) / median(theirs[what])) for what, label in names.items()]
    return Chart(
        title="The bridge, of a poller by hand that asks each minute",
        caption=f"100 % is the poller's (official SDK, requests in 8 threads, nothing stored); {row.about['sessions']}",
        unit="%",
        bars=tuple(bars),
        line=100,
    )


def _idle(row: Measured) -> Chart:
    bars = chain.from_iterable(
        [
            Bar(label=who),
            *(
                Bar(
                    label=what.removeprefix("CPU %, "),
                    value=median(samples),
                    kind="ours" if who == idle.BRIDGE else "other",
                )
                for what, samples in found.items()
                if what.startswith("CPU")
            ),
        ]
        for who, found in row.figures.items()
    )
    return Chart(title="With nothing to do", caption="percent of a core, by process", unit="%", bars=tuple(bars))


_OF_ROWS: dict[str, tuple[str, Callable[[Measured], Chart]]] = {
    "cpu.svg": ("delivery", _cpu),
    "latency.svg": ("latency", _latency),
    "growth.svg": ("growth", _growth),
    "memory.svg": ("memory", _memory),
    "by-hand.svg": ("minutely", _minutely),
    "idle.svg": ("idle", _idle),
}
