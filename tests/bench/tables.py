"""Tables of figures, and of targets beside them: aligned for a terminal, and in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.bench.figures import Goal, Measured, median, shown, spread

Row = tuple[str, ...]


def figure_rows(measured: Measured) -> list[Row]:
    """Who was measured, by what: medians."""
    columns = list(dict.fromkeys(what for figures in measured.figures.values() for what in figures))
    rows: list[Row] = [("median", *columns)]
    for who, figures in measured.figures.items():
        rows.append((who, *(shown(median(figures[what])) if what in figures else "" for what in columns)))
    return rows


def goal_rows(goals: Iterable[Goal]) -> list[Row]:
    """Each goal with its target, its median, its spread and what came of it."""
    rows: list[Row] = [("target", "wanted", "measured", "of rounds", "beside", "")]
    for goal in goals:
        measured = f"{shown(goal.counts)} {goal.unit}".rstrip()
        rows.append((goal.what, goal.target, measured, spread(goal.samples), goal.reference, goal.verdict))
    return rows


def text_of(name: str, measured: Measured) -> str:
    """For a terminal."""
    lines = [f"{name}, {measured.took_s:.0f} s", ", ".join(f"{key}: {value}" for key, value in measured.about.items())]
    for table in (figure_rows(measured), goal_rows(measured.goals)):
        lines += ["", *aligned(table)]
    return "\n".join(lines).replace("**", "") + "\n\n"


def aligned(table: Sequence[Row]) -> list[str]:
    """One line a row, the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in table
    ]


def markdown(table: Sequence[Row]) -> str:
    """A Markdown table whose first row is the head."""
    lines = [f"| {' | '.join(row)} |" for row in table]
    return "\n".join([lines[0], "|---" * len(table[0]) + "|", *lines[1:]]) + "\n"
