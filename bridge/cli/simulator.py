"""``bridge simulator``: a USMS that runs here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bridge.errors import SettingsError

HOST = "127.0.0.1"


def simulator(
    port: Annotated[
        int, typer.Option(metavar="P", help="Port of 127.0.0.1 to listen on; 0: a free one.", min=0, max=65535)
    ] = 8800,
    scenario: Annotated[
        Path | None,
        typer.Option(metavar="F", help="What phones and faults do: a YAML or JSON file. Without: all are delivered."),
    ] = None,
    send: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, max=1000, help="Send so many SMS to made-up phones at the start; prints each SessionNo."
        ),
    ] = 0,
) -> None:
    """Run a USMS that sends nothing and answers like the provider, until Ctrl-C or SIGTERM.

    Requests must be signed with BRIDGE_PUBLIC_KEY and BRIDGE_PRIVATE_KEY, which can be any you choose.

    \b
    export BRIDGE_PUBLIC_KEY=any BRIDGE_PRIVATE_KEY=thing
    bridge simulator --port 8800 --send 3
    BRIDGE_PROVIDER_URL=http://127.0.0.1:8800/ bridge up
    """
    from bridge.settings import load_settings
    from bridge.simulator.app import create_app
    from bridge.simulator.scenario import Scenario
    from bridge.simulator.server import serve

    settings = load_settings()
    if settings.public_key is None or settings.private_key is None:
        raise SettingsError(
            "BRIDGE_PUBLIC_KEY and BRIDGE_PRIVATE_KEY: not set; the simulator checks signatures against them, "
            "and any two values will do"
        )
    played = Scenario() if scenario is None else Scenario.from_file(scenario)
    public_key = settings.public_key.get_secret_value()
    app = create_app(played, public_key, settings.private_key.get_secret_value())

    def ready(real_port: int) -> None:
        print(f"the simulator answers on http://{HOST}:{real_port}/", flush=True)
        for number in range(send):
            phone = f"(86)1850000{number:04}"
            session_no = app.send(public_key, phone)
            print(f"sent to {phone}: bridge track {session_no} --phone-count 1", flush=True)

    serve(HOST, port, app, ready)
