"""``bridge track``: puts sessions on the broker as any sender does, from arguments or from a file."""

from __future__ import annotations

import json as stdlib_json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from bridge.cli.common import checked_account
from bridge.cli.output import progress, show
from bridge.domain.tracking import MAX_ITEMS, parse_item
from bridge.errors import BrokerUnreachable, InvalidSession, UsageError

_Item = str | dict[str, object]


def track(  # noqa: PLR0917 - Typer calls it, by name
    sessions: Annotated[
        list[str] | None,
        typer.Argument(metavar="SESSION", show_default=False, help="SessionNos as the provider returned them."),
    ] = None,
    phone_count: Annotated[
        int | None,
        typer.Option(metavar="N", help="How many phones each session was sent to: tells when it is complete."),
    ] = None,
    metadata: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="A JSON object that comes back in every event of these sessions."),
    ] = None,
    callback_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Tell of these sessions here too; signed with `bridge accounts secret`."),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            metavar="F",
            help="A file (-: standard input) with a SessionNo or an item in JSON a line. The options above go for "
            "lines that are a SessionNo.",
        ),
    ] = None,
    account: Annotated[str, typer.Option(metavar="NAME", help="The account that sent them.")] = "default",
    json: Annotated[bool, typer.Option("--json", help="One JSON object, with the messages' ids.")] = False,
) -> None:
    """Track sessions: a worker stores them, and polls for their receipts from then on.

    All is checked before anything is sent. Tracking a session twice is no error and no second event.

    \b
    bridge track nAQDODtO xBBDODtP
    bridge track nAQDODtO --phone-count 2 --metadata '{"order": 7}'
    bridge track --file sessions.jsonl

    \b
    Lines of such a file:
    nAQDODtO
    {"session_no": "xBBDODtP", "phones": ["(86)18500000000"], "sent_at": 1795423107}
    """
    checked_account(account)
    options = _options(phone_count, metadata, callback_url)
    items = [_checked(session, options, f"session {place}") for place, session in enumerate(sessions or (), 1)]
    if file is not None:
        items += _items_of(file, options)
    if not items:
        raise UsageError("no sessions: give SessionNos, or a file of them with --file")
    messages = _send(items, account)
    if json:
        show({"enqueued": len(items), "messages": messages}, json=True)
        return
    parts = f" in {len(messages):,} messages" if len(messages) > 1 else ""
    print(f"{len(items):,} {'session' if len(items) == 1 else 'sessions'} enqueued{parts}")


def _options(phone_count: int | None, metadata: str | None, callback_url: str | None) -> dict[str, object]:
    """What the options say of a session, checked once and by their own names."""
    options: dict[str, object] = {}
    if phone_count is not None:
        options["phone_count"] = phone_count
    if metadata is not None:
        try:
            options["metadata"] = stdlib_json.loads(metadata)
        except ValueError as error:
            raise UsageError(f"--metadata is not JSON ({error}): give an object such as '{{\"order\": 7}}'") from None
    if callback_url is not None:
        options["callback_url"] = _callable(callback_url)
    try:
        parse_item({"session_no": "S", **options}, 0)
    except InvalidSession as wrong:
        raise UsageError(f"--{_reason(wrong).replace('_', '-', 1)}") from None
    return options


def _callable(url: str) -> str:
    """The URL, if callbacks may go there: a worker would refuse the sessions otherwise, with nobody looking."""
    from bridge.delivery.guard import parse_url
    from bridge.settings import load_settings
    from bridge.wiring import url_policy

    return parse_url(url, url_policy(load_settings())).url


def _items_of(file: str, options: dict[str, object]) -> list[_Item]:
    name = "standard input" if file == "-" else file
    found = []
    for number, line in enumerate(_lines(file), 1):
        where = f"{name}, line {number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError:
            raise UsageError(f"{where}: is not UTF-8") from None
        if not text:
            continue
        if not text.startswith(("{", "[", '"')):
            found.append(_checked(text, options, where))
            continue
        try:
            item = stdlib_json.loads(text)
        except (ValueError, RecursionError):
            raise UsageError(f"{where}: is neither a SessionNo nor JSON") from None
        found.append(_checked(item, options, where))
    return found


def _lines(file: str) -> Iterator[bytes]:
    try:
        if file == "-":
            yield from sys.stdin.buffer
            return
        with Path(file).open("rb") as opened:
            yield from opened
    except OSError as error:
        raise UsageError(f"--file {file}: cannot be read ({error.strerror})") from None


def _checked(item: _Item, options: dict[str, object], where: str) -> _Item:
    try:
        parse_item(item, 0)
    except InvalidSession as wrong:
        raise UsageError(f"{where}: {_reason(wrong)}") from None
    return {"session_no": item, **options} if options and isinstance(item, str) else item


def _reason(wrong: InvalidSession) -> str:
    return str(wrong).partition(": ")[2]


def _send(items: Sequence[_Item], account: str) -> list[str]:
    from bridge.sender import track as enqueue
    from bridge.servers import broker_url
    from bridge.settings import load_settings

    url = broker_url(load_settings())
    messages: list[str] = []
    with progress("enqueuing", len(items)) as advance:
        for start in range(0, len(items), MAX_ITEMS):
            chunk = list(items[start : start + MAX_ITEMS])
            try:
                messages.append(enqueue(chunk, account, broker_url=url))
            except BrokerUnreachable as error:
                if not start:
                    raise
                raise BrokerUnreachable(
                    f"{error}; the first {start:,} of {len(items):,} sessions are enqueued, and may be given again"
                ) from None
            advance(len(chunk))
    return messages
