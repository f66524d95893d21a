"""Two runs beside each other: what got worse by more than chance.

A figure got worse if not even its best sample of the new run reaches the worst of the old one, and its median is
worse by a tenth at least. Of a figure with one sample, whose spread nobody knows, the median must be worse by a
quarter. Times and rates are first divided by how much slower the machine was: by what libcurl alone took, which is
no code of ours.
"""

from __future__ import annotations

import msgspec

from tests.bench.delivery import ALONE
from tests.bench.figures import Better, Samples, median, shown, worst
from tests.bench.record import Run
from tests.bench.tables import Row

_AT_LEAST = 0.10
_OF_ONE_SAMPLE = 0.25
_TIMES = ("µs", "ms", "s")


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of both runs. ``by`` is how many times worse the new median is (below 1: better)."""

    row: str
    what: str
    old: Samples
    new: Samples
    by: float
    is_worse: bool


def slowdown(old: Run, new: Run) -> float:
    """How many times as much CPU libcurl alone took in the new run; 1 where it is not known."""
    found = []
    for run in (old, new):
        row = run.rows.get("delivery")
        if row is None or ALONE not in row.figures:
            return 1.0
        found.append(median(row.of(ALONE, "CPU µs/event")))
    return found[1] / found[0]


def changes(old: Run, new: Run) -> list[Change]:
    """Every goal, and every CPU of ours, that both runs have."""
    slower = slowdown(old, new)
    found = []
    for name, row in old.rows.items():
        if name not in new.rows:
            continue
        other = new.rows[name]
        goals = {goal.what: goal for goal in other.goals}
        for goal in row.goals:
            if goal.what in goals:
                scale = slower if goal.unit in _TIMES else 1.0
                found.append(
                    _change(name, goal.what, goal.samples, _scaled(goals[goal.what].samples, scale), goal.better)
                )
        for who, figures in row.figures.items():
            if who in other.references:
                continue
            for what, samples in figures.items():
                if what.startswith("CPU") and what in other.figures.get(who, {}):
                    scaled = _scaled(other.of(who, what), slower)
                    found.append(_change(name, f"{who}: {what}", samples, scaled, "less"))
    return found


def _scaled(samples: Samples, by: float) -> Samples:
    return tuple(sample / by for sample in samples)


def _change(row: str, what: str, old: Samples, new: Samples, better: Better) -> Change:
    return Change(
        row=row, what=what, old=old, new=new, by=_times(old, new, better), is_worse=is_worse(old, new, better)
    )


def _times(old: Samples, new: Samples, better: Better) -> float:
    before, after = median(old), median(new)
    if better == "more":
        before, after = after, before
    if before == after:
        return 1.0
    return after / before if before else float("inf")


def is_worse(old: Samples, new: Samples, better: Better) -> bool:
    """By more than the spread of both."""
    best_new, worst_old = worst(new, "more" if better == "less" else "less"), worst(old, better)
    apart = best_new > worst_old if better == "less" else best_new < worst_old
    margin = _AT_LEAST if min(len(old), len(new)) > 1 else _OF_ONE_SAMPLE
    return apart and _times(old, new, better) > 1 + margin


def change_rows(found: list[Change]) -> list[Row]:
    """A table, the worst first."""
    rows: list[Row] = [("row", "figure", "before", "now", "worse by", "")]
    for change in sorted(found, key=lambda change: (-change.is_worse, -change.by)):
        before, now = (shown(median(samples)) for samples in (change.old, change.new))
        rows.append((change.row, change.what, before, now, f"{shown(change.by)} ×", "WORSE" if change.is_worse else ""))
    return rows
