"""``bridge demo`` as somebody runs it who has just installed it: from the command to the first verified callback."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

import msgspec

from tests.bench.figures import Goal, Measured

_ENDS_WITHIN_S = 60


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """How often."""

    rounds: int


def measure(sizes: Sizes) -> Measured:
    """Run it, the interpreter's own start included."""
    took_s = tuple(_first_callback_s() for _ in range(sizes.rounds))
    goal = Goal(what="demo: start to the first verified callback", unit="s", samples=took_s, wanted=6)
    return Measured(
        about={"command": "bridge demo"}, figures={"bridge demo": {"first callback s": took_s}}, goals=(goal,)
    )


def _first_callback_s() -> float:
    with tempfile.TemporaryDirectory(prefix="usms-bridge-bench-") as directory:
        began_s = time.perf_counter()
        demo = subprocess.Popen(
            [sys.executable, "-P", "-m", "bridge.cli.main", "demo"], cwd=directory, stdout=subprocess.PIPE, text=True
        )
        assert demo.stdout is not None
        try:
            for line in demo.stdout:
                if "verified" in line:
                    return time.perf_counter() - began_s
        finally:
            demo.terminate()
            demo.stdout.close()
            demo.wait(_ENDS_WITHIN_S)
    raise AssertionError("the demo ended without a callback")
