"""What a run came to, as numbers and as Markdown."""

from __future__ import annotations

import json
import re
import statistics
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import msgspec

from tests.faults.checker import repeats
from tests.faults.evidence import Evidence, Heard
from tests.faults.lost import Lost
from tests.faults.records import Records, Violation
from tests.faults.watchers import EVENTS, SENTRY


class Report:
    """Counts over one run or several."""

    def __init__(self) -> None:
        self.runs = 0
        self.sums: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.recovery_ms: dict[str, list[int]] = defaultdict(list)
        self.kills: Counter[str] = Counter()
        self.causes: Counter[str] = Counter()
        self.provider: Counter[str] = Counter()
        self.tracebacks: Counter[str] = Counter()
        self.violations: list[tuple[str, Violation]] = []

    def add(self, label: str, records: Records, violations: Sequence[Violation]) -> None:
        """Count one run."""
        evidence = Evidence(records)
        groups = [*evidence.heard.items(), *evidence.others.items()]
        self.runs += 1
        self._sum(records, [one for _, group in groups for one in group])
        for fault in records.faults:
            self.faults[fault.name] += 1
            if fault.recovered_ms:
                self.recovery_ms[fault.name].append(fault.recovered_ms - fault.until_ms)
        self.kills["store's servers, at any moment"] += records.kills
        for end in records.ended:
            if end.how in _KILLED:
                self.kills[f"{end.kind}, {_KILLED[end.how]}"] += 1
        lost = Lost(evidence)
        for name, group in groups:
            for before, again in repeats(group):
                self.causes[lost.cause_of(name, before, again) or "none: see the violations"] += 1
        self.provider.update(records.answers.by_fault)
        self.tracebacks.update(_tracebacks(records))
        self.violations += [(label, one) for one in violations]

    def _sum(self, records: Records, heard: Sequence[Heard]) -> None:
        queues = records.store.queues.values()
        self.sums["sessions tracked"] += len(records.tracked)
        self.sums["events in the log"] += len(records.store.events)
        self.sums["attempts: POSTs that reached a receiver"] += len(records.posts)
        self.sums["deliveries accepted"] += sum(one.post.accepted for one in heard)
        self.sums["deliveries answered otherwise, or not at all"] += sum(not one.post.accepted for one in heard)
        self.sums["dead letters"] += sum(len(queue.dead) for queue in queues)
        self.sums["events dropped by an operator's word"] += sum(one.dropped for one in queues)
        self.sums["provider's answers"] += sum(records.answers.by_fault.values())
        self.sums["lines that Sentry got"] += len(records.log_lines.get(SENTRY, ()))
        self.sums["events of Celery's, as Flower hears them"] += len(records.log_lines.get(EVENTS, ()))
        self.sums["log lines"] += sum(len(lines) for name, lines in records.log_lines.items() if name.endswith(".log"))

    @property
    def duplicates(self) -> int:
        return sum(self.causes.values())

    def markdown(self, title: str) -> str:
        """The report."""
        rate = self.duplicates / max(1, self.sums["deliveries accepted"])
        kills = +self.kills
        lines = [f"# {title}", "", f"{self.runs} runs, {len(self.violations)} violations.", ""]
        lines += _table(("what", "count"), _rows(self.sums.items()))
        lines += ["## Kills", "", f"{sum(kills.values()):,} times `kill -9`.", ""]
        lines += _table(("of what", "count"), _rows(kills.most_common()))
        lines += ["## Faults", "", f"{sum(self.faults.values()):,}.", ""]
        lines += ["Recovery: from a fault's end to the next accepted callback.", ""]
        names = sorted(self.faults)
        lines += _table(("fault", "times", "recovery, median", "longest"), [self._fault(name) for name in names])
        lines += ["## The provider's own faults", ""]
        lines += _table(("answers", "count"), _rows(self.provider.most_common()))
        lines += ["## Duplicates", "", f"{self.duplicates:,}, {rate:.2%} of what was accepted.", ""]
        lines += _table(("what lost the outcome", "count"), _rows(self.causes.most_common()))
        lines += ["## Tracebacks in logs", ""]
        lines += _table(("error", "count"), _rows(self.tracebacks.most_common()))
        lines += ["## Violations", ""]
        lines += [f"- {label}: {' / '.join(str(one).splitlines())}" for label, one in self.violations] or ["None."]
        return "\n".join([*lines, ""])

    def _fault(self, name: str) -> tuple[str, str, str, str]:
        took = self.recovery_ms[name]
        middle = f"{statistics.median(took) / 1000:.2f} s" if took else "–"
        longest = f"{max(took) / 1000:.2f} s" if took else "–"
        return name, str(self.faults[name]), middle, longest


_KILLED = {"killed": "at any moment", "died": "at a named point"}
_ID = re.compile(r"\[[0-9a-f-]{36}\]")
_FRAME = re.compile(r'File "(?:[^"]*/)?([^"/]+/[^"/]+)", line \d+, in (\S+)')
"""Where it was raised: the last one's folder and file, and its function."""
_NEAR_MS = 15_000
"""What a fault makes a task fail with is logged once the task has given up: after three tries of 5 s."""


def _tracebacks(records: Records) -> Iterator[str]:
    """Each traceback that was logged, by its error and where it was raised, and whether any fault was under way then or
    shortly before."""
    for name, lines in records.log_lines.items():
        for line in lines if name.endswith(".log") else ():
            with suppress(ValueError, KeyError, TypeError):
                said = json.loads(line)
                at_ms = datetime.fromisoformat(said["timestamp"]).timestamp() * 1000
                beside = any(one.at_ms <= at_ms <= one.until_ms + _NEAR_MS for one in records.faults)
                kind = said["exception"].strip().splitlines()[-1].partition(":")[0]
                event = _ID.sub("", said["event"]).partition(":")[0]
                frames = _FRAME.findall(said["exception"])
                where = ", ".join(frames[-1]) if frames else "nowhere"
                yield f"{kind} ({event}; {where}), {'beside a fault' if beside else 'with no fault near'}"


def _rows(counts: Iterable[tuple[str, int]]) -> list[tuple[str, str]]:
    return [(name.replace("|", "/"), f"{count:,}") for name, count in counts]


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
