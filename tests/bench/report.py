"""A run as Markdown, and what is kept of it: the JSON by date, the newest one's table and charts."""

from __future__ import annotations

from pathlib import Path

from tests.bench.charts import charts
from tests.bench.figures import median, shown, spread
from tests.bench.record import Run, decode
from tests.bench.tables import Row, figure_rows, goal_rows, markdown

TABLE = "newest.md"
"""In the directory of results: made of the newest run, as the charts are."""
_BEGIN, _END = "<!-- newest -->\n", "<!-- /newest -->"


def summary(run: Run) -> str:
    """Every target in one table, and what it was measured on."""
    about = ", ".join(f"{name} {value}" for name, value in run.about.items())
    head = (
        f"{run.date}: `{run.command}`, {run.took_s / 60:.1f} minutes. {about}; load averages {run.load_before} before,"
        f" {run.load_after} after. Medians; *of rounds* is from the least to the most.\n\n"
    )
    head += f"**{run.verdict}.**"
    if run.was_busy:
        head += (
            " **The machine was busy**: believe CPU and ratios of it; waits and rates are those of all that ran beside."
        )
    head += "\n\n"
    if run.failed:
        head += f"Not measured, for an error: {', '.join(run.failed)}.\n\n"
    return head + markdown(goal_rows(run.goals))


def whole(run: Run) -> str:
    """The summary, and all figures row by row."""
    parts = [f"# Results of {run.date}\n\n", summary(run)]
    for name, row in run.rows.items():
        about = "; ".join(f"{key}: {value}" for key, value in row.about.items())
        parts.append(f"\n## {name}\n\n{about}; {row.took_s:.0f} s.\n\n{markdown(figure_rows(row))}")
        if cpu := _cpu_rows(run, name):
            parts.append(f"\n{markdown(cpu)}")
    return "".join(parts)


def _cpu_rows(run: Run, name: str) -> list[Row]:
    """The spread of CPU by who and process, where there was more than one round."""
    rows = [
        (who, what, shown(median(samples)), spread(samples))
        for who, found in run.rows[name].figures.items()
        for what, samples in found.items()
        if what.startswith("CPU") and spread(samples)
    ]
    return [("CPU", "of", "median", "of rounds"), *rows] if rows else []


def write(path: Path) -> list[Path]:
    """Make the table and the charts of a run's file, beside it; and the table of targets in the README above, where
    one has a place for it. Returns what was written.
    """
    run = decode(path.read_bytes())
    found = {path.parent / name: text for name, text in ({TABLE: whole(run)} | charts(run)).items()}
    readme = path.parent.parent / "README.md"
    if readme.exists() and _BEGIN in (text := readme.read_text(encoding="utf-8")):
        before, rest = text.split(_BEGIN)
        found[readme] = f"{before}{_BEGIN}{summary(run)}{_END}{rest.partition(_END)[2]}"
    for written, text in found.items():
        written.write_text(text, encoding="utf-8")
    return list(found)
