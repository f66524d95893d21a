"""``bridge subscriptions``: who is told of changes, and how much waits for them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.cli.common import Account, Json, checked_account, opened
from bridge.cli.limits import Concurrency, Rate, Retry, limits
from bridge.cli.output import At, show, table
from bridge.domain.durations import format_durations_ms
from bridge.domain.subscriptions import Deliver
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
    "parked": "parked",
}
_Id = Annotated[str, typer.Argument(metavar="ID", help="The subscription's id (sub_…).")]


@subscriptions.command()
def add(  # noqa: PLR0917 - a command's options; Typer calls by name
    url: Annotated[str, typer.Argument(metavar="URL", help="Where callbacks go: https, and not a private address.")],
    account: Annotated[str, typer.Option(metavar="NAME", help="Whose sessions it hears of.")] = "default",
    rate: Rate = None,
    concurrency: Concurrency = None,
    retry: Retry = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object: id, url and secret.")] = False,
) -> None:
    """Subscribe a URL to every change from now on. Its secret is shown this once.

    \b
    bridge subscriptions add https://example.com/sms
    """
    checked_account(account)
    limited = limits(rate, concurrency, retry)
    with opened() as bridge:
        subscription, secret, note = bridge.subscribe(url, account, limited)
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
    """List subscriptions. "waiting" counts the phones with an event that is not accepted yet, "parked" those of a
    subscription that is paused or disabled.

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
    table([_about(one) | _waits(one, waiting[one.id]) for one in found], _COLUMNS, json=json)
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
        waiting, dead = _counts(bridge, found.id)
        (health,) = bridge.queues.health([found.id])
        dropped = bridge.queues.dropped(found.id)
    about = {
        "reason": found.reason or None,
        "since": At(ms=found.since_ms) if found.since_ms else None,
        "rate": found.rate,
        "concurrency": found.concurrency,
        "retry": None if found.retry_ms is None else format_durations_ms(found.retry_ms),
        "failures_in_a_row": health.failures,
        "failing_since": At(ms=health.opened_ms) if health.is_open else None,
        "next_attempt_at": At(ms=health.gate_ms) if health.gate_ms else None,
    }
    show(_about(found) | about | _waits(found, waiting) | {"dead": dead, "dropped": dropped}, json=json)
    if not found.is_active and not json:
        print(f"\nTo send again: bridge subscriptions resume {found.id} --deliver all|latest|none")
    if dead and not json:
        print(f"\nWhy: bridge deliveries list --state dead --subscription {found.id}")


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


@subscriptions.command()
def pause(subscription: _Id, json: Json = False) -> None:
    """Send nothing to a subscription until it is resumed: its events are parked. Attempts under way are finished.

    \b
    bridge subscriptions pause sub_abcdefghijklmnop
    """
    from bridge.lifecycle import pause as pause_it

    with opened() as bridge:
        paused = pause_it(bridge, subscription)
    show(_about(paused), json=True) if json else print(f"paused {paused.id}")


@subscriptions.command()
def resume(
    subscription: _Id,
    deliver: Annotated[
        Deliver, typer.Option(help="What of the parked events: all, the latest of each phone and session, or none.")
    ] = Deliver.ALL,
    json: Json = False,
) -> None:
    """Send to a subscription again that was paused or disabled. The parked events' retries start anew.

    Waits for attempts that are still under way.

    \b
    bridge subscriptions resume sub_abcdefghijklmnop --deliver latest
    """
    from bridge.lifecycle import resume as resume_it

    with opened() as bridge:
        resumed, dropped = resume_it(bridge, subscription, deliver)
    if json:
        show(_about(resumed) | {"dropped": dropped}, json=True)
    else:
        print(f"resumed {resumed.id}" + (f"; {dropped:,} events dropped" if dropped else ""))


@subscriptions.command()
def edit(  # noqa: PLR0917 - a command's options; Typer calls by name
    subscription: _Id,
    url: Annotated[str | None, typer.Option(metavar="URL", help="Where callbacks go from now on.")] = None,
    rate: Rate = None,
    concurrency: Concurrency = None,
    retry: Retry = None,
    json: Json = False,
) -> None:
    """Change a subscription's URL or limits, for what waits too. Its id and secret stay.

    \b
    bridge subscriptions edit sub_abcdefghijklmnop --rate 50 --concurrency 5
    """
    if url is None and rate is None and concurrency is None and retry is None:
        raise UsageError("nothing to change: give --url, --rate, --concurrency or --retry")
    from msgspec.structs import replace

    from bridge.lifecycle import edit as edit_it

    limited = limits(rate, concurrency, retry)
    with opened() as bridge:
        edited, note = edit_it(bridge, subscription, lambda one: limited(one if url is None else replace(one, url=url)))
    show(_about(edited), json=True) if json else print(f"edited {edited.id}")
    if note is not None:
        print(f"note: {note}", file=sys.stderr)


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


def _waits(subscription: Subscription, lanes: int) -> dict[str, object]:
    return {"waiting": lanes, "parked": 0} if subscription.is_active else {"waiting": 0, "parked": lanes}


def _counts(bridge: Bridge, subscription: str) -> tuple[int, int]:
    return bridge.queues.lengths([subscription])[subscription], sum(1 for _ in bridge.queues.dead_letters(subscription))
