"""A run of benchmarks as a file: what was measured, on what, by which command. Kept by date, never overwritten."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import msgspec

from tests.bench.figures import Goal, Measured, Samples, median, spread

_NAME = re.compile(r"(\d{4}-\d{2}-\d{2})(?:-(\d+))?\.json")


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run. ``about`` is the machine and its versions; ``load_before`` and ``load_after`` are load averages;
    ``failed`` names rows that ended with an error.
    """

    date: str
    command: str
    about: dict[str, str]
    load_before: str
    load_after: str
    took_s: float
    rows: dict[str, Measured]
    failed: tuple[str, ...] = ()

    @property
    def goals(self) -> list[Goal]:
        """Those of all rows."""
        return [goal for row in self.rows.values() for goal in row.goals]

    @property
    def verdict(self) -> str:
        """How many targets hold."""
        judged = [goal.holds for goal in self.goals if goal.holds is not None]
        return f"{sum(judged)} of {len(judged)} targets hold"

    @property
    def was_busy(self) -> bool:
        """Whether others wanted the machine's cores as it began: its waits and rates are then theirs as well."""
        return float(self.load_before.split()[0]) > int(self.about["cores"]) / 2


def encode(run: Run) -> bytes:
    """As JSON for people and programs: medians, spreads and verdicts stand beside the samples they come from."""
    told = {
        name: {
            "about": row.about,
            "took_s": round(row.took_s, 1),
            "figures": {
                who: {what: _summary(samples) for what, samples in found.items()} for who, found in row.figures.items()
            },
            "references": row.references,
            "goals": [_judged(goal) for goal in row.goals],
        }
        for name, row in run.rows.items()
    }
    whole = msgspec.to_builtins(run) | {"took_s": round(run.took_s, 1), "rows": told}
    return msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n"


def _summary(samples: Samples) -> dict[str, object]:
    return {"median": median(samples), "least": min(samples), "most": max(samples), "samples": samples}


def _judged(goal: Goal) -> dict[str, object]:
    return {
        **msgspec.to_builtins(goal),
        "median": median(goal.samples),
        "spread": spread(goal.samples),
        "holds": goal.holds,
        "share_of_target": goal.share,
        "verdict": goal.verdict.replace("**", ""),
    }


def decode(data: bytes) -> Run:
    """What ``encode`` wrote: the samples count, all else is worked out anew."""
    told = msgspec.json.decode(data)
    for row in told["rows"].values():
        for found in row["figures"].values():
            found.update({what: one["samples"] for what, one in found.items()})
    return msgspec.convert(told, Run)


def save(run: Run, directory: Path) -> Path:
    """Write it under its date, with a number where that day has one already."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{run.date}.json"
    number = 1
    while path.exists():
        number += 1
        path = directory / f"{run.date}-{number}.json"
    path.write_bytes(encode(run))
    return path


def newest(directory: Path) -> Path | None:
    """The last run of the last day."""
    found = [
        (match[1], int(match[2] or 1), path)
        for path in directory.glob("*.json")
        if (match := _NAME.fullmatch(path.name))
    ]
    return max(found)[2] if found else None


def today() -> str:
    """The date, UTC."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()
