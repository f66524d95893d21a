"""``bridge rejected``: what senders asked to track and was wrong."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.cli.common import Account, Json, Limit, accounts_of, audited, opened, since_ms, wide_table
from bridge.cli.output import At, show
from bridge.domain.tracking import is_account
from bridge.errors import NotFound, UsageError

if TYPE_CHECKING:
    from bridge.store.tracking import Rejected
    from bridge.wiring import Bridge

rejected = typer.Typer(no_args_is_help=True)

_COLUMNS = {"id": "id", "at": "arrived", "account": "account", "reason": "reason", "item": "item"}
_SHOWN_CHARS = 60
_is_stream_id = re.compile(r"[0-9]{1,20}-[0-9]{1,20}").fullmatch


@rejected.command("list")
def list_(
    *,
    account: Account = None,
    since: Annotated[
        str | None, typer.Option(metavar="T", help="That arrived from then on: how long ago (1h), or ISO 8601.")
    ] = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="With this in the reason.")] = None,
    session: Annotated[str | None, typer.Option(metavar="SESSION", help="That name this session.")] = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List items that arrived and were wrong, with the reason, the newest first; with --json whole.

    They come of senders that make Celery messages themselves: `bridge.track` and `bridge track` refuse them at once.
    The newest 10,000 of an account are kept.

    \b
    bridge rejected list --limit 10
    bridge rejected list --since 1h --reason phone_count --json
    """
    with opened() as bridge:
        from_ms = 0 if since is None else since_ms(since, bridge.clock.now_ms())
        kept = (
            (name, one)
            for name, one in _kept(bridge, account)
            if one.at_ms >= from_ms
            and (reason is None or reason.casefold() in one.reason.casefold())
            and (session is None or one.names(session))
        )
        newest = heapq.nlargest(limit, kept, key=lambda pair: pair[1].at_ms)
    rows = [
        {
            "id": f"{name}:{one.id}",
            "at": At(ms=one.at_ms),
            "account": name,
            "reason": one.reason,
            "item": one.item if json or len(one.item) <= _SHOWN_CHARS else one.item[: _SHOWN_CHARS - 1] + "…",
        }
        for name, one in newest
    ]
    wide_table(rows, _COLUMNS, json=json)
    if not rows and not json:
        print("nothing was rejected")


@rejected.command()
def drop(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID…", help="Ids as the list shows them.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    before: Annotated[
        str | None, typer.Option(metavar="T", help="Those that arrived before then: how long ago (30d), or ISO 8601.")
    ] = None,
    account: Account = None,
    json: Json = False,
) -> None:
    """Drop rejected items: once their senders are mended, or what was in them was tracked otherwise.

    \b
    bridge rejected drop default:1795423107029-0
    bridge rejected drop --before 7d
    """
    if [bool(ids), everything, before is not None].count(True) != 1:
        raise UsageError("give ids, or --all, or --before")
    with opened() as bridge:
        limit_ms = None if before is None else since_ms(before, bridge.clock.now_ms())
        how: dict[str, object] = {"ids": len(ids)} if ids else {"before": before or "all", "account": account or "all"}
        with audited(bridge, "rejected drop", details=how):
            if ids:
                dropped = _drop(bridge, ids)
            else:
                dropped = sum(bridge.tracking.drop_before(name, limit_ms) for name in accounts_of(bridge, account))
    show({"dropped": dropped}, json=True) if json else print(f"dropped {dropped:,}")
    if ids and dropped < len(set(ids)):
        raise NotFound(f"{len(set(ids)) - dropped:,} of these ids are not there: see `bridge rejected list`")


def _kept(bridge: Bridge, account: str | None) -> Iterator[tuple[str, Rejected]]:
    for name in accounts_of(bridge, account):
        for one in bridge.tracking.rejected(name):
            yield name, one


def _drop(bridge: Bridge, ids: list[str]) -> int:
    by_account: dict[str, list[str]] = {}
    for one in dict.fromkeys(ids):
        name, _, stream_id = one.partition(":")
        if not is_account(name) or not _is_stream_id(stream_id):
            raise UsageError(f"{one[:60]!r} is no id of a rejected item: `bridge rejected list` shows them")
        by_account.setdefault(name, []).append(stream_id)
    return sum(bridge.tracking.drop(name, group) for name, group in by_account.items())
