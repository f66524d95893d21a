"""What commands that look into the store share: options, the open bridge, times and accounts as people give them."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.cli.output import At, as_text, show, table
from bridge.domain.durations import parse_duration_ms
from bridge.domain.tracking import is_account
from bridge.errors import UsageError

if TYPE_CHECKING:
    from bridge.store.audit import Noted
    from bridge.wiring import Bridge

Json = Annotated[bool, typer.Option("--json", help="JSON: one object a line.")]
Account = Annotated[str | None, typer.Option(metavar="NAME", help="Of this account alone. Default: of all.")]
Limit = Annotated[int, typer.Option(metavar="N", min=1, help="At most so many.")]

# Ten digits, from the year 2001 on: eight are a date to ISO 8601, thirteen would be milliseconds.
_is_unix_time = re.compile(r"[0-9]{10}(\.[0-9]{1,6})?").fullmatch
_LATEST_MS = 253_402_214_400_000  # the last day of the year 9999, in every zone


@contextmanager
def opened() -> Iterator[Bridge]:
    """The bridge of this process's settings, closed at the end.

    Raises SettingsError, StoreUnreachable or IncompatibleStore.
    """
    from bridge.settings import load_settings
    from bridge.wiring import Bridge

    bridge = Bridge(load_settings())
    try:
        yield bridge
    finally:
        bridge.close()


@contextmanager
def audited(
    bridge: Bridge, action: str, target: str = "", details: Mapping[str, object] | None = None
) -> Iterator[Noted]:
    """Note in the audit trail what is done in the block, as this machine's user. See ``AuditTrail.noted``."""
    with bridge.audit.noted(_user_and_host(), action, target, details) as noted:
        yield noted


def _user_and_host() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user that no file knows
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def known(bridge: Bridge, subscription: str) -> str:
    """A subscription's id, if there is one. Raises NotFound."""
    return bridge.subscriptions.get(subscription).id


def accounts_of(bridge: Bridge, account: str | None) -> list[str]:
    """The account asked for, else every one there is."""
    if account is not None:
        return [checked_account(account)]
    from bridge.accounts import account_names

    return account_names(bridge)


def checked_account(name: str) -> str:
    """``name``, if it may be an account's. Raises UsageError."""
    if not is_account(name):
        raise UsageError("--account: give 1 to 32 of the characters a-z, 0-9, _ and -")
    return name


def since_ms(text: str, now_ms: int) -> int:
    """The Unix ms that ``--since`` means: a duration before now (``1h``), Unix seconds, or a moment in ISO 8601.

    A moment without an offset is in the local zone. Raises UsageError.
    """
    try:
        return now_ms - parse_duration_ms(text)
    except ValueError:
        pass
    if _is_unix_time(text.strip()):
        return round(float(text) * 1000)
    try:
        return round(datetime.fromisoformat(text.strip()).timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"--since {text!r} is no time: give how long ago, such as 30m, 1h or 2d, Unix seconds, or ISO 8601, "
            "such as 2026-11-23T14:31:08+08:00"
        ) from None


def moment(ms: int) -> At | None:
    """A stored time, in which 0 means "not yet". None too for what no calendar has: a provider may say anything."""
    return At(ms=ms) if 0 < ms <= _LATEST_MS else None


def wide_table(rows: Sequence[Mapping[str, object]], columns: Mapping[str, str], *, json: bool) -> None:
    """A table, or where the terminal is too narrow for one a block of lines a row: an id in pieces is of no use."""
    if json or not sys.stdout.isatty() or _fits(rows, columns, shutil.get_terminal_size().columns):
        table(rows, columns, json=json)
        return
    for place, row in enumerate(rows):
        if place:
            print()
        show({heading: row[key] for key, heading in columns.items()}, json=False)


def _fits(rows: Sequence[Mapping[str, object]], columns: Mapping[str, str], room: int) -> bool:
    from rich.cells import cell_len

    widths = [max(cell_len(text) for text in (columns[key], *(as_text(row[key]) for row in rows))) for key in columns]
    return sum(widths) + 3 * len(widths) + 1 <= room
