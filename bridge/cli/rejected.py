"""``bridge rejected``: what senders asked to track and was wrong."""

from __future__ import annotations

import heapq

import typer

from bridge.cli.common import Account, Json, Limit, accounts_of, opened
from bridge.cli.output import At, table

rejected = typer.Typer(no_args_is_help=True)

_COLUMNS = {"at": "arrived", "account": "account", "reason": "reason", "item": "item"}
_SHOWN_CHARS = 60


@rejected.callback()
def _group() -> None:
    """With a single command Typer would otherwise drop its name."""


@rejected.command("list")
def list_(account: Account = None, limit: Limit = 50, json: Json = False) -> None:
    """List items that arrived and were wrong, with the reason, the newest first; with --json whole.

    They come of senders that make Celery messages themselves: `bridge.track` and `bridge track` refuse them at once.
    The newest 10,000 of an account are kept.

    \b
    bridge rejected list --limit 10
    """
    with opened() as bridge:
        kept = ((name, one) for name in accounts_of(bridge, account) for one in bridge.tracking.rejected(name))
        newest = heapq.nlargest(limit, kept, key=lambda pair: pair[1].at_ms)
    rows = [
        {
            "at": At(ms=one.at_ms),
            "account": name,
            "reason": one.reason,
            "item": one.item if json or len(one.item) <= _SHOWN_CHARS else one.item[: _SHOWN_CHARS - 1] + "…",
        }
        for name, one in newest
    ]
    table(rows, _COLUMNS, json=json)
    if not rows and not json:
        print("nothing was rejected")
