"""Durations as people write them (``500ms``, ``10s``, ``5m``, ``12h``, ``5d``) and as code holds them: milliseconds."""

from __future__ import annotations

import re

_MS_OF = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
# Nine digits: beyond any use, and short of the length at which int() itself refuses.
_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
_ACCEPTED = "a whole number and a unit: 500ms, 10s, 5m, 12h or 5d"


def parse_duration_ms(text: str) -> int:
    """The milliseconds of ``500ms``, ``10s``, ``5m``, ``12h`` or ``5d``; space around it is ignored.

    Raises ValueError, saying what is accepted. A number without a unit is refused: nobody can tell which was meant.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{_shown(text)} is not a duration; give {_ACCEPTED}")
    return int(match[1]) * _MS_OF[match[2]]


def parse_durations_ms(text: str) -> tuple[int, ...]:
    """The milliseconds of each duration of a comma-separated list. Raises ValueError, also on an empty list."""
    parts = text.split(",")
    if not text.strip():
        raise ValueError("an empty list; give durations with commas between, such as 10s,5m,12h")
    if any(not part.strip() for part in parts):
        raise ValueError(f"{_shown(text)} has an empty place between commas; give durations such as 10s,5m,12h")
    return tuple(parse_duration_ms(part) for part in parts)


def format_duration_ms(duration_ms: int) -> str:
    """A duration in the largest unit that holds it exactly: 90000 is ``90s``, 120000 is ``2m``, 0 is ``0s``."""
    if duration_ms < 0:
        raise ValueError(f"{duration_ms} is negative; a duration is 0 or more milliseconds")
    if duration_ms == 0:
        return "0s"
    unit = next(unit for unit in ("d", "h", "m", "s", "ms") if duration_ms % _MS_OF[unit] == 0)
    return f"{duration_ms // _MS_OF[unit]}{unit}"


def format_durations_ms(durations_ms: tuple[int, ...]) -> str:
    """A list as ``parse_durations_ms`` reads it."""
    return ",".join(format_duration_ms(duration_ms) for duration_ms in durations_ms)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")
