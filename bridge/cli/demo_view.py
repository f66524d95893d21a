"""What ``bridge demo`` shows: a live table on a terminal, a line a callback elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self, cast

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bridge.cli.output import local_time, show
from bridge.cli.receiver import Callback, Counts

_MOST_ROWS = 14
_CALLBACKS = 6
_COLOURS = {"delivered": "green", "undelivered": "red", "expired": "magenta", "unknown": "yellow", "tracked": "dim"}


class View:
    """A context manager; ``quiet`` shows nothing."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._live: Live | None = None
        self._printed = 0
        if not quiet and sys.stdout.isatty():
            self._live = Live(console=Console(), refresh_per_second=8)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._live is not None:
            self._live.console.print(text, style="dim", markup=False, highlight=False)
        elif not self._quiet:
            print(text, flush=True)

    def show(
        self,
        phones: Iterable[tuple[str, str, str]],
        statuses: Mapping[tuple[str, str, str], Sequence[str]],
        callbacks: Sequence[Callback],
        counts: Counts,
    ) -> None:
        """The present state of things."""
        if self._live is not None:
            table = _phones(list(phones)[-self._rows() :], statuses)
            arrived = [_callback(callback) for callback in callbacks[-_CALLBACKS:]]
            self._live.update(Group(table, *arrived, _counts(counts)))
        elif not self._quiet:
            for callback in callbacks[self._printed :]:
                print(_callback(callback).plain)
            self._printed = len(callbacks)

    def _rows(self) -> int:
        """How many phones fit, beside headings, callbacks and counts."""
        height = self._live.console.height if self._live is not None else 0
        return max(3, min(_MOST_ROWS, height - 8 - _CALLBACKS))

    def summary(self, values: Mapping[str, object]) -> None:
        """How it ended."""
        print()
        show(values, json=False)


def _phones(phones: Sequence[tuple[str, str, str]], statuses: Mapping[tuple[str, str, str], Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="phones", title_justify="left", title_style="bold")
    for heading in ("session", "phone", "status as told by signed callbacks"):
        table.add_column(heading, no_wrap=True)
    for session_no, phone, user_id in phones:
        told = ["tracked", *statuses.get((session_no, phone, user_id), ())]
        line = Text(" → ").join(Text(status, style=_COLOURS.get(status, "")) for status in told)
        table.add_row(session_no, phone, line)
    return table


def _callback(callback: Callback) -> Text:
    data = cast("Mapping[str, object]", callback.event["data"])
    status = str(data["status"])
    return Text.assemble(
        (f"{local_time(callback.at_ms)[11:23]}  ", "dim"),
        ("✓ verified  ", "green"),
        f"{data['session_no']}  {data['phone']}  {data['previous_status']} → ",
        (status, _COLOURS.get(status, "")),
        (f"  {callback.id}", "dim"),
        no_wrap=True,
        overflow="ellipsis",
    )


def _counts(counts: Counts) -> Text:
    return Text(
        f"\n{counts.accepted} callbacks accepted, {counts.duplicates} duplicates, {counts.out_of_order} out of order, "
        f"{counts.bad_signatures} bad signatures.  Ctrl-C ends.",
        style="bold",
    )
