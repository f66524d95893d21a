"""``bridge subscriptions``: who is told of changes, and how much waits for them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.cli.common import Account, Json, checked_account, opened
from bridge.cli.output import At, show, table
from bridge.errors import BridgeError, UsageError

if TYPE_CHECKING:
    from bridge.domain.subscriptions import Subscription
    from bridge.wiring import Bridge

subscriptions = typer.Typer(no_args_is_help=True)

_COLUMNS = {
    "id": "id",
    "account": "account",
    "url": "url",
    "state": "state",
    "created_at": "created",
    "waiting": "waiting",
}
_Id = Annotated[str, typer.Argument(metavar="ID", help="The subscription's id (sub_…).")]


@subscriptions.command()
def add(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where callbacks go: https, and not a private address.")],
    account: Annotated[str, typer.Option(metavar="NAME", help="Whose sessions it hears of.")] = "default",
    json: Annotated[bool, typer.Option("--json", help="One JSON object: id, url and secret.")] = False,
) -> None:
    """Subscribe a URL to every change from now on. Its secret is shown this once.

    \b
    bridge subscriptions add https://example.com/sms
    """
    checked_account(account)
    with opened() as bridge:
        subscription, secret, note = bridge.subscribe(url, account)
    show({"id": subscription.id, "url": subscription.url, "secret": secret}, json=json)
    if note is not None:
        print(f"note: {note}", file=sys.stderr)
    if not json:
        print(
            "\nGive the secret to the application now: it is not shown again. With it any Standard Webhooks library "
            f"verifies callbacks.\nThen: bridge track SESSION…, and bridge subscriptions show {subscription.id}"
        )


@subscriptions.command("list")
def list_(account: Account = None, json: Json = False) -> None:
    """List subscriptions. "waiting" counts the phones with an event that is not accepted yet.

    \b
    bridge subscriptions list
    """
    with opened() as bridge:
        found = [
            one
            for one in bridge.subscriptions.load().by_id().values()
            if account is None or one.account == checked_account(account)
        ]
        waiting = bridge.queues.lengths([one.id for one in found])
    table([_about(one) | {"waiting": waiting[one.id]} for one in found], _COLUMNS, json=json)
    if not found and not json:
        print("no subscriptions: add one with `bridge subscriptions add URL`")


@subscriptions.command("show")
def show_(subscription: _Id, json: Json = False) -> None:
    """Show a subscription, how many phones wait for it, and how many dead letters it has.

    \b
    bridge subscriptions show sub_abcdefghijklmnop
    """
    with opened() as bridge:
        found = bridge.subscriptions.get(subscription)
        waiting, _ = _counts(bridge, found.id)
        tally = bridge.queues.tallies([found.id])[found.id]
    counts = {
        "waiting": waiting,
        "waiting_events": tally.waiting,
        "dead": tally.dead,
        "over_backlog": tally.over_backlog,
        "over_kept": tally.over_kept,
        "dead_dropped": tally.dead_dropped,
    }
    show(_about(found) | counts, json=json)
    if json:
        return
    if tally.dead:
        print(f"\nWhy: bridge deliveries list --state dead --subscription {found.id}")
    if tally.limited:
        print("\nToo much was waiting: events over BRIDGE_MAX_BACKLOG, or that the log no longer holds, became dead")
        print("letters; of more than 100,000 dead letters the oldest were dropped.")


@subscriptions.command()
def remove(
    subscription: _Id,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, whatever waits.")] = False,
    json: Json = False,
) -> None:
    """Remove a subscription with all that waits for it and its dead letters: none of that is sent any more.

    Asks first if there is any; where nobody can answer, --yes is needed then.

    \b
    bridge subscriptions remove sub_abcdefghijklmnop
    """
    with opened() as bridge:
        found = bridge.subscriptions.get(subscription)
        waiting, dead = _counts(bridge, found.id)
        if (waiting or dead) and not yes:
            _confirm(found, waiting, dead)
        bridge.unsubscribe(found.id)
    if json:
        show({"removed": found.id, "waiting": waiting, "dead": dead}, json=True)
    else:
        print(f"removed {found.id}")


def _confirm(subscription: Subscription, waiting: int, dead: int) -> None:
    lost = f"events wait for {waiting:,} phones, and there are {dead:,} dead letters: they would be lost"
    if not sys.stdin.isatty():
        raise UsageError(f"{subscription.id} is not removed: {lost}; give --yes if that is meant")
    if not typer.confirm(f"{subscription.id} ({subscription.url}): {lost}. Remove it?", err=True):
        raise BridgeError("nothing removed")


def _about(subscription: Subscription) -> dict[str, object]:
    return {
        "id": subscription.id,
        "account": subscription.account,
        "url": subscription.url,
        "state": subscription.state.value,
        "created_at": At(ms=subscription.created_ms),
    }


def _counts(bridge: Bridge, subscription: str) -> tuple[int, int]:
    return bridge.queues.lengths([subscription])[subscription], bridge.queues.tallies([subscription])[subscription].dead
