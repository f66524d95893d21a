"""``bridge audit``: who did what with this bridge."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.cli.common import Json, Limit, opened, since_ms, wide_table
from bridge.cli.output import At, as_text

if TYPE_CHECKING:
    from bridge.store.audit import Action

_COLUMNS = {
    "at": "at",
    "who": "who",
    "action": "action",
    "target": "of",
    "outcome": "outcome",
    "details": "details",
}


def audit(
    since: Annotated[
        str | None, typer.Option(metavar="T", help="From then on: how long ago (1h), ISO 8601, or Unix seconds.")
    ] = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List what operators did, the newest first: of the newest 10,000 actions.

    "unfinished" is under way, or was cut short: nobody knows how much of it was done. Secrets and phones are not noted.

    \b
    bridge audit --since 7d
    """
    with opened() as bridge:
        from_ms = 0 if since is None else since_ms(since, bridge.clock.now_ms())
        rows = [_row(one) for one in islice(bridge.audit.newest(from_ms), limit)]
    if not json:
        rows = [row | {"details": _text(row["details"])} for row in rows]
    wide_table(rows, _COLUMNS, json=json)
    if not rows and not json:
        print("nothing was done" + ("" if since is None else " since then"))


def _row(one: Action) -> dict[str, object]:
    return {
        "at": At(ms=one.at_ms),
        "began_at": At(ms=one.began_ms),
        "who": one.who,
        "action": one.action,
        "target": one.target or None,
        "outcome": one.outcome.value,
        "details": one.details,
    }


def _text(details: object) -> str | None:
    if not isinstance(details, dict):
        return None
    return "  ".join(f"{name} {as_text(value)}" for name, value in details.items()) or None
