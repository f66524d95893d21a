"""What whoever runs the simulator can ask and change while it runs: ``/_sim/…``.

| | |
|---|---|
| ``GET /_sim/health`` | 200 once it serves |
| ``GET /_sim/log?after=N&limit=N`` | the answers to GetUSMSSendReceipt after the N-th (``log.LogPage``) |
| ``GET /_sim/log?summary=1`` | each phone's words as told, in order, without repetitions (``phonebook.Told``) |
| ``POST /_sim/scenario`` | another scenario (``scenario.Scenario``); what was sent keeps its timeline |
| ``POST /_sim/faults`` | other faults (``faults.Faults``); ``{}`` for none |
| ``POST /_sim/phones`` | phones that were sent to follow a timeline, or have a status, from now on (``SetPhones``) |

Nothing here asks for a key: the simulator listens where it is told to, by default on the loopback only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from urllib.parse import parse_qs

import msgspec

from bridge.errors import UsageError
from bridge.simulator.faults import Faults
from bridge.simulator.http import Request
from bridge.simulator.scenario import Scenario, check_faults, check_timeline, convert
from bridge.simulator.timeline import Step, Timeline

if TYPE_CHECKING:
    from bridge.simulator.app import Simulator

_PAGE = 1000


class SetPhones(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``phones`` get a ``timeline`` whose delays count from now, or a ``result`` (with its ``code`` and
    ``description``) at once; in one session and for one UserId, where these are given.
    """

    phones: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    timeline: Timeline | None = None
    result: str | None = None
    code: str = ""
    description: str = ""
    session_no: str | None = None
    user_id: str | None = None


class NotThere(Exception):
    """No such path, or no such phone."""


class Control:
    """Answers requests below ``/_sim/``."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._routes = {
            ("GET", "/_sim/health"): self._health,
            ("GET", "/_sim/log"): self._log,
            ("POST", "/_sim/scenario"): self._scenario,
            ("POST", "/_sim/faults"): self._faults,
            ("POST", "/_sim/phones"): self._phones,
        }

    def answer(self, request: Request) -> bytes:
        """The answer's JSON. Raises UsageError for a bad request, NotThere for an unknown path or phone."""
        route = self._routes.get((request.method, request.path))
        if route is None:
            paths = ", ".join(f"{method} {path}" for method, path in self._routes)
            raise NotThere(f"there is no {request.method} {request.path}; there are {paths}")
        return msgspec.json.encode(route(request))

    @staticmethod
    def problem(text: str) -> bytes:
        return msgspec.json.encode({"error": text})

    def _health(self, _: Request) -> object:
        return {
            "status": "ok",
            "sessions": len(self._simulator.phonebook),
            "answers": self._simulator.log.last,
        }

    def _log(self, request: Request) -> object:
        asked = {name: values[-1] for name, values in parse_qs(request.query.decode("latin-1")).items()}
        if unknown := asked.keys() - {"after", "limit", "summary"}:
            raise UsageError(f"log: unknown parameter {min(unknown)}")
        if asked.get("summary", "0") not in {"0", ""}:
            return {"phones": self._simulator.phonebook.all_told()}
        return self._simulator.log.page(after=_count(asked, "after", 0), limit=_count(asked, "limit", _PAGE))

    def _scenario(self, request: Request) -> object:
        self._simulator.play(Scenario.from_dict(_json(request)))
        return {"ok": True}

    def _faults(self, request: Request) -> object:
        faults = convert(_json(request), Faults, "faults")
        check_faults(faults, "faults")
        self._simulator.set_faults(faults)
        return {"ok": True}

    def _phones(self, request: Request) -> object:
        wanted = convert(_json(request), SetPhones, "phones")
        if (wanted.timeline is None) == (wanted.result is None):
            raise UsageError("phones: give one of timeline and result")
        if wanted.timeline is None:
            timeline: Timeline = (Step(result=wanted.result or "", code=wanted.code, description=wanted.description),)
        else:
            check_timeline(wanted.timeline, "phones.timeline")
            timeline = wanted.timeline
        changed = [self._set(phone, timeline, wanted) for phone in wanted.phones]
        if not all(changed):
            index = changed.index(0)
            raise NotThere(f"phones[{index}]: nothing was sent to it")
        return {"changed": sum(changed)}

    def _set(self, phone: str, timeline: Timeline, wanted: SetPhones) -> int:
        return self._simulator.phonebook.set_timeline(
            phone,
            timeline,
            session_no=wanted.session_no,
            user_id=wanted.user_id,
            now=self._simulator.now(),
            time_scale=self._simulator.scenario.time_scale,
        )


def _json(request: Request) -> object:
    try:
        return msgspec.json.decode(request.body)
    except msgspec.DecodeError as error:
        raise UsageError(f"the body is no JSON: {error}") from error


def _count(asked: dict[str, str], name: str, default: int) -> int:
    text = asked.get(name, str(default))
    if not (text.isdecimal() and len(text) < 16):
        raise UsageError(f"log: {name} must be a whole number, 0 or more")
    return int(text)
