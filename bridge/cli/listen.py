"""``bridge listen``: an application's end of the callbacks, on a developer's own machine."""

from __future__ import annotations

import http.client
import signal
import sys
import threading
from collections.abc import Callable
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

import typer

from bridge.cli.output import local_time, printable, to_json, utc_time
from bridge.cli.receiver import Answer, Callback, Receiver, Request
from bridge.errors import UsageError

FORWARD_TIMEOUT_S = 30.0  # the longest that a callback may take
_FORWARDED = ("content-type", "user-agent")
_COLOURS = {"delivered": "green", "undelivered": "red", "failed": "red", "expired": "yellow", "no_receipt": "yellow"}


def listen(
    port: Annotated[
        int, typer.Option(metavar="P", help="Port of 127.0.0.1 to listen on; 0: a free one.", min=0, max=65535)
    ] = 9000,
    secret: Annotated[
        str | None,
        typer.Option(
            metavar="whsec_…",
            help="The subscription's secret (whsec_…). Without it everything is accepted, and shown as not verified.",
        ),
    ] = None,
    forward_to: Annotated[
        str | None,
        typer.Option(metavar="URL", help="POST what is verified on to this URL, and answer with its status."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Receive callbacks here, verify their signatures and print them, until Ctrl-C.

    A callback whose signature or timestamp is wrong is answered with 400, any other with 204. The bridge calls this
    machine only with BRIDGE_ALLOW_HTTP=yes and BRIDGE_ALLOW_NETWORKS=127.0.0.0/8.

    \b
    bridge listen --port 9000
    bridge subscriptions add http://127.0.0.1:9000/     prints the secret
    bridge listen --port 9000 --secret whsec_…
    bridge listen --secret whsec_… --forward-to http://127.0.0.1:3000/sms
    """
    lock, stopped, unread = threading.Lock(), threading.Event(), threading.Event()
    line = _json_line if json else _rich_line() if sys.stdout.isatty() else _plain_line

    def say(text: str) -> None:
        try:
            with lock:
                print(text, flush=True)
        except BrokenPipeError:  # `bridge listen | head`; the callback is answered all the same
            unread.set()
            stopped.set()

    def on_callback(callback: Callback) -> None:
        say(line(callback))

    respond = _forwarder(forward_to) if forward_to is not None else None
    signal.signal(signal.SIGTERM, lambda _number, _frame: stopped.set())
    with Receiver(secret, port=port, on_callback=on_callback, respond=respond) as receiver:
        say(to_json({"url": receiver.url}) if json else f"listening on {receiver.url}")
        stopped.wait()
    if unread.is_set():
        raise BrokenPipeError


def _forwarder(url: str) -> Callable[[Request], Answer]:
    target = urlsplit(url)
    if target.scheme not in {"http", "https"} or not target.hostname:
        raise UsageError(f"--forward-to {printable(url)}: give an http:// or https:// URL")

    def forward(request: Request) -> Answer:
        try:
            return _post(target, request)
        except (OSError, http.client.HTTPException) as error:
            print(f"cannot forward to {url}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            return Answer(status=502, body=b"the application that this is forwarded to does not answer")

    return forward


def _post(target: SplitResult, request: Request) -> Answer:
    """http.client, since it follows no redirects and asks no proxy: neither does the bridge."""
    kind = http.client.HTTPSConnection if target.scheme == "https" else http.client.HTTPConnection
    connection = kind(target.hostname or "", target.port, timeout=FORWARD_TIMEOUT_S)
    path = (target.path or "/") + (f"?{target.query}" if target.query else "")
    headers = {
        name: value for name, value in request.headers.items() if name in _FORWARDED or name.startswith("webhook-")
    }
    try:
        connection.request("POST", path, request.body, headers)
        answer = connection.getresponse()
        kind_of_body = answer.headers.get("Content-Type", "text/plain")
        return Answer(status=answer.status, body=answer.read(4096), content_type=kind_of_body)
    finally:
        connection.close()


def _json_line(callback: Callback) -> str:
    return to_json(
        {
            "received": utc_time(callback.at_ms),
            "id": callback.id,
            "verified": callback.verified,
            "problem": callback.problem or None,
            "duplicate": callback.duplicate,
            "out_of_order": callback.out_of_order,
            "event": callback.event,
        }
    )


def _plain_line(callback: Callback) -> str:
    return "  ".join((local_time(callback.at_ms), _what(callback), *_remarks(callback)))


def _rich_line() -> Callable[[Callback], str]:
    from rich.console import Console
    from rich.text import Text

    console = Console()

    def line(callback: Callback) -> str:
        data = callback.event.get("data")
        status = str(data.get("status")) if isinstance(data, dict) else ""
        text = Text.assemble(
            (f"{local_time(callback.at_ms)}  ", "dim"),
            (_what(callback), _COLOURS.get(status, "")),
            *((f"  {remark}", "green" if remark == "verified" else "bold red") for remark in _remarks(callback)),
        )
        with console.capture() as captured:
            console.print(text, end="", soft_wrap=True)
        return captured.get()

    return line


def _what(callback: Callback) -> str:
    """Such as ``(86)18500000000  unknown → delivered  #2``; for another event its type and id."""
    data = callback.event.get("data")
    if not isinstance(data, dict) or "status" not in data:
        return printable(f"{callback.event.get('type', 'a body that is no event')}  {callback.id}")
    change = f"{data.get('previous_status')} → {data['status']}"
    return printable(f"{data.get('phone')}  {change}  #{data.get('sequence')}")


def _remarks(callback: Callback) -> list[str]:
    remarks = ["verified"] if callback.verified else [f"NOT VERIFIED: {callback.problem}"]
    if callback.duplicate:
        remarks.append("duplicate")
    if callback.out_of_order:
        remarks.append("out of order")
    return remarks
