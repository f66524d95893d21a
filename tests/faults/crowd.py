"""Who is around the bridge: a sender with an app of its own, an operator at the command line, and applications."""

from __future__ import annotations

import base64
import json
import random
import secrets
import threading
import time
from collections.abc import Mapping, Sequence

import kombu.exceptions
import msgspec
import requests
from celery import Celery

from bridge.errors import Unreachable
from bridge.simulator.sender import send_usms
from tests.faults.receivers import Application, Receivers, now_ms
from tests.faults.records import CHANGE, Action, Secret, Subscriber, Tracked
from tests.faults.world import CommandFailed, World

DELIVERED = {"result": "发送成功", "code": "DELIVRD"}
UNKNOWN = {"result": "状态未知"}
_FINALS: Sequence[Mapping[str, object]] = (
    DELIVERED,
    DELIVERED,
    {"result": "Fail", "code": "UNDELIV"},
    {"result": "Fail", "code": "EXPIRED:001"},
    {"result": "SubmitFail", "code": "x"},
    {"result": "Send successful", "code": "0"},
)


def scenario(seed: int, longest_s: float) -> dict[str, object]:
    """Phones with one or two words, spread over ``longest_s`` seconds after sending."""
    parts = 12
    shares = []
    for part in range(parts):
        first = 0.2 + longest_s * part / parts / 2
        final = dict(_FINALS[part % len(_FINALS)])
        if part % 3 == 2:
            steps = [final | {"delay": first}]
        else:
            steps = [UNKNOWN | {"delay": first}, final | {"delay": first + longest_s / 2}]
        shares.append({"share": 1 / parts, "timeline": steps})
    return {"phones": shares, "default": [DELIVERED | {"delay": 0.5}], "seed": seed}


_NOT_YET_MS = 2**53
_AT_ONCE = 5
_MOST = 3_000


class Sender(threading.Thread):
    """Sends SMS and tracks them, five at a time: ``count`` at least, and on until it is told that this is ``enough``.

    What could not be handed to the broker is tried again: only what the broker took counts as acknowledged.
    """

    def __init__(self, world: World, seed: int, count: int, per_s: float, *, callback: str = "") -> None:
        super().__init__(name="sender", daemon=True)
        self._world = world
        self._chance = random.Random(seed)
        self._count, self._per_s, self._callback = count, per_s, callback
        self.tracked: list[Tracked] = []
        self.failed = 0
        self.error = ""
        """What ended it before its time: a run without a sender comes to nothing, and must say why."""
        self.app = Celery(broker=world.broker.url, set_as_current=False)
        self.app.conf.update(broker_transport_options={"socket_timeout": 5, "socket_connect_timeout": 5})
        self.sending = threading.Lock()
        """Whoever has it knows of all that was sent, and nothing more is."""
        self.enough = threading.Event()
        self._quit = threading.Event()

    def quit(self) -> None:
        self._quit.set()
        if self.ident is not None:
            self.join(30)
        self.app.close()

    def run(self) -> None:
        try:
            self._send_until_enough()
        except Exception as error:
            self.error = f"the sender died: {error!r}"
            raise

    def _send_until_enough(self) -> None:
        while len(self.tracked) < _MOST and not self._quit.is_set():
            if len(self.tracked) >= self._count and self.enough.is_set():
                return
            try:
                self.send()
            except Unreachable:
                # As an application would, it sends the next ones when the provider answers again.
                self.failed += 1
            self._quit.wait(_AT_ONCE / self._per_s)

    def send(self) -> None:
        """Send and track the next few."""
        with self.sending:
            self._send_some()

    def _send_some(self) -> None:
        start = len(self.tracked)
        made = [self._send(number) for number in range(start, start + _AT_ONCE)]
        self.track([item for item, _ in made])
        acked_ms = now_ms()
        self.tracked += [
            Tracked(
                session_no=str(item["session_no"]),
                account="default",
                phones=phones,
                acked_ms=acked_ms,
                callback=str(item.get("callback_url", "")),
            )
            for item, phones in made
        ]

    def _send(self, number: int) -> tuple[dict[str, object], tuple[str, ...]]:
        base = self._chance.randrange(10**4)
        phones = tuple(f"(86)18{base:04d}{number:04d}{place}" for place in range(1 + number % 3))
        with requests.Session() as session:
            session.trust_env = False
            session_no = send_usms(
                self._world.provider_url, *self._world.keys, phones, user_id=f"u{number}", session=session
            )
        item: dict[str, object] = {"session_no": session_no, "metadata": {"number": number}}
        # Told which phones, or only how many: both end a session, in ways of their own.
        item |= {"phones": list(phones)} if number % 2 else {"phone_count": len(phones)}
        if self._callback and number % 4 == 0:
            item["callback_url"] = self._callback
        return item, phones

    def track(self, items: Sequence[Mapping[str, object]]) -> None:
        """Enqueue one message; returns once the broker has it."""
        while not self._quit.is_set():
            try:
                # Told of its arguments in full: Celery's own ways of abridging them are no protection.
                shown = repr([list(items)])
                self.app.send_task("bridge.track", [list(items)], queue="bridge.track", retry=False, argsrepr=shown)
            except (kombu.exceptions.OperationalError, OSError):
                self.failed += 1
                time.sleep(0.1)
            else:
                return

    def message(self, name: str, args: Sequence[object], queue: str) -> None:
        """Enqueue any task once."""
        self.app.send_task(name, list(args), queue=queue, retry=False)


class Operator:
    """Works with the ``bridge`` command, and writes down what was done and when."""

    def __init__(self, world: World, receivers: Receivers) -> None:
        self._world = world
        self._receivers = receivers
        self.applications: dict[str, Application] = {}
        self.subscribers: dict[str, Subscriber] = {}
        self.actions: list[Action] = []

    def subscribe(
        self, application: Application, *options: str, through: int | None = None, scheme: str = "http"
    ) -> Application:
        """Add a subscription for an application, reached at port ``through``."""
        url = self._receivers.add(application, through, scheme)
        asked_ms = now_ms()
        made = json.loads(self._world.command("subscriptions", "add", url, *options, "--json"))
        done_ms = now_ms()
        application.subscription = made["id"]
        application.know(Secret(value=made["secret"], since_ms=asked_ms, given_ms=done_ms))
        told = dict(zip(options[::2], options[1::2], strict=True))
        self.subscribers[made["id"]] = Subscriber(
            id=made["id"],
            account="default",
            asked_ms=asked_ms,
            added_ms=done_ms,
            types=tuple(told.get("--types", CHANGE).split(",")),
            statuses=tuple(filter(None, told.get("--statuses", "").split(","))),
            format=told.get("--format", "standard"),
            phones=told.get("--phone-format", "full"),
            phone_key=made.get("phone_key", ""),
        )
        self.applications[made["id"]] = application
        return application

    def subscribe_where_forbidden(self, url: str) -> None:
        """A subscription of a time when the operator still allowed its address."""
        wider = self._world.direct | {"BRIDGE_ALLOW_NETWORKS": "127.0.0.0/8,::1/128"}
        self._world.command("subscriptions", "add", url, "--json", environment=wider)

    def expect_callbacks(self, application: Application) -> str:
        """Let sessions name an application's URL by themselves. Returns the URL."""
        url = self._receivers.add(application)
        asked_ms = now_ms()
        made = json.loads(self._world.command("accounts", "secret", "--json"))
        (secret,) = (value for value in made.values() if str(value).startswith("whsec_"))
        application.know(Secret(value=secret, since_ms=asked_ms, given_ms=now_ms()))
        return url

    def do(self, name: str, application: Application, *argv: str) -> str:
        """``bridge subscriptions NAME ID …``, tried again while the store does not answer."""
        return self._note(name, application.subscription, ["subscriptions", name, application.subscription, *argv])

    def erase(self, phone: str) -> None:
        self._note("erase", phone, ["erase", "--phone", phone, "--json"])

    def _note(self, name: str, subject: str, argv: Sequence[str]) -> str:
        asked_ms = now_ms()
        said = self._tried(argv)
        self.actions.append(
            Action(name=name, subject=subject, asked_ms=asked_ms, done_ms=now_ms(), detail=" ".join(argv[2:]))
        )
        return said

    def _tried(self, argv: Sequence[str]) -> str:
        for _ in range(10):
            try:
                return self._world.command(*argv)
            except CommandFailed:
                time.sleep(0.5)
        return self._world.command(*argv)

    def rotate(self, application: Application, overlap: str = "1h") -> None:
        """A new secret. The application goes on with both, and the checker decides which had to do.

        Without an overlap it is one of the application's own, which it knows before anything is signed with it.
        """
        asked_ms = now_ms()
        options = ["--overlap", overlap, "--json"]
        if overlap == "0s":
            secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
            application.know(Secret(value=secret, since_ms=asked_ms, given_ms=_NOT_YET_MS))
            file = self._world.directory / "secret"
            file.write_text(secret)
            self.do("rotate", application, *options, "--secret-file", str(file))
            application.shift(secret, since_ms=asked_ms, given_ms=now_ms(), overlap_ms=0)
        else:
            secret = json.loads(self.do("rotate", application, *options))["secret"]
            application.shift(secret, since_ms=asked_ms, given_ms=now_ms(), overlap_ms=3_600_000)

    def remove(self, application: Application) -> None:
        asked_ms = now_ms()
        self.do("remove", application, "--yes")
        one = self.subscribers[application.subscription]
        self.subscribers[one.id] = msgspec.structs.replace(one, removed_ms=(asked_ms, now_ms()))
