"""A soak: run after run with faults by chance, until the time is over; then a report.

    python -m tests.faults --seed 7 --minutes 30 --report faults.md

Exit code 1 where an invariant did not hold; the records and logs of that run are kept, and named.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.faults.checker import check
from tests.faults.outages import impossible
from tests.faults.plans import STORES, Plan, by_chance
from tests.faults.records import Violation
from tests.faults.report import Report, keep
from tests.faults.run import play


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the first run; each next one adds 1")
    parser.add_argument("--minutes", type=float, default=10.0, help="begin no run after this")
    parser.add_argument("--faults", type=int, default=12, help="in each run")
    parser.add_argument("--sessions", type=int, default=150, help="in each run")
    parser.add_argument("--store", choices=sorted(set(STORES)), help="of all runs; without it, in turns")
    parser.add_argument("--report", type=Path, default=Path("faults.md"), help="where the report goes")
    given = parser.parse_args()
    for name, reason in impossible().items():
        _say(f"not possible here: {name} ({reason})")
    report = Report()
    deadline = time.monotonic() + given.minutes * 60
    seed = given.seed
    while seed == given.seed or time.monotonic() < deadline:
        plan = by_chance(seed, faults=given.faults, sessions=given.sessions, store=given.store)
        violations = _one(plan, report)
        left_s = max(0.0, deadline - time.monotonic())
        kills = sum(report.kills.values())
        said = f"{len(violations)} violations, {report.duplicates} duplicates and {kills} kills so far"
        _say(f"seed {seed}: {said}, {left_s:.0f} s left")
        # After each, so that one that is interrupted has said what it found.
        given.report.write_text(report.markdown(f"Faults: seeds {given.seed} to {seed}"), encoding="utf-8")
        seed += 1
    _say(f"report: {given.report}")
    return int(bool(report.violations))


def _one(plan: Plan, report: Report) -> list[Violation]:
    label = f"seed {plan.seed}, {plan.store}"
    _say(f"{label}: {', '.join(plan.faults)}")
    records = play(plan)
    violations = check(records)
    report.add(label, records, violations)
    if violations:
        _say(f"{label}: kept in {keep(records, violations)}")
    for violation in violations[:10]:
        _say(f"  {violation}")
    return violations


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
