"""``bridge worker``, ``beat`` and ``flower``: this process becomes the one that was asked for."""

from __future__ import annotations

import ipaddress
import os
import sys
from typing import Annotated

import typer

from bridge.errors import UsageError


def command_of(kind: str, *options: str) -> list[str]:
    """The command line of a Celery process. ``-P``: a ``tasks.py`` in the working directory is not ours."""
    return [sys.executable, "-P", "-m", "tasks", kind, *options]


def worker(
    concurrency: Annotated[
        int, typer.Option(min=3, max=256, help="Tasks at once, in threads: two slices of delivery and room to poll.")
    ] = 8,
) -> None:
    """Run a worker: it records sessions, polls the provider and sends callbacks. Start as many as you need.

    Where Redis or the broker does not answer it waits for 20 s at most, and then ends with exit code 3.

    Example: bridge worker --concurrency 16
    """
    _become("worker", "--concurrency", str(concurrency))


def beat() -> None:
    """Run the clock that wakes what is due each second. One is enough; a second one does no harm.

    Where Redis or the broker does not answer it waits for 20 s at most, and then ends with exit code 3.
    """
    _become("beat")


def flower(
    address: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="P", min=1, max=65535, help="The port to listen on.")] = 5555,
    basic_auth: Annotated[
        str,
        typer.Option(
            envvar="FLOWER_BASIC_AUTH",
            metavar="USER:PASSWORD",
            help="Logins, separated by commas; needed off loopback.",
        ),
    ] = "",
) -> None:
    """Watch the workers with Celery Flower. What tasks carry is hidden from it.

    Example: FLOWER_BASIC_AUTH=ops:secret bridge flower --address 0.0.0.0
    """
    if not basic_auth and not _is_loopback(address):
        raise UsageError(
            f"Flower on {address} would be open to everybody who reaches it: set FLOWER_BASIC_AUTH=user:password, "
            "or listen on 127.0.0.1"
        )
    if basic_auth:
        # By the environment, not as an option: other users of this machine can read a process's options.
        os.environ["FLOWER_BASIC_AUTH"] = basic_auth
    _become("flower", f"--address={address}", f"--port={port}")


def _become(kind: str, *options: str) -> None:
    sys.stdout.flush()
    argv = command_of(kind, *options)
    os.execv(argv[0], argv)  # noqa: S606 - this interpreter, no shell


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
