"""``python -m tests.faults.skewed FILE worker|beat …``: the process, with a wall clock that is off by FILE's seconds.

FILE is read at each look at the clock, so that a test can set the clock while the process runs. The monotonic clock is
left alone, as by an operator who sets the time. (libfaketime would be more of a clock; with it, Python's sleeps fail.)
"""

from __future__ import annotations

import datetime
import sys
import time
from pathlib import Path
from typing import Any


def skew(file: Path) -> None:
    """Have ``time`` and ``datetime`` tell another time from here on: before anything else is imported."""
    now, now_ns, at, local = time.time, time.time_ns, time.gmtime, time.localtime
    real: Any = datetime.datetime

    def off() -> float:
        return float(file.read_text() or 0)

    class Kind(type):
        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, real)

    class Skewed(real, metaclass=Kind):  # type: ignore[misc] # what it is derived from is looked up
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return real.fromtimestamp(now() + off(), tz)

        @classmethod
        def utcnow(cls) -> Any:
            return real.fromtimestamp(now() + off(), datetime.UTC).replace(tzinfo=None)

    # Any: mypy would rather not have functions assigned to.
    clock: Any = time
    clock.time = lambda: now() + off()
    clock.time_ns = lambda: now_ns() + int(off() * 1e9)
    clock.gmtime = lambda seconds=None: at(now() + off() if seconds is None else seconds)
    clock.localtime = lambda seconds=None: local(now() + off() if seconds is None else seconds)
    kinds: Any = datetime
    kinds.datetime = Skewed


if __name__ == "__main__":
    skew(Path(sys.argv[1]))
    from tasks.__main__ import main

    sys.exit(main(sys.argv[2:]))
