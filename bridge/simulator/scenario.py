"""What the simulated provider does, as one frozen value: read from a dict, from YAML or JSON, with clear errors.

::

    seed: 7                       # same seed, same sends: same SessionNos, same shares, same faults
    time_scale: 60                # a minute of the scenario passes in a second
    timelines:
      slow: [{result: 状态未知, delay: 30}, {result: 发送成功, code: DELIVRD, delay: 600}]
    default: [{result: Success, code: "0", delay: 8}]
    phones:
      - {number: "(86)18500000000", timeline: slow}
      - {prefix: "(60)", timeline: []}                       # never a receipt
      - {share: 0.2, timeline: [{result: Fail, code: UNDELIV, delay: 20}]}
    faults:
      rates: [{fault: hang, rate: 0.01}, {fault: retcode, ret_code: 153, rate: 0.05}]
      script: [{fault: http_status, status: 500, times: 3}]
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
import yaml

from bridge.errors import UsageError
from bridge.simulator.faults import Faults
from bridge.simulator.timeline import Step, Timeline, is_ordered

T = TypeVar("T")

Echo = Literal["as_sent", "bare"]

_DELIVERED: Timeline = (Step(result="发送成功", code="DELIVRD", description="成功", delay=5.0),)


class PhoneRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose timeline it is: exactly one of ``number``, ``prefix`` and ``share`` is given.

    ``number`` is compared on digits, so ``(86)185…``, ``(0086)185…`` and ``185…`` are one phone; ``prefix`` with the
    phone as it was sent; ``share`` is a part, 0 to 1, of the phones that no number or prefix names.
    """

    timeline: str | Timeline
    number: str | None = None
    prefix: str | None = None
    share: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the simulator does.

    ``time_scale``: scenario seconds that pass in a real one (delays are divided by it; faults' are not).
    ``echo``: phones come back ``as_sent``, or ``bare``, without China's country code.
    ``unknown_sessions``: one that was never sent (or is another account's) is answered ``empty`` or is ``missing``.
    ``projects``: the ProjectIds that exist; none named, any will do.
    ``log_limit``: how many receipts and sessions the log of answers holds, the oldest answers are forgotten first
    (the summary is not touched by it); ``session_limit``: how many sessions are kept, the oldest are forgotten first.
    """

    seed: int | None = None
    time_scale: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    echo: Echo = "as_sent"
    unknown_sessions: Literal["empty", "missing"] = "empty"
    projects: tuple[str, ...] = ()
    timelines: dict[str, Timeline] = {}
    default: str | Timeline = _DELIVERED
    phones: tuple[PhoneRule, ...] = ()
    faults: Faults = Faults()
    log_limit: Annotated[int, msgspec.Meta(ge=1)] = 500_000
    session_limit: Annotated[int, msgspec.Meta(ge=1)] = 1_000_000

    @classmethod
    def from_dict(cls, given: object) -> Scenario:
        """A scenario from plain values. Raises UsageError, naming the field, for anything else than a scenario."""
        scenario = convert(given, cls, "scenario")
        _check(scenario)
        return scenario

    @classmethod
    def from_file(cls, path: Path) -> Scenario:
        """A scenario from a YAML or JSON file. Raises UsageError, naming the file and the field."""
        try:
            given = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            raise UsageError(f"{path}: is no YAML: {' '.join(str(error).split())}") from error
        except (ValueError, LookupError, AttributeError, RecursionError) as error:
            # PyYAML's own types raise whatever a value leads them to: `!!int x`, 2026-99-99, a thousand brackets.
            raise UsageError(f"{path}: has a value that cannot be read: {_line(error)}") from error
        try:
            return cls.from_dict({} if given is None else given)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class Cast:
    """Who plays what: the timeline of each phone under a scenario. ``seed`` decides the shares."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self._default = _resolved(scenario, scenario.default)
        self._seed = seed
        self._numbers: dict[str, Timeline] = {}
        self._prefixes: list[tuple[str, Timeline]] = []
        self._shares: list[tuple[float, Timeline]] = []
        for rule in scenario.phones:
            timeline = _resolved(scenario, rule.timeline)
            if rule.number is not None:
                self._numbers[digits_of(rule.number)] = timeline
            elif rule.prefix is not None:
                self._prefixes.append((rule.prefix, timeline))
            elif rule.share is not None:
                self._shares.append((rule.share, timeline))

    def timeline_of(self, phone: str) -> Timeline:
        """By number, else by the first prefix that fits, else by share, else the default."""
        if self._numbers and (timeline := self._numbers.get(digits_of(phone))) is not None:
            return timeline
        for prefix, timeline in self._prefixes:
            if phone.startswith(prefix):
                return timeline
        if self._shares:
            draw = self._draw(phone)
            for share, timeline in self._shares:
                if draw < share:
                    return timeline
                draw -= share
        return self._default

    def _draw(self, phone: str) -> float:
        # From the phone, not from a generator: whatever the order of the sends, a seed gives a phone one fate.
        digest = hashlib.blake2b(f"{self._seed}:{phone}".encode(), digest_size=7).digest()
        return int.from_bytes(digest, "big") / 2**56


def digits_of(phone: str) -> str:
    """The digits phones are compared on; a leading 00 dropped, a bare Chinese mobile number with its country code."""
    digits = re.sub(r"[^0-9]", "", phone).removeprefix("00")
    if re.fullmatch(r"1[0-9]{10}", digits):
        return "86" + digits
    return digits or phone


def convert(given: object, kind: type[T], name: str) -> T:
    """``given`` as a value of ``kind``. Raises UsageError with the path of the wrong field below ``name``."""
    try:
        made = msgspec.convert(given, kind)
        with contextlib.suppress(OverflowError):  # a seed may be of any size
            msgspec.json.encode(made)  # what cannot be written could not be answered with
    except UnicodeEncodeError:
        raise UsageError(f"{name}: has half of a character (a lone surrogate) in it: give it whole") from None
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        raise UsageError(f"{name}{path.removesuffix('`')}: {reason.replace('`', '')}") from error
    return made


def check_timeline(timeline: Timeline, name: str) -> None:
    """Raises UsageError unless the delays ascend."""
    if not is_ordered(timeline):
        raise UsageError(f"{name}: the steps must be in the order of their delays")


def check_faults(faults: Faults, name: str) -> None:
    """Raises UsageError if the rates add up to more than every answer."""
    # Adding tenths does not give tenths.
    if sum(fault.rate for fault in faults.rates) > 1 + 1e-9:
        raise UsageError(f"{name}.rates: the rates add up to more than 1")


def _check(scenario: Scenario) -> None:
    for name, timeline in scenario.timelines.items():
        check_timeline(timeline, f"scenario.timelines.{name}")
    _check_part(scenario, scenario.default, "scenario.default")
    for index, rule in enumerate(scenario.phones):
        field = f"scenario.phones[{index}]"
        _check_part(scenario, rule.timeline, f"{field}.timeline")
        if sum(matcher is not None for matcher in (rule.number, rule.prefix, rule.share)) != 1:
            raise UsageError(f"{field}: give one of number, prefix and share")
    if sum(rule.share or 0.0 for rule in scenario.phones) > 1 + 1e-9:
        raise UsageError("scenario.phones: the shares add up to more than 1")
    check_faults(scenario.faults, "scenario.faults")


def _check_part(scenario: Scenario, part: str | Timeline, field: str) -> None:
    if not isinstance(part, str):
        check_timeline(part, field)
    elif part not in scenario.timelines:
        known = ", ".join(sorted(scenario.timelines)) or "none"
        raise UsageError(f"{field}: no timeline is named {part!r} (known: {known})")


def _resolved(scenario: Scenario, part: str | Timeline) -> Timeline:
    return scenario.timelines[part] if isinstance(part, str) else part
