"""``bridge demo``: the main job, complete, on this machine, with nothing to install or configure."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Annotated, NoReturn, cast

import msgspec
import requests
import typer

from bridge.cli.demo_view import View
from bridge.cli.family import Family
from bridge.cli.house import House, compressed
from bridge.cli.output import to_json
from bridge.cli.receiver import Callback, Receiver
from bridge.errors import BridgeError

FACTOR = 60
_EXIT_WITHIN_S = 60.0
_EVERY_S = 1.5
"""In the live demo: how often another SMS is sent."""

# Delays are in seconds after sending, before compression.
_DELIVERED = {"result": "发送成功", "code": "DELIVRD", "description": "成功"}
_UNKNOWN = {"result": "状态未知", "code": "", "description": "等待运营商回执"}
_SCENARIO: Mapping[str, object] = {
    "time_scale": FACTOR,
    "default": [_DELIVERED | {"delay": 8}],
    "phones": [
        {"share": 0.25, "timeline": [_UNKNOWN | {"delay": 10}, _DELIVERED | {"delay": 150}]},
        {"share": 0.1, "timeline": [{"result": "发送失败", "code": "UNDELIV", "description": "空号", "delay": 20}]},
        {"share": 0.05, "timeline": [_UNKNOWN | {"delay": 5}, {"result": "Fail", "code": "EXPIRED", "delay": 120}]},
    ],
}
# What the provider's words mean, written down a second time: the demo checks the bridge, not itself.
_MEANING = {"发送成功": "delivered", "发送失败": "undelivered", "状态未知": "unknown", "Fail": "expired"}
_FINAL = {"delivered", "undelivered", "expired"}

Phone = tuple[str, str, str]
"""SessionNo, phone, user id."""


class Summary(msgspec.Struct, kw_only=True):
    """What a demo came to. ``ok``: every expected change arrived, verified and in order, and none twice."""

    ok: bool = False
    sessions: int = 0
    phones: int = 0
    expected: int = 0
    accepted: int = 0
    missing: int = 0
    unexpected: int = 0
    duplicates: int = 0
    out_of_order: int = 0
    bad_signatures: int = 0
    first_callback_s: float | None = None
    seconds: float = 0.0
    time_factor: int = FACTOR


class Heard:
    """The callbacks that arrived, by phone, in the order of arrival."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._lock = Lock()
        self._statuses: dict[Phone, list[str]] = {}
        self.first_s: float | None = None
        self.newest: list[Callback] = []

    def note(self, callback: Callback) -> None:
        """Remember a callback; called from the receiver's threads."""
        if not callback.verified or callback.duplicate:
            return
        data = cast("Mapping[str, object]", callback.event["data"])
        phone = (str(data["session_no"]), str(data["phone"]), str(data["user_id"]))
        with self._lock:
            if self.first_s is None:
                self.first_s = round(time.monotonic() - self._began, 2)
            self._statuses.setdefault(phone, []).append(str(data["status"]))
            self.newest.append(callback)

    def statuses(self) -> dict[Phone, list[str]]:
        """Each phone's statuses so far."""
        with self._lock:
            return {phone: list(statuses) for phone, statuses in self._statuses.items()}


def demo(
    sessions: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="How many SMS to send at first.")] = 6,
    leave: Annotated[bool, typer.Option("--exit", help="End when every status has arrived, with a summary.")] = False,
    json: Annotated[bool, typer.Option("--json", help="The summary as one JSON object (with --exit).")] = False,
    record: Annotated[
        Path | None,
        typer.Option(metavar="F", help="Keep each POST as it came in a file, a JSON object a line, the secret first."),
    ] = None,
) -> None:
    """Watch SMS become callbacks: an embedded Valkey, a simulated provider, a worker, and a verifying receiver.

    Nothing leaves this machine, and nothing of it remains. Times are compressed 60 times.

    \b
    bridge demo                              until Ctrl-C
    bridge demo --sessions 200 --exit        a check: exit code 0 if nothing was lost, repeated or out of order
    """
    if json and not leave:
        raise typer.BadParameter("--json needs --exit", param_hint="--json")
    began = time.monotonic()
    heard = Heard(began)
    receiver = Receiver(on_callback=heard.note, record=record is not None)
    with Family("demo") as family, receiver, View(quiet=json) as view:
        run = _Run(family, receiver, heard, view, began)
        secret = run.prepare()
        try:
            summary = run.to_the_end(sessions) if leave else run.until_stopped(sessions)
        finally:
            if record is not None:
                _write_record(record, secret, receiver)
    if json:
        print(to_json(summary))
    else:
        view.summary(msgspec.structs.asdict(summary))
    if not summary.ok:
        raise BridgeError("the demo did not end as expected: see the summary above")


class _Run:
    def __init__(self, family: Family, receiver: Receiver, heard: Heard, view: View, began: float) -> None:
        self._family = family
        self._receiver = receiver
        self._heard = heard
        self._view = view
        self._began = began
        self._house = House(family, scenario=_SCENARIO, settings=_compressed_settings())
        self._http = requests.Session()
        self._phones: dict[Phone, None] = {}
        self._sessions = 0
        self._numbers = (f"(86)185{number:08d}" for number in itertools.count(random.randrange(10**7)))  # noqa: S311 - no secret

    def prepare(self) -> str:
        """Start everything, and register the receiver. Returns its secret."""
        self._view.say(f"starting Valkey, a simulated provider, a worker and beat (times compressed {FACTOR} times)")
        house = self._house
        house.start_store_and_provider()
        house.start_worker()
        house.start_beat()
        # Imported while the others start: two seconds of start-up happen side by side.
        from bridge.wiring import Bridge

        bridge = Bridge(house.settings())
        subscription, secret, _ = bridge.subscribe(self._receiver.url)
        bridge.close()
        self._receiver.set_secret(secret)
        house.start_web()
        self._view.say(f"subscribed {self._receiver.url} as {subscription.id}, with a secret of its own")
        return secret

    def to_the_end(self, sessions: int) -> Summary:
        """Send, and wait until every phone's last status has arrived."""
        self._send(sessions)
        deadline = time.monotonic() + _EXIT_WITHIN_S + sessions / 20
        while time.monotonic() < deadline:
            self._show()
            self._family.check()
            heard = self._heard.statuses()
            if all(statuses[-1] in _FINAL for statuses in heard.values()) and len(heard) >= len(self._phones):
                break
            time.sleep(0.1)  # between two looks at what has arrived
        time.sleep(0.5)  # longer than any attempt: what should not arrive, such as a duplicate, would arrive now
        self._show()
        return self._summary()

    def until_stopped(self, sessions: int) -> NoReturn:
        """Send another SMS now and then, and show what happens, until Ctrl-C."""
        self._send(sessions)
        next_send = time.monotonic() + _EVERY_S
        while True:
            self._show()
            self._family.check()
            if time.monotonic() >= next_send:
                next_send += _EVERY_S
                self._send(1)
            time.sleep(0.1)  # between two looks at what has arrived

    def _send(self, count: int) -> None:
        from bridge.sender import track
        from bridge.simulator.sender import send_usms

        house = self._house
        items: list[dict[str, object]] = []
        for _ in range(count):
            phones = [next(self._numbers) for _ in range(1 + self._sessions % 3)]
            self._sessions += 1
            user_id = f"user-{self._sessions}"
            session_no = send_usms(
                house.provider_url, house.public_key, house.private_key, phones, user_id=user_id, session=self._http
            )
            items.append({"session_no": session_no, "phone_count": len(phones), "metadata": {"demo": self._sessions}})
            for phone in phones:
                self._phones[session_no, phone, user_id] = None
            # Some at a time, so that the first ones are under way while the last ones are sent.
            if len(items) == 100:
                track(items, broker_url=house.environment["BRIDGE_REDIS_URL"])
                items = []
        if items:
            track(items, broker_url=house.environment["BRIDGE_REDIS_URL"])

    def _show(self) -> None:
        self._view.show(self._phones, self._heard.statuses(), self._heard.newest, self._receiver.counts)

    def _summary(self) -> Summary:
        counts = self._receiver.counts
        heard = self._heard.statuses()
        expected = expected_statuses(self._house.told())
        missing = sum(len(_missing(statuses, heard.get(phone, []))) for phone, statuses in expected.items())
        unexpected = sum(len(_missing(statuses, expected.get(phone, []))) for phone, statuses in heard.items())
        silent = len(self._phones.keys() - expected.keys())
        return Summary(
            ok=not (missing or unexpected or silent or counts.duplicates or counts.out_of_order)
            and heard == expected
            and not counts.bad_signatures,
            sessions=self._sessions,
            phones=len(self._phones),
            expected=sum(map(len, expected.values())) + silent,
            accepted=counts.accepted,
            missing=missing + silent,
            unexpected=unexpected,
            duplicates=counts.duplicates,
            out_of_order=counts.out_of_order,
            bad_signatures=counts.bad_signatures,
            first_callback_s=self._heard.first_s,
            seconds=round(time.monotonic() - self._began, 2),
        )


def expected_statuses(told: Iterable[Mapping[str, object]]) -> dict[Phone, list[str]]:
    """The statuses that callbacks must have told, from the simulator's own record of what it told."""
    expected: dict[Phone, list[str]] = {}
    for phone in told:
        words = cast("Sequence[Mapping[str, object]]", phone["told"])
        statuses = [_MEANING[str(word["result"])] for word in words]
        key = (str(phone["session_no"]), str(phone["phone"]), str(phone["user_id"]))
        expected[key] = [status for status, _ in itertools.groupby(statuses)]
    return expected


def _write_record(path: Path, secret: str, receiver: Receiver) -> None:
    lines = [to_json({"secret": secret})]
    lines += [to_json({"headers": request.headers, "body": request.body.decode()}) for request in receiver.recorded]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _missing(wanted: Sequence[str], found: Sequence[str]) -> list[str]:
    left = list(found)
    missing = []
    for status in wanted:
        if status in left:
            left.remove(status)
        else:
            missing.append(status)
    return missing


def _compressed_settings() -> dict[str, str]:
    from bridge.settings import Settings

    defaults = Settings()
    return {
        "BRIDGE_POLL_SCHEDULE": compressed(defaults.poll_schedule_ms, FACTOR),
        "BRIDGE_CALLBACK_RETRY": compressed(defaults.callback_retry_ms, FACTOR),
        "BRIDGE_GIVE_UP_AFTER": compressed([defaults.give_up_after_ms], FACTOR),
        # The simulator answers at once: asking it more often keeps a compressed minute's pace.
        "BRIDGE_PROVIDER_RATE": "100",
    }
