"""Bridges that are told to call themselves, or each other: what goes round, and that it ends.

The web processes are real, and so are the polls and the slices that deliver; networks are allowed, so that every call
connects. What arrives is counted in front of each web process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import pytest
import requests

from bridge.domain.deliveries import Tally
from bridge.domain.events import EVENT_TYPES, STATUS_CHANGED, unpack
from bridge.domain.subscriptions import BodyFormat, Options
from bridge.wiring import Bridge
from tasks.process import Process
from tests.commands import track
from tests.delivery.slices import QUICK, run
from tests.hostile import Connection, Server, ok, serving
from tests.parts import Parts
from tests.running import process, url_of
from tests.servers import bridge_on, environ_for, valkey
from tests.simulator import RunningSimulator, running_simulator

RETRIES = 3
POLICY = msgspec.structs.replace(QUICK, retry_ms=(10,) * RETRIES)
PHONES = ("(86)18500000001", "(86)18500000002")
MINUTE_MS = 60_000
MANY_TURNS = 30
GIVEN_UP = "bridge.delivery.exhausted"


class House:
    """A bridge with its web process, and a way to it that counts what comes."""

    def __init__(self, bridge: Bridge, store_url: str, door: Server) -> None:
        self.bridge = bridge
        self.store = Parts(store_url, bridge.settings.shards)
        self.door = door
        self._url = door.url.removesuffix("/hook")
        self.tasks = Process(lambda _name, _arguments: None)
        self.tasks.bridge = bridge

    @property
    def push(self) -> str:
        """Where the provider pushes to."""
        return f"{self._url}/v1/provider/usms/default/{self.bridge.push_tokens.show('default')}"

    def at(self, path: str) -> str:
        return self._url + path

    @property
    def came(self) -> Counter[str]:
        """How many requests came for each path, the push's token left out."""
        paths = [head.split(b" ", 2)[1].decode() for head, _ in self.door.requests]
        return Counter("push" if path.startswith("/v1/provider") else path for path in paths)

    def turn(self) -> None:
        """All that is due: polls, deliveries until nothing waits, and what operators are told."""
        self.store.make_due()
        while self.bridge.poller.step("default").polled:
            pass
        names = list(self.bridge.subscriptions.load().by_id())
        for _ in range(MANY_TURNS):
            if not sum(self.bridge.queues.lengths(names).values()):
                break
            run(self.bridge, POLICY)
            self.store.pass_ms(MINUTE_MS)  # whatever was to be waited for
        else:
            raise AssertionError("what waits never ends")
        self.tasks.trim()

    def events(self) -> Counter[str]:
        """How many there ever were, of each type."""
        records = [unpack(one.record) for one in self.bridge.log.read("default")]
        return Counter(EVENT_TYPES.get(one.type, STATUS_CHANGED) for one in records)

    def tally(self, name: str) -> Tally:
        return self.bridge.queues.tallies([name])[name]


@contextmanager
def counted(web_url: str) -> Iterator[Server]:
    """A way to a web process: it passes each request on, and its answer back."""

    def behave(connection: Connection) -> None:
        with requests.Session() as session:
            session.trust_env = False
            while (request := connection.request()) is not None:
                head, body = request
                first, *lines = head.decode().split("\r\n")
                headers = dict(line.split(": ", 1) for line in lines)
                answer = session.request("POST", web_url + first.split(" ")[1], data=body, headers=headers, timeout=30)
                reply = ok(answer.content)
                connection.sock.sendall(reply.replace(b"200 OK", f"{answer.status_code} x".encode(), 1))

    with serving(behave) as server:
        yield server


@contextmanager
def house(simulator: RunningSimulator, directory: Path) -> Iterator[House]:
    directory.mkdir()
    with ExitStack() as stack:
        url = stack.enter_context(valkey())
        given = {"provider_url": simulator.url, "provider_rate": "1000", "allow_http": "yes"}
        bridge = stack.enter_context(bridge_on(url, **given))
        web = stack.enter_context(process("web", environ_for(url, listen="127.0.0.1:0", **given), directory))
        made = House(bridge, url, stack.enter_context(counted(url_of(web))))
        yield made
        made.store.close()


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    with running_simulator() as made:
        yield made


def test_a_subscription_to_the_bridge_itself_ends_with_its_last_retry(
    simulator: RunningSimulator, tmp_path: Path
) -> None:
    with house(simulator, tmp_path / "a") as one:
        paths = ["/healthz", "/readyz", "/", "/v1/subscriptions"]
        refusing = [one.bridge.subscribe(one.at(path))[0].id for path in paths]
        refusing.append(one.bridge.subscribe(one.push)[0].id)
        named = one.at("/healthz?of=a-session")
        track(one.bridge, simulator.send(*PHONES))
        one.tasks.track([{"session_no": simulator.send(PHONES[0]), "callback_url": named}], "default")

        one.turn()

        events = 3
        assert one.events() == {STATUS_CHANGED: events, GIVEN_UP: len(refusing) + 1}, "told to nobody, once of each"
        attempts = 1 + RETRIES
        expected = dict.fromkeys([*paths, "push"], events * attempts) | {"/healthz?of=a-session": attempts}
        assert one.came == expected
        assert [one.tally(name) for name in refusing] == [Tally(dead=events, exhausted=events)] * len(refusing)

        _assert_nothing_more_comes(one)


def test_operators_events_to_the_bridge_itself_bring_on_no_others(simulator: RunningSimulator, tmp_path: Path) -> None:
    """Two that are told of each other's failures, and fail to be told."""
    with house(simulator, tmp_path / "a") as one:
        asks = Options(types=("sms.*", "bridge.*"))
        both = [one.bridge.subscribe(one.at(path), options=asks)[0].id for path in ("/healthz", "/readyz")]
        track(one.bridge, simulator.send(*PHONES))

        one.turn()
        assert one.events() == {STATUS_CHANGED: 2, GIVEN_UP: 2}, "each was told of the other"
        one.turn()

        assert one.events() == {STATUS_CHANGED: 2, GIVEN_UP: 2}
        assert one.came == dict.fromkeys(("/healthz", "/readyz"), 3 * (1 + RETRIES))
        assert [one.tally(name).exhausted for name in both] == [2, 2], "an operators' event that fails is none to tell"

        _assert_nothing_more_comes(one)


def test_a_push_of_the_bridge_to_itself_is_one_more_poll_and_no_event(
    simulator: RunningSimulator, tmp_path: Path
) -> None:
    """In the provider's own format, which is acknowledged: every event hints at the session that it came of."""
    with house(simulator, tmp_path / "a") as one:
        name = one.bridge.subscribe(one.push, options=Options(format=BodyFormat.USMS))[0].id
        track(one.bridge, simulator.send(*PHONES))

        one.turn()

        assert one.events() == {STATUS_CHANGED: 2}
        assert one.came == {"push": 2}
        assert one.tally(name) == Tally()
        pushed = one.bridge.pushes.counts("default")
        assert (pushed.pushes, pushed.unknown) == (2, 0)
        _assert_nothing_more_comes(one)


def test_two_bridges_that_push_to_each_other_end_with_what_the_provider_said(
    simulator: RunningSimulator, tmp_path: Path
) -> None:
    """Both track the same sessions: each event of one makes the other ask the provider, which says nothing new."""
    with house(simulator, tmp_path / "a") as one, house(simulator, tmp_path / "b") as other:
        for of, to in ((one, other), (other, one)):
            of.bridge.subscribe(to.push, options=Options(format=BodyFormat.USMS))
            of.bridge.subscribe(to.push)
            of.bridge.subscribe(to.at("/healthz"))
        session = simulator.send(*PHONES)
        for each in (one, other):
            track(each.bridge, session)
        for _ in range(5):
            for each in (one, other):
                each.store.make_due()
                each.turn()
        refused = 2 * (1 + RETRIES)
        for each in (one, other):
            assert each.events() == {STATUS_CHANGED: 2, GIVEN_UP: 2}
            assert each.came == {"push": 2 + refused, "/healthz": refused}
            assert each.bridge.pushes.counts("default").pushes == 2 + refused
        # A push is at most one more poll, and each of both was asked to poll five times.
        assert simulator.log().last <= 2 * 5 + 2 * (2 + refused)


def _assert_nothing_more_comes(one: House) -> None:
    """Whatever was hinted at or is to be told by now was: polls, deliveries and the minute's work find nothing."""
    events, came = one.events(), one.came
    for _ in range(3):
        one.turn()
    assert (one.events(), one.came) == (events, came)
