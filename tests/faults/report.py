"""What a run came to, as numbers and as Markdown."""

from __future__ import annotations

import statistics
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.faults.checker import cause_of, repeats
from tests.faults.evidence import Evidence
from tests.faults.records import Records, Violation

_KILLS = "processes killed with kill -9"


class Report:
    """Counts over one run or several."""

    def __init__(self) -> None:
        self.runs = 0
        self.sums: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.recovery_ms: dict[str, list[int]] = defaultdict(list)
        self.causes: Counter[str] = Counter()
        self.provider: Counter[str] = Counter()
        self.violations: list[tuple[str, Violation]] = []

    def add(self, label: str, records: Records, violations: Sequence[Violation]) -> None:
        """Count one run."""
        evidence = Evidence(records)
        heard = [one for group in evidence.heard.values() for one in group]
        self.runs += 1
        self.sums["sessions tracked"] += len(records.tracked)
        self.sums["events in the log"] += len(records.store.events)
        self.sums["POSTs that reached a receiver"] += len(records.posts)
        self.sums["deliveries accepted"] += sum(one.post.accepted for one in heard)
        self.sums["deliveries answered otherwise, or not at all"] += sum(not one.post.accepted for one in heard)
        self.sums["dead letters"] += sum(len(queue.dead) for queue in records.store.queues.values())
        self.sums["events dropped by an operator's word"] += sum(one.dropped for one in records.store.queues.values())
        self.sums["provider's answers"] += sum(records.answers.by_fault.values())
        for fault in records.faults:
            self.faults[fault.name] += 1
            if fault.recovered_ms:
                self.recovery_ms[fault.name].append(fault.recovered_ms - fault.until_ms)
        self.sums[_KILLS] += records.kills
        for name, group in evidence.heard.items():
            for before, again in repeats(group):
                self.causes[cause_of(evidence, name, before, again) or "none: see the violations"] += 1
        self.provider.update(records.answers.by_fault)
        self.violations += [(label, one) for one in violations]

    @property
    def kills(self) -> int:
        return self.sums[_KILLS]

    @property
    def duplicates(self) -> int:
        return sum(self.causes.values())

    def markdown(self, title: str) -> str:
        """The report."""
        rate = self.duplicates / max(1, self.sums["deliveries accepted"])
        lines = [f"# {title}", "", f"{self.runs} runs, {len(self.violations)} violations.", ""]
        lines += _table(("what", "count"), [(name, f"{count:,}") for name, count in self.sums.items()])
        lines += ["## Faults", "", "Recovery: from a fault's end to the next accepted callback.", ""]
        lines += _table(("fault", "times", "recovery, median", "longest"), [self._fault(name) for name in self.faults])
        lines += ["## The provider's own faults", ""]
        lines += _table(("answers", "count"), [(name, f"{count:,}") for name, count in self.provider.most_common()])
        lines += [
            "## Duplicates",
            "",
            f"{self.duplicates:,}, {rate:.2%} of what was accepted, by what lost the outcome.",
            "",
        ]
        lines += _table(("cause", "count"), [(name, f"{count:,}") for name, count in self.causes.most_common()])
        lines += ["## Violations", ""]
        lines += [f"- {label}: {one}" for label, one in self.violations] or ["None."]
        return "\n".join([*lines, ""])

    def _fault(self, name: str) -> tuple[str, str, str, str]:
        took = self.recovery_ms[name]
        middle = f"{statistics.median(took) / 1000:.2f} s" if took else "–"
        longest = f"{max(took) / 1000:.2f} s" if took else "–"
        return name, str(self.faults[name]), middle, longest


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return ["None.", ""]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def keep(records: Records, violations: Sequence[Violation]) -> Path:
    """Keep records and logs where somebody can look at them."""
    directory = Path(tempfile.mkdtemp(prefix="bridge-faults-"))
    directory.joinpath("records.msgpack").write_bytes(msgspec.msgpack.encode(records))
    directory.joinpath("violations.txt").write_text("\n".join(map(str, violations)) + "\n", encoding="utf-8")
    for name, lines in records.log_lines.items():
        directory.joinpath(name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory
