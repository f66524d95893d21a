"""``bridge doctor``: looks at all that a running bridge needs, and says what to do about what it lacks."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Annotated

import typer

from bridge.cli.doctor_checks import BRIDGE_CHECKS
from bridge.cli.doctor_findings import Finding, Verdict, fail, ok
from bridge.cli.doctor_polling import POLLING_CHECKS
from bridge.cli.doctor_servers import broker_findings, read_server, tracking_durable
from bridge.cli.doctor_topology import store_findings
from bridge.cli.output import printable, to_json
from bridge.errors import BridgeError, SettingsError, Unreachable
from bridge.settings import Settings, load_settings, read_environ, unknown_settings

_COLOURS = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}
_NAME_WIDTH = 15
_TIMEOUT_S = 4.0


def doctor(json: Annotated[bool, typer.Option("--json", help="JSON: one check a line.")] = False) -> None:
    """Check settings, store, broker, provider, workers and subscriptions, and say what to do.

    The provider is asked once, for a session that does not exist. Exit codes: 0 nothing failed, 1 something did,
    2 settings are wrong, 3 store or broker not reachable.

    \b
    bridge doctor
    bridge doctor --json | grep '"verdict":"fail"'
    """
    code = 0
    counts = dict.fromkeys(Verdict, 0)
    say = _json_printer() if json else _printer()
    for finding, its_code in _findings():
        say(finding)
        counts[finding.verdict] += 1
        code = max(code, its_code)
    if not json:
        print(f"\n{counts[Verdict.OK]} ok, {counts[Verdict.WARN]} to look at, {counts[Verdict.FAIL]} failed")
    raise typer.Exit(code)


def _findings() -> Iterator[tuple[Finding, int]]:
    """Each finding with the exit code that it asks for, as soon as it is known."""
    try:
        environ = read_environ()
        settings = load_settings()
    except SettingsError as error:
        for mistake in str(error).splitlines():
            yield fail("settings", mistake), 2
        return
    yield from _judged("settings", _unknown(environ))
    store = list(_judged("store", _server(settings)))
    yield from store
    yield from _judged("broker", _broker(settings))
    if any(code == Unreachable.exit_code for _, code in store):
        return
    from bridge.wiring import Bridge

    try:
        bridge = Bridge(settings)
    except BridgeError as error:
        yield fail("schema", str(error)), _code(error)
        return
    with closing(bridge):
        for name, check in (BRIDGE_CHECKS | POLLING_CHECKS).items():
            yield from _judged(name, check(bridge))


def _judged(name: str, findings: Iterator[Finding]) -> Iterator[tuple[Finding, int]]:
    """A check's findings with their exit codes; an error that ends it is one too."""
    try:
        for finding in findings:
            yield finding, int(finding.verdict is Verdict.FAIL)
    except BridgeError as error:
        yield fail(name, str(error)), _code(error)


def _code(error: BridgeError) -> int:
    return Unreachable.exit_code if isinstance(error, Unreachable) else 1


def _unknown(environ: dict[str, str]) -> Iterator[Finding]:
    unknown = unknown_settings(environ)
    for name, near in unknown:
        yield fail("settings", f"{name} is no setting", f"rename it to {near}, or remove it" if near else "remove it")
    if not unknown:
        yield ok("settings", "all are understood")


def _server(settings: Settings) -> Iterator[Finding]:
    from bridge.servers import store_url
    from bridge.store.client import Client

    url = store_url(settings)
    with closing(Client(url, timeout_s=_TIMEOUT_S)) as client:
        yield from store_findings(client, url)
        if settings.track_durable:
            for node in client.nodes():
                yield from tracking_durable(read_server(client, node, node.name))


def _broker(settings: Settings) -> Iterator[Finding]:
    from bridge.domain.server_urls import broker_address, safe_url, store_url
    from bridge.reachability import readiness_checks
    from bridge.servers import broker_url
    from bridge.store.client import Client

    url = broker_url(settings)
    readiness_checks(settings)["broker"]()
    yield ok("broker", f"{safe_url(url)} answers" + ("" if settings.broker_url else " (the store's server)"))
    if settings.broker_url and broker_address(url).is_redis and not url.startswith("sentinel"):
        with closing(Client(store_url(url), timeout_s=_TIMEOUT_S)) as client:
            (node,) = client.nodes()
            yield from broker_findings(read_server(client, node, safe_url(url)))


def _json_printer() -> Callable[[Finding], None]:
    def say(finding: Finding) -> None:
        print(to_json(finding), flush=True)

    return say


def _printer() -> Callable[[Finding], None]:
    """Prints a finding as it comes: a check may take as long as the provider's time-out."""
    if not sys.stdout.isatty():
        return lambda finding: print("\n".join(_lines(finding, None)), flush=True)
    from rich.console import Console
    from rich.text import Text

    console = Console()
    width = shutil.get_terminal_size().columns

    def say(finding: Finding) -> None:
        verdict = finding.verdict.value
        text = "\n".join(_lines(finding, width)).removeprefix(verdict)
        console.print(Text.assemble((verdict, _COLOURS[finding.verdict]), text), soft_wrap=True)

    return say


def _lines(finding: Finding, width: int | None) -> Iterator[str]:
    """The verdict, the check and what it found; beneath, what to do. Lines are folded to ``width``."""
    margin = 6 + _NAME_WIDTH
    room = None if width is None else max(20, width - margin)
    head = f"{finding.verdict.value:<6}{finding.check:<{_NAME_WIDTH}}"
    for text in (finding.detail, f"→ {finding.action}" if finding.action else ""):
        for line in textwrap.wrap(printable(text), room) if room else [printable(text)] if text else []:
            yield (head + line).rstrip()
            head = " " * margin
