"""A soak: run after run with faults by chance, until the time is over; then a report.

    python -m tests.faults --seed 7 --minutes 30 --report faults.md

Exit code 1 where an invariant did not hold; the records and logs of that run are kept, and named.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from tests.faults.checker import check
from tests.faults.mischief import CATALOGUE
from tests.faults.records import Records, Violation
from tests.faults.report import Report
from tests.faults.run import STOPS, Plan, play
from tests.faults.world import NotInTime, faketime


def plan_by_chance(seed: int, *, faults: int = 12, sessions: int = 150) -> Plan:
    """What a seed stands for."""
    chance = random.Random(seed)
    own_broker = chance.random() < 0.3
    names = sorted(CATALOGUE)
    if own_broker:
        # What the broker has handed out is not in it any more, and what it led to goes with the store's last second.
        names.remove("store loses its last second")
    try:
        faketime()
    except FileNotFoundError:
        names.remove("a worker's clock an hour off")
    return Plan(
        seed=seed,
        sessions=sessions,
        over_s=2.0 * faults,
        words_over_s=chance.choice([2.0, 6.0]),
        workers=chance.choice([1, 2, 3]),
        own_broker=own_broker,
        faults=tuple(chance.choices(names, k=faults)),
        stops=tuple(chance.sample(STOPS, chance.choice([0, 0, 2]))),
        applications=("well", "moody", "batches", "failures", "by session", "forbidden", "removed"),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the first run; each next one adds 1")
    parser.add_argument("--minutes", type=float, default=10.0, help="begin no run after this")
    parser.add_argument("--faults", type=int, default=12, help="in each run")
    parser.add_argument("--sessions", type=int, default=150, help="in each run")
    parser.add_argument("--report", type=Path, default=Path("faults.md"), help="where the report goes")
    given = parser.parse_args()
    report = Report()
    deadline = time.monotonic() + given.minutes * 60
    seed = given.seed
    while seed == given.seed or time.monotonic() < deadline:
        plan = plan_by_chance(seed, faults=given.faults, sessions=given.sessions)
        violations = _one(plan, report)
        left_s = max(0.0, deadline - time.monotonic())
        _say(f"seed {seed}: {len(violations)} violations, {report.duplicates} duplicates so far, {left_s:.0f} s left")
        seed += 1
    title = f"Faults: seeds {given.seed} to {seed - 1}"
    given.report.write_text(report.markdown(title), encoding="utf-8")
    _say(f"report: {given.report}")
    return int(bool(report.violations))


def _one(plan: Plan, report: Report) -> list[Violation]:
    label = f"seed {plan.seed}"
    _say(f"{label}: {', '.join(plan.faults)}")
    try:
        records = play(plan)
    except NotInTime as error:
        violations = [Violation(invariant="I1", says=str(error))]
        report.violations += [(label, one) for one in violations]
        return violations
    violations = check(records)
    report.add(label, records, violations)
    if violations:
        _say(f"{label}: kept in {keep(records, violations)}")
    for violation in violations[:10]:
        _say(f"  {violation}")
    return violations


def keep(records: Records, violations: list[Violation]) -> Path:
    """Keep records and logs where somebody can look at them."""
    directory = Path(tempfile.mkdtemp(prefix="bridge-faults-"))
    directory.joinpath("records.msgpack").write_bytes(msgspec.msgpack.encode(records))
    directory.joinpath("violations.txt").write_text("\n".join(map(str, violations)) + "\n", encoding="utf-8")
    for name, lines in records.log_lines.items():
        directory.joinpath(name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
