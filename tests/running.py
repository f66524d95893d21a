"""Processes of the bridge as an operator starts them: ``with process("worker", environ, directory) as worker: …``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def process(name: str, environ: dict[str, str], directory: Path) -> Iterator[subprocess.Popen[str]]:
    """``bridge NAME``, killed at the end; what it logs is in ``directory``/NAME.log."""
    command = [sys.executable, "-P", "-m", "bridge.cli.main", name]
    with (directory / f"{name}.log").open("w") as said:
        running = subprocess.Popen(command, cwd=directory, env=environ, stdout=subprocess.PIPE, stderr=said, text=True)
        try:
            yield running
        finally:
            running.kill()
            running.wait()
            if running.stdout is not None:
                running.stdout.close()


def url_of(web: subprocess.Popen[str]) -> str:
    """Where a ``bridge web`` serves, once it does."""
    assert web.stdout is not None
    line = web.stdout.readline()
    assert line
    return line.split()[-1]
