"""What commands print: tables and objects for people, JSON lines for programs, times for each.

A value's kind decides how it looks: an ``At`` is a local time in a table and ISO 8601 UTC in JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

import msgspec


class At:
    """A moment, in Unix milliseconds. No dataclass: msgspec would write one as an object, unasked."""

    __slots__ = ("_ms",)

    def __init__(self, *, ms: int) -> None:
        self._ms = ms

    @property
    def ms(self) -> int:
        return self._ms


def local_time(ms: int) -> str:
    """Such as ``2026-11-23 14:31:08.123+08:00``: the local zone, with its offset at that time."""
    return datetime.fromtimestamp(ms / 1000, UTC).astimezone().isoformat(sep=" ", timespec="milliseconds")


def utc_time(ms: int) -> str:
    """Such as ``2026-11-23T06:31:08.123Z``, as in callbacks."""
    seconds, rest = divmod(ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


def table(rows: Iterable[Mapping[str, object]], columns: Mapping[str, str], *, json: bool) -> None:
    """Print rows: as a table of ``columns`` (key → heading), or whole as JSON, a line each as they come."""
    if json:
        for row in rows:
            print(to_json(row))
        return
    cells = [[as_text(row.get(key)) for key in columns] for row in rows]
    if sys.stdout.isatty():
        _print_rich(list(columns.values()), cells)
    elif cells:
        _print_plain(list(columns.values()), cells)


def show(mapping: Mapping[str, object], *, json: bool) -> None:
    """Print one object: a line for each of its names, or as one line of JSON."""
    if json:
        print(to_json(mapping))
        return
    width = max((len(name) for name in mapping), default=0)
    for name, value in mapping.items():
        print(f"{name.replace('_', ' '):<{width}}  {as_text(value)}".rstrip())


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show how far a long piece of work has come; gives a function to call with how much more is done.

    On standard error, so that output can be piped; where that is no terminal, nothing is shown.
    """
    if not sys.stderr.isatty():
        yield lambda _more: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=total)
        yield lambda more: shown.advance(task, more)


def to_json(value: object) -> str:
    """One line of JSON; an ``At`` becomes ISO 8601 UTC."""
    return msgspec.json.encode(value, enc_hook=_encode).decode()


def as_text(value: object) -> str:
    """A value for people, on one line; what could steer the terminal is escaped."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, At):
        return local_time(value.ms)
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(as_text(item) for item in value) or "-"
    if isinstance(value, Mapping):
        return printable(to_json(value))
    return printable(str(value))


def printable(text: str) -> str:
    """Control characters escaped: the text may be a provider's or a subscriber's, and reach an operator's terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _encode(value: object) -> object:
    if isinstance(value, At):
        return utc_time(value.ms)
    raise NotImplementedError(f"no JSON for {type(value).__name__}")  # as msgspec wants of an enc_hook


def _print_rich(headings: list[str], cells: list[list[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD)
    for heading in headings:
        # Folded, never cut: an id that lost its end is of no use.
        shown.add_column(heading, overflow="fold")
    for row in cells:
        shown.add_row(*(Text(cell) for cell in row))
    Console().print(shown)


def _print_plain(headings: list[str], cells: list[list[str]]) -> None:
    from rich.cells import cell_len  # Chinese characters are two columns wide

    lines = [headings, *cells]
    widths = [max(cell_len(line[index]) for line in lines) for index in range(len(headings))]
    for line in lines:
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True))
        print("  ".join(padded).rstrip())
