"""``bridge accounts``: the provider's credential sets, and what belongs to each as a whole."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from bridge.cli.common import Json, audited, checked_account, moment, opened, wide_table
from bridge.cli.limits import read_own
from bridge.cli.output import progress, show, table
from bridge.cli.secret_files import read_file
from bridge.domain.accounts import DEFAULT_ACCOUNT, Account, shown_key
from bridge.domain.signing import encode_secret
from bridge.errors import NotFound, UsageError

if TYPE_CHECKING:
    from bridge.setting_forms import Form
    from bridge.wiring import Bridge

accounts = typer.Typer(no_args_is_help=True)

_COLUMNS = {
    "account": "account",
    "public_key": "public key",
    "project_id": "project",
    "provider_url": "provider",
    "rate": "calls/s",
    "sessions": "open sessions",
    "subscriptions": "subscriptions",
    "state": "state",
}
_CHECKED = {"account": "account", "result": "result", "detail": "what was said", "action": "what to do"}

_Name = Annotated[str, typer.Argument(metavar="NAME", help="The account: 1 to 32 of a-z, 0-9, _ and -.")]
_PublicKey = Annotated[str | None, typer.Option(metavar="K", help="The provider's public key.")]
_PrivateKeyFile = Annotated[
    str | None,
    typer.Option(metavar="F|-", help="A file with the private key; - is standard input. Default: asked for."),
]
_ProjectId = Annotated[str | None, typer.Option(metavar="P", help="The project; sub-accounts must name one.")]
_Region = Annotated[str | None, typer.Option(metavar="R", help="The region; sent only where given.")]
_ProviderUrl = Annotated[
    str | None, typer.Option(metavar="U", help="The provider's API; default: BRIDGE_PROVIDER_URL.")
]
_Rate = Annotated[str | None, typer.Option(metavar="N", help="Calls a second; default: BRIDGE_PROVIDER_RATE.")]


@accounts.command()
def add(
    name: _Name,
    *,
    public_key: _PublicKey = None,
    private_key_file: _PrivateKeyFile = None,
    project_id: _ProjectId = None,
    region: _Region = None,
    provider_url: _ProviderUrl = None,
    rate: _Rate = None,
    json: Json = False,
) -> None:
    """Add a credential set. Its sessions, subscriptions, events, rate and pauses are its own.

    The private key is stored encrypted (BRIDGE_SECRET_KEYS). Workers that run take the account up by themselves; what
    was tracked for it before is polled from now on.

    \b
    bridge accounts add shop --public-key K --private-key-file shop.key
    """
    _own(name)
    if public_key is None:
        raise UsageError("--public-key: give the one that the provider's console shows")
    given = _given(public_key, project_id, region, provider_url, rate)
    private_key = _private_key(private_key_file, name)
    with opened() as bridge:
        now_ms = bridge.clock.now_ms()
        sealed = bridge.providers.keys.seal(name, private_key)
        account = Account(name=name, public_key="", private_key=sealed, created_ms=now_ms, changed_ms=now_ms)
        with audited(bridge, "accounts add", name):
            if not bridge.accounts.add(_changed(account, given)):
                raise UsageError(f"there is an account {name} already: change it with `bridge accounts edit {name}`")
        _poll_at_once(bridge, name)
    show({"added": name}, json=json) if json else print(f"added {name}; `bridge accounts check {name}` makes a call")


@accounts.command()
def edit(
    name: _Name,
    *,
    public_key: _PublicKey = None,
    private_key_file: Annotated[
        str | None, typer.Option(metavar="F|-", help="A file with the new private key; - is standard input.")
    ] = None,
    project_id: _ProjectId = None,
    region: _Region = None,
    provider_url: _ProviderUrl = None,
    rate: _Rate = None,
    json: Json = False,
) -> None:
    """Change what is given of a credential set; "default" takes a project, region, URL or rate of its own away.

    Workers that run take it up within seconds: no process need be restarted, and no session is lost meanwhile.

    \b
    bridge accounts edit shop --public-key K2 --private-key-file new.key
    bridge accounts edit shop --rate default
    """
    _own(name)
    given = _given(public_key, project_id, region, provider_url, rate)
    if private_key_file is not None:
        given["private_key"] = _private_key(private_key_file, name)
    if not given:
        raise UsageError("nothing to change: give an option, such as --public-key with --private-key-file")
    with opened() as bridge:
        if "private_key" in given:
            given["private_key"] = bridge.providers.keys.seal(name, str(given["private_key"]))
        given["changed_ms"] = bridge.clock.now_ms()
        with audited(bridge, "accounts edit", name, {"changed": sorted(given.keys() - {"changed_ms"})}):
            bridge.accounts.update(name, lambda one: _changed(one, given))
        _poll_at_once(bridge, name)
    show({"changed": name}, json=json) if json else print(f"changed {name}; workers take it up within seconds")


@accounts.command("list")
def list_(json: Json = False) -> None:
    """List accounts: those with credentials, and those that only track so far. "pushes" are in the JSON.

    \b
    bridge accounts list
    """
    from bridge.accounts import account_names

    with opened() as bridge:
        stored = {one.name: one for one in bridge.accounts.all()}
        registry = bridge.subscriptions.load()
        rows = [
            _row(bridge, name, stored.get(name)) | {"subscriptions": len(registry.of(name))}
            for name in account_names(bridge)
        ]
    wide_table(rows, _COLUMNS, json=json)


@accounts.command()
def check(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Default: every account.")] = None,
    json: Json = False,
) -> None:
    """Make one harmless call with an account's credentials, and say what is wrong with them and what to do.

    Exit codes: 0 the provider takes them, 1 it refuses or throttles one, 3 it cannot be reached.

    \b
    bridge accounts check shop
    """
    from bridge.accounts import Class, account_names
    from bridge.accounts import check as try_out

    if name is not None:
        checked_account(name)
    with opened() as bridge, progress("calling the provider") as advance:
        names = account_names(bridge) if name is None else [name]
        found = []
        for one in names:
            found.append(try_out(bridge, one))
            advance(1)
    rows = [
        {"account": one.account, "result": one.result.value, "detail": one.detail, "action": one.action or None}
        for one in found
    ]
    if json:
        table(rows, _CHECKED, json=True)
    else:
        for place, row in enumerate(rows):
            if place:
                print()
            show(row, json=False)
    results = {one.result for one in found}
    if results - {Class.OK}:
        raise typer.Exit(3 if results <= {Class.OK, Class.UNREACHABLE} else 1)


@accounts.command()
def secret(
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account.")] = DEFAULT_ACCOUNT,
    *,
    push: Annotated[bool, typer.Option("--push", help="Show the URL for the provider's own push instead.")] = False,
    rotate: Annotated[bool, typer.Option("--rotate", help="With --push: another URL; this one is refused.")] = False,
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="With --push: where `bridge web` is reached from outside.")
    ] = None,
    json: Json = False,
) -> None:
    """Show the secret that signs callbacks to URLs which sessions name by themselves (callback_url).

    It is made when it is first asked for; every such URL of the account is signed with it. With --push, the URL to give
    to the provider as its push address: what it pushes there is a hint that makes the sessions it names be polled at
    once. Who has that URL can make the bridge poll sooner, and nothing else.

    \b
    bridge accounts secret
    bridge accounts secret shop --push --base-url https://bridge.example.com
    """
    from bridge.accounts import account_names

    checked_account(account)
    if (rotate or base_url) and not push:
        raise UsageError("--rotate and --base-url: they go with --push")
    with opened() as bridge:
        if account not in account_names(bridge):
            raise NotFound(f"no account {account}: `bridge accounts add {account}` adds it")
        with audited(bridge, "accounts secret", account, {"push": True, "rotate": rotate} if push else None):
            pass
        if not push:
            shown = encode_secret(bridge.signing_keys.of_account(account))
            show({"account": account, "callback_secret": shown}, json=json)
            return
        base = _base_url(bridge, base_url)
        token = bridge.push_tokens.rotate(account) if rotate else bridge.push_tokens.show(account)
        counts = _pushes(bridge, account)
    show({"account": account, "push_url": f"{base}/v1/provider/usms/{account}/{token}", **counts}, json=json)
    if base_url is None and not json:
        print("\nThat is where `bridge web` listens: give --base-url if the provider reaches it by another name.")


@accounts.command()
def remove(
    name: _Name,
    *,
    force: Annotated[bool, typer.Option("--force", help="Drop what is not settled or not delivered yet.")] = False,
    json: Json = False,
) -> None:
    """Remove an account with all that is its own: credentials, sessions, subscriptions, events, dead letters.

    Refused while sessions are not settled or events wait to be delivered, unless --force drops them. What was dropped
    is counted.

    \b
    bridge accounts remove shop
    """
    import msgspec

    from bridge.accounts import belongings
    from bridge.accounts import remove as take_away

    _own(name)
    with opened() as bridge, progress("removing sessions") as advance:
        lost = msgspec.structs.asdict(belongings(bridge, name))
        with audited(bridge, "accounts remove", name, {**lost, "force": force}):
            had = take_away(bridge, name, force=force, advance=advance)
    if json:
        show({"removed": name, **msgspec.structs.asdict(had)}, json=True)
        return
    print(
        f"removed {name}, and with it {had.unsettled:,} sessions that were not settled and {had.settled:,} that were, "
        f"{had.subscriptions:,} subscriptions with {had.waiting:,} events waiting and {had.dead:,} dead letters, and "
        f"{had.events:,} events of the log"
    )


def _own(name: str) -> None:
    """Raises UsageError for what is no account's name, and for default."""
    checked_account(name)
    if name == DEFAULT_ACCOUNT:
        raise UsageError(
            "default: its credentials are BRIDGE_PUBLIC_KEY and BRIDGE_PRIVATE_KEY in the environment of the processes"
        )


def _given(
    public_key: str | None, project_id: str | None, region: str | None, provider_url: str | None, rate: str | None
) -> dict[str, object]:
    """What was given, by the account's fields. Raises UsageError, naming the option."""
    from bridge.setting_forms import fraction, http_api, text

    given: dict[str, object] = {}
    if public_key is not None:
        given["public_key"] = _key("--public-key", public_key)
    for field, option, value, form in (
        ("project_id", "--project-id", project_id, text()),
        ("region", "--region", region, text()),
        ("provider_url", "--provider-url", provider_url, http_api()),
    ):
        if value is not None:
            given[field] = read_own(option, value, form) or ""
    if rate is not None:
        given["rate"] = read_own("--rate", rate, fraction("0.01", "1000", "calls a second"))
    return given


def _key(option: str, given: str) -> str:
    from bridge.setting_forms import secret_text

    form: Form = secret_text()
    key = given.strip()
    try:
        form.read(key)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None
    if not key:
        raise UsageError(f"{option}: it is empty")
    return key


def _private_key(path: str | None, name: str) -> str:
    """The private key, of a file, of standard input, or as it is typed: never of the command line, which `ps` shows."""
    if path is None:
        if not sys.stdin.isatty():
            raise UsageError("--private-key-file: give a file, or - for standard input; here is nobody to ask")
        return _key("the private key", str(typer.prompt(f"Private key of {name}", hide_input=True)))
    try:
        return _key("--private-key-file", read_file("--private-key-file", path).decode())
    except UnicodeError:
        raise UsageError("--private-key-file: this is no text") from None


def _changed(account: Account, given: dict[str, object]) -> Account:
    import msgspec

    return msgspec.structs.replace(account, **given)


def _poll_at_once(bridge: Bridge, account: str) -> None:
    """What it was paused for may be over."""
    bridge.rate.resume(account)
    bridge.wakes.drop(f"poll:{account}")


def _row(bridge: Bridge, name: str, account: Account | None) -> dict[str, object]:
    settings = bridge.settings
    left_ms, failures, reason = bridge.rate.paused(name)
    state = f"paused: {reason}" if left_ms or failures else "ok"
    row: dict[str, object] = {
        "account": name,
        "public_key": None,
        "project_id": None,
        "region": None,
        "provider_url": bridge.providers.url(name),
        "rate": bridge.providers.rate(name),
        "sessions": bridge.sessions.unsettled(name),
        "state": state,
        "changed_at": None,
        "pushes": _pushes(bridge, name),
    }
    if account is not None:
        row |= {
            "public_key": shown_key(account.public_key),
            "project_id": account.project_id or None,
            "region": account.region or None,
            "changed_at": moment(account.changed_ms),
        }
    elif name == DEFAULT_ACCOUNT and settings.public_key is not None:
        row |= {
            "public_key": shown_key(settings.public_key.get_secret_value()),
            "project_id": settings.project_id,
            "region": settings.region,
        }
    else:
        row["state"] = "no credentials"
    return row


def _pushes(bridge: Bridge, account: str) -> dict[str, object]:
    counted = bridge.pushes.counts(account)
    return {
        "pushes": counted.pushes,
        "hinted": counted.hinted,
        "unknown": counted.unknown,
        "last_push_at": moment(counted.at_ms),
    }


def _base_url(bridge: Bridge, given: str | None) -> str:
    if given is None:
        host, port = bridge.settings.listen_address
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"
    parts = urlsplit(given)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise UsageError("--base-url: give one such as https://bridge.example.com")
    return given.rstrip("/")
