"""What Linux tells of processes, in /proc."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def children(pid: int) -> list[int]:
    """The processes that one has started, and those that it has adopted; none of one that has ended."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, thread.read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    """Its children, and theirs; who started a process comes before it."""
    return [one for child in children(pid) for one in (child, *descendants(child))]


def state(pid: int) -> str:
    """One letter: ``R`` where it runs, ``S`` where it waits, ``T`` where it is stopped; "" where it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return "" if letter in {"Z", "X"} else letter
    return ""
