"""The names by which workers reach the provider and receivers, in an ``/etc/hosts`` that only they see.

Each process of the bridge's is started in a mount namespace of its own, over whose ``/etc/hosts`` and
``/etc/resolv.conf`` lie files of the harness: the machine's own are left alone, and no question leaves the loopback.
"""

from __future__ import annotations

import functools
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PROVIDER, RECEIVERS = "provider.test", "receivers.test"
_KNOWN = "127.0.0.1 localhost provider.test receivers.test\n"
_FORGOTTEN = "127.0.0.1 localhost\n"
_NOBODY = "127.0.0.1"
"""Where no resolver listens: a question is answered at once, by a refusal."""
_SILENT = "127.0.0.99"
_INSIDE = 'mount --bind "$1" /etc/hosts && mount --bind "$2" /etc/resolv.conf && shift 2 && exec "$@"'


@functools.cache
def why_not() -> str:
    """Why processes cannot have names of their own here, "" where they can."""
    prefix = _prefix()
    try:
        done = subprocess.run(
            [*prefix, "sh", "-c", _INSIDE, "sh", "/etc/hosts", "/etc/resolv.conf", "true"],
            capture_output=True,
            check=False,
        )
    except OSError as error:
        return f"{prefix[0]}: {error.strerror}"
    return done.stderr.decode(errors="replace").strip() if done.returncode else ""


def _prefix() -> list[str]:
    """Root has the right to mount; others have it in a user namespace, where the system allows those."""
    return ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]


class Names:
    """What the names mean to the processes of one world, if the system lets them have any."""

    def __init__(self, directory: Path) -> None:
        self._hosts, self._resolver = directory / "hosts", directory / "resolv.conf"
        self.are_known = not why_not()
        self._hosts.write_text(_KNOWN)
        self._ask(_NOBODY)

    def of(self, name: str) -> str:
        """The host to use in a URL."""
        return name if self.are_known else "127.0.0.1"

    def within(self, argv: Sequence[str]) -> list[str]:
        """A command line that starts the same program where the names are known. It keeps its process id."""
        if not self.are_known:
            return list(argv)
        return [*_prefix(), "sh", "-c", _INSIDE, "sh", str(self._hosts), str(self._resolver), *argv]

    @contextmanager
    def forgotten(self, *, silent: bool) -> Iterator[None]:
        """No name resolves: the resolver refuses each question, or says nothing at all."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
            if silent:
                # Of several runs at once each may listen: none of them answers.
                resolver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                resolver.bind((_SILENT, 53))
                self._ask(_SILENT)
            self._hosts.write_text(_FORGOTTEN)
            try:
                yield
            finally:
                self._hosts.write_text(_KNOWN)
                self._ask(_NOBODY)

    def _ask(self, server: str) -> None:
        # In place, as all here: a new file would not be the one that was mounted.
        self._resolver.write_text(f"nameserver {server}\noptions timeout:1 attempts:1\n")
