"""``bridge subscriptions``: who is told of changes, and how much waits for them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.cli.common import Account, Json, audited, checked_account, known, opened, since_ms
from bridge.cli.limits import Concurrency, MaxBatch, Partitions, Rate, Retry, limits
from bridge.cli.output import At, progress, show, table
from bridge.cli.secret_files import SecretFile, parse_overlap_ms, read_identity, read_secret
from bridge.cli.subscription_rows import about, condition, tallied, waits
from bridge.domain.durations import format_duration_ms
from bridge.domain.events import STATUS_CHANGED, iso_millis
from bridge.domain.headers import parse_headers
from bridge.domain.subscriptions import (
    BodyFormat,
    Changes,
    Deliver,
    Options,
    PhoneFormat,
    Subscription,
    SubscriptionState,
    parse_statuses,
    parse_types,
)
from bridge.errors import BridgeError, UsageError

if TYPE_CHECKING:
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
Types = Annotated[str, typer.Option(metavar="TYPE,…", help="Of which types of events it hears.")]
Statuses = Annotated[
    str | None, typer.Option(metavar="STATUS,…", help="Of which statuses of a phone it hears. Default: all.")
]
Phones = Annotated[PhoneFormat, typer.Option(help="Phones in full, as (86)*******0000, or as a keyed hash.")]
Body = Annotated[
    BodyFormat, typer.Option("--format", help="Events of the bridge, or what the provider itself would push.")
]
Headers = Annotated[
    list[str] | None, typer.Option(metavar="NAME=VALUE", help="A header to send along; may be given again.")
]
ClientCert = Annotated[
    str | None, typer.Option(metavar="F", help="A certificate (PEM, with its chain) to show the receiver.")
]
ClientKey = Annotated[str | None, typer.Option(metavar="F", help="Its private key (PEM).")]
CaFile = Annotated[
    str | None, typer.Option(metavar="F", help="Authorities (PEM) to trust here, in place of the public ones.")
]
Since = Annotated[
    str | None, typer.Option(metavar="T", help="And to what was recorded since: 2h (ago), ISO 8601, Unix seconds.")
]
_Id = Annotated[str, typer.Argument(metavar="ID", help="The subscription's id (sub_…).")]


@subscriptions.command()
def add(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where callbacks go: https, and not a private address.")],
    *,
    account: Annotated[str, typer.Option(metavar="NAME", help="Whose sessions it hears of.")] = "default",
    types: Types = STATUS_CHANGED,
    statuses: Statuses = None,
    phone_format: Phones = PhoneFormat.FULL,
    body_format: Body = BodyFormat.STANDARD,
    header: Headers = None,
    secret_file: SecretFile = None,
    client_cert: ClientCert = None,
    client_key: ClientKey = None,
    ca_file: CaFile = None,
    rate: Rate = None,
    concurrency: Concurrency = None,
    retry: Retry = None,
    max_batch: MaxBatch = None,
    partitions: Partitions = None,
    since: Since = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object: id, url and secret.")] = False,
) -> None:
    """Subscribe a URL to every change from now on. Its secret is shown this once.

    With --since it hears of what the log has since then too, each event once and a phone's in order. If that is cut
    short the subscription is "filling": `bridge subscriptions resume` goes on, `remove` takes it back.

    \b
    bridge subscriptions add https://example.com/sms
    bridge subscriptions add https://example.com/failed --statuses undelivered,expired,failed --since 2h
    """
    checked_account(account)
    options = Options(
        types=parse_types(types),
        statuses=() if statuses is None else parse_statuses(statuses),
        phones=phone_format,
        format=body_format,
        headers=parse_headers(header or ()),
        secret=read_secret(secret_file),
        identity=read_identity(client_cert, client_key, ca_file),
    )
    limited = limits(rate, concurrency, retry, max_batch, partitions)
    with opened() as bridge, audited(bridge, "subscriptions add", details={"account": account}) as noted:
        if since is not None:
            from_ms = since_ms(since, bridge.clock.now_ms())
            noted.details["since"] = iso_millis(from_ms)
            limited = _to_be_filled(bridge, account, from_ms, limited)
        subscription, secret, note = bridge.subscribe(url, account, options, limited)
        noted.target = subscription.id
        _show_added(subscription, secret, bridge.signing_keys.of(subscription).phone_key.hex(), json=json)
        if note is not None:
            print(f"note: {note}", file=sys.stderr)
        if since is not None:
            _fill(bridge, subscription.id)


def _to_be_filled(
    bridge: Bridge, account: str, from_ms: int, limited: Callable[[Subscription], Subscription]
) -> Callable[[Subscription], Subscription]:
    from bridge.lifecycle import to_be_filled

    filling = to_be_filled(bridge, account, from_ms)
    return lambda one: filling(limited(one))


def _fill(bridge: Bridge, subscription: str) -> None:
    from bridge.lifecycle import resume as resume_it

    sys.stdout.flush()  # whatever may come now, the secret was shown
    with progress("filling") as advance:
        resume_it(bridge, subscription, Deliver.ALL, advance)


def _show_added(subscription: Subscription, secret: str, phone_key: str, *, json: bool) -> None:
    shown = {"id": subscription.id, "url": subscription.url, "secret": secret}
    show(shown | ({"phone_key": phone_key} if phone_key else {}), json=json)
    if json:
        return
    print(
        "\nGive the secret to the application now: it is not shown again. With it any Standard Webhooks library "
        "verifies callbacks."
    )
    if phone_key:
        print("So with the phone key: with it the application knows a phone by its hash.")
    print(f"Then: bridge track SESSION…, and bridge subscriptions show {subscription.id}")


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
    table([about(one) | waits(one, waiting[one.id]) for one in found], _COLUMNS, json=json)
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
        # Of its parts the worst.
        health = max(bridge.queues.health(bridge.parts_of(found)), key=lambda one: (one.opened_ms > 0, one.failures))
        dropped = bridge.queues.dropped(found.id)
    show(about(found) | condition(found, health) | waits(found, waiting) | tallied(tally, dropped), json=json)
    if json:
        return
    if found.state is SubscriptionState.FILLING:
        print(f"\nIt is being filled. If that was cut short: bridge subscriptions resume {found.id}")
    elif not found.is_active:
        print(f"\nTo send again: bridge subscriptions resume {found.id} --deliver all|latest|none")
    if tally.dead:
        print(f"\nWhy: bridge deliveries list --state dead --subscription {found.id}")
    if tally.limited:
        print("\nToo much was waiting: events over BRIDGE_MAX_BACKLOG, or that the log no longer holds, became dead")
        print("letters; of more than 100,000 dead letters the oldest were dropped.")


@subscriptions.command()
def rotate(
    subscription: _Id,
    overlap: Annotated[
        str, typer.Option(metavar="TIME", help="How long the old secret signs beside the new one: 0s to 7d.")
    ] = "24h",
    secret_file: SecretFile = None,
    json: Json = False,
) -> None:
    """Give a subscription a new secret, shown this once. Within the overlap a receiver may verify with either.

    Where the old one leaked, take --overlap 0s. At most two old secrets go on signing.

    \b
    bridge subscriptions rotate sub_abcdefghijklmnop
    bridge subscriptions rotate sub_abcdefghijklmnop --overlap 0s
    """
    overlap_ms = parse_overlap_ms(overlap)
    with opened() as bridge:
        key, old_signs = read_secret(secret_file), format_duration_ms(overlap_ms)
        with audited(bridge, "subscriptions rotate", known(bridge, subscription), {"overlap": old_signs}):
            rotated, secret = bridge.rotate(subscription, overlap_ms, key)
    until = [At(ms=one.until_ms) for one in rotated.retired]
    show({"id": rotated.id, "secret": secret, "old_secrets_sign_until": until}, json=json)


@subscriptions.command("test")
def send_test(subscription: _Id, json: Json = False) -> None:
    """Send a bridge.test event to a subscription, whatever types it asked for: queued, signed and retried as any.

    \b
    bridge subscriptions test sub_abcdefghijklmnop
    bridge deliveries list --subscription sub_abcdefghijklmnop      empty once it was accepted
    """
    with opened() as bridge, audited(bridge, "subscriptions test", known(bridge, subscription)) as noted:
        event = bridge.test(subscription)
        noted.details["event"] = event
    if json:
        show({"event": event}, json=True)
    else:
        print(f"queued {event}: a worker sends it within a second or two")
        print(f"Not accepted yet, and why: bridge deliveries list --subscription {subscription}")


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
        tally = bridge.queues.tallies([found.id])[found.id]
        lost = {"dropped": tally.waiting, "dead_letters_dropped": tally.dead}
        with audited(bridge, "subscriptions remove", found.id, lost):
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

    with opened() as bridge, audited(bridge, "subscriptions pause", known(bridge, subscription)):
        paused = pause_it(bridge, subscription)
    show(about(paused), json=True) if json else print(f"paused {paused.id}")


@subscriptions.command()
def resume(
    subscription: _Id,
    deliver: Annotated[
        Deliver, typer.Option(help="What of the parked events: all, the latest of each phone and session, or none.")
    ] = Deliver.ALL,
    json: Json = False,
) -> None:
    """Send to a subscription again that was paused or disabled. The parked events' retries start anew.

    One that is "filling", because `add --since` was cut short, is filled to the end first; with --deliver none it is
    given nothing of the past. Waits for attempts that are still under way.

    \b
    bridge subscriptions resume sub_abcdefghijklmnop --deliver latest
    """
    from bridge.lifecycle import resume as resume_it

    with opened() as bridge:
        name = known(bridge, subscription)
        is_filling = bridge.subscriptions.get(name).state is SubscriptionState.FILLING
        with audited(bridge, "subscriptions resume", name, {"deliver": deliver.value}) as noted:
            with progress("filling" if is_filling else "resuming") as advance:
                resumed, dropped = resume_it(bridge, name, deliver, advance)
            noted.details["dropped"] = dropped
    if json:
        show(about(resumed) | {"dropped": dropped}, json=True)
    else:
        print(f"resumed {resumed.id}" + (f"; {dropped:,} events dropped" if dropped else ""))


@subscriptions.command()
def edit(
    subscription: _Id,
    *,
    url: Annotated[str | None, typer.Option(metavar="URL", help="Where callbacks go from now on.")] = None,
    types: Annotated[
        str | None, typer.Option(metavar="TYPE,…", help="Of which types of events it hears from now on.")
    ] = None,
    statuses: Annotated[
        str | None, typer.Option(metavar="STATUS,…", help="Of which statuses it hears from now on; or default: all.")
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A header to send along, in place of what it had of that name."),
    ] = None,
    drop_header: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A header to send no more; may be given again.")
    ] = None,
    client_cert: ClientCert = None,
    client_key: ClientKey = None,
    ca_file: CaFile = None,
    drop_identity: Annotated[
        bool, typer.Option("--drop-identity", help="Show no certificate, and trust the public authorities again.")
    ] = False,
    rate: Rate = None,
    concurrency: Concurrency = None,
    retry: Retry = None,
    max_batch: MaxBatch = None,
    partitions: Partitions = None,
    json: Json = False,
) -> None:
    """Change what a subscription hears of, where and how it is told, for what waits too. Its id and secret stay.

    What it hears of goes by what happens from now on. With another URL, header or certificate, what is being retried
    is tried at once. A client certificate is given with its key; authorities stay as
    they were beside it, and it beside them.

    \b
    bridge subscriptions edit sub_abcdefghijklmnop --rate 50 --concurrency 5
    bridge subscriptions edit sub_abcdefghijklmnop --header "Authorization=Bearer …" --statuses failed,expired
    """
    given = {
        "url": url,
        "types": types,
        "statuses": statuses,
        "headers": header or drop_header,
        "identity": client_cert or client_key or ca_file or drop_identity or None,
        "rate": rate,
        "concurrency": concurrency,
        "retry": retry,
        "max_batch": max_batch,
        "partitions": partitions,
    }
    # Not the values: a URL or a header may hold a token.
    changed = [name for name, value in given.items() if value is not None]
    if not changed:
        raise UsageError("nothing to change: give some of its options; `bridge subscriptions edit --help` lists them")
    from bridge.lifecycle import edit as edit_it

    limited = limits(rate, concurrency, retry, max_batch, partitions)
    changes = Changes(
        types=None if types is None else parse_types(types),
        statuses=() if statuses == "default" else None if statuses is None else parse_statuses(statuses),
        headers=parse_headers(header or ()),
        drop_headers=tuple(drop_header or ()),
        identity=read_identity(client_cert, client_key, ca_file),
        drop_identity=drop_identity,
    )
    with opened() as bridge, audited(bridge, "subscriptions edit", known(bridge, subscription), {"changed": changed}):
        edited, note = edit_it(bridge, subscription, limited, url=url, changes=changes)
    show(about(edited), json=True) if json else print(f"edited {edited.id}")
    if note is not None:
        print(f"note: {note}", file=sys.stderr)


def _confirm(subscription: Subscription, waiting: int, dead: int) -> None:
    lost = f"events wait for {waiting:,} phones, and there are {dead:,} dead letters: they would be lost"
    if not sys.stdin.isatty():
        raise UsageError(f"{subscription.id} is not removed: {lost}; give --yes if that is meant")
    if not typer.confirm(f"{subscription.id} ({subscription.url}): {lost}. Remove it?", err=True):
        raise BridgeError("nothing removed")


def _counts(bridge: Bridge, subscription: str) -> tuple[int, int]:
    return bridge.queues.lengths([subscription])[subscription], bridge.queues.tallies([subscription])[subscription].dead
