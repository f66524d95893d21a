"""A simulated provider on a free port, for tests of any directory: ``with running_simulator() as sim: …``."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import cast

import msgspec
import requests

from bridge.simulator.app import create_app
from bridge.simulator.log import LogPage
from bridge.simulator.phonebook import Told
from bridge.simulator.scenario import Scenario
from bridge.simulator.sender import send_usms
from bridge.simulator.server import running

# The provider's own published examples: not secrets.
PUBLIC_KEY = "ucloudsomeone@example.com1296235120854146120"
PRIVATE_KEY = "46f09bb9fab4f12dfc160dae12273d5332b5debe"


class _Summary(msgspec.Struct, frozen=True):
    phones: list[Told]


class RunningSimulator:
    """A simulator that serves at ``url``."""

    def __init__(self, port: int, session: requests.Session) -> None:
        self.url = f"http://127.0.0.1:{port}/"
        self.public_key = PUBLIC_KEY
        self.private_key = PRIVATE_KEY
        self._session = session

    def send(self, *phones: str, user_id: str = "") -> str:
        """Send one SMS to each phone; the SessionNo."""
        return send_usms(self.url, self.public_key, self.private_key, phones, user_id=user_id, session=self._session)

    def get(self, path: str) -> bytes:
        """The body of ``/_sim/{path}``."""
        answer = self._session.get(f"{self.url}_sim/{path}", timeout=10)
        assert answer.status_code == 200, answer.text
        return answer.content

    def steer(self, path: str, given: object) -> dict[str, object]:
        """POST to ``/_sim/{path}``."""
        answer = self._session.post(f"{self.url}_sim/{path}", data=json.dumps(given), timeout=10)
        assert answer.status_code == 200, answer.text
        return cast("dict[str, object]", answer.json())

    def log(self, after: int = 0) -> LogPage:
        return msgspec.json.decode(self.get(f"log?after={after}"), type=LogPage)

    def told(self) -> list[Told]:
        return msgspec.json.decode(self.get("log?summary=1"), type=_Summary).phones


@contextlib.contextmanager
def running_simulator(
    scenario: Scenario | Mapping[str, object] | None = None,
    *,
    other_accounts: Mapping[str, str] | None = None,
    clock: Callable[[], float] = time.time,
) -> Iterator[RunningSimulator]:
    """A simulator on a thread; ``scenario`` may be what ``Scenario.from_dict`` takes. Without one, phones are
    delivered at once.
    """
    if scenario is None:
        scenario = {"seed": 1, "default": [{"result": "发送成功", "code": "DELIVRD", "description": "成功"}]}
    if not isinstance(scenario, Scenario):
        scenario = Scenario.from_dict(scenario)
    app = create_app(scenario, PUBLIC_KEY, PRIVATE_KEY, other_accounts=other_accounts, clock=clock)
    with running(app) as port, requests.Session() as session:
        session.trust_env = False
        yield RunningSimulator(port, session)
