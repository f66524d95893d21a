"""``bridge simulator``: a USMS that runs here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bridge.errors import SettingsError

HOST = "127.0.0.1"


def simulator(
    port: Annotated[int, typer.Option(help="Port of 127.0.0.1 to listen on; 0: a free one.", min=0, max=65535)] = 8800,
    scenario: Annotated[
        Path | None,
        typer.Option(metavar="F", help="What phones and faults do: a YAML or JSON file. Without: all are delivered."),
    ] = None,
) -> None:
    """Run a USMS that sends nothing and answers like the provider, until Ctrl-C or SIGTERM.

    Requests must be signed with BRIDGE_PUBLIC_KEY and BRIDGE_PRIVATE_KEY, which can be any you choose.

    \b
    export BRIDGE_PUBLIC_KEY=any BRIDGE_PRIVATE_KEY=thing
    bridge simulator --port 8800
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
    app = create_app(played, settings.public_key.get_secret_value(), settings.private_key.get_secret_value())
    serve(HOST, port, app, lambda real_port: print(f"the simulator answers on http://{HOST}:{real_port}/", flush=True))
