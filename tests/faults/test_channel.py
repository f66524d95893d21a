"""The Redis channel by itself: what is taken is written down, leased, and comes back; all else is as kombu has it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from queue import Empty
from typing import Any

import pytest
import redis
from kombu import Connection, Consumer, Exchange, Queue

from bridge.store.scripts import read_scripts
from tasks import channel as ours
from tasks.leases import LEASES, TAKEN
from tests.faults.house import ROOT, running
from tests.servers import bridge_on, environ_for, valkey

WORK = Queue("work", Exchange("work"), routing_key="work")
SCRIPTS = read_scripts("tasks")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_what_it_takes_and_gives_and_what_a_crash_leaves(name: str) -> None:
    source = SCRIPTS[name].source
    header = "\n".join(line for line in source.splitlines() if line.startswith("--"))
    for word in ("KEYS", "ARGV", "Returns", "crash"):
        assert re.search(rf"^--.*\b{word}\b", header, re.MULTILINE), f"{name} does not document {word}"
    assert source.startswith("#!lua flags=allow-oom\n"), "what is taken must be given back with memory short"


class Broker:
    """A server, and connections to it with the bridge's channel."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.redis = redis.Redis.from_url(url)
        self._open: list[Connection] = []

    def connect(self, **options: object) -> Connection:
        connection = Connection(
            self.url, transport=ours.Transport, transport_options={"unacked_restore_interval": 0.2, **options}
        )
        self._open.append(connection)
        return connection

    def stock(self) -> Connection:
        connection = Connection(self.url, transport="kombu.transport.redis:Transport")
        self._open.append(connection)
        return connection

    def send(self, *numbers: int, priority: int = 0) -> None:
        """As any service does."""
        producer = self.stock().Producer()
        for number in numbers:
            producer.publish(number, routing_key="work", serializer="json", priority=priority, declare=[WORK])

    def taken(self) -> int:
        return int(self.redis.hlen(TAKEN))

    def close(self) -> None:
        for connection in self._open:
            connection.release()
        self.redis.close()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with valkey() as url:
        yield url


@pytest.fixture
def broker(server: str) -> Iterator[Broker]:
    made = Broker(server)
    made.redis.flushall()
    refusing(made, yes=False)
    yield made
    made.close()


class Worker:
    """A consumer that notes what it gets, and acknowledges nothing by itself."""

    def __init__(self, connection: Connection, *, prefetch: int = 0, no_ack: bool = False) -> None:
        self.connection = connection
        self.messages: list[Any] = []
        self.channel: Any = connection.channel()
        consumer = Consumer(self.channel, [WORK], no_ack=no_ack, accept=["json"], callbacks=[self._note])
        if prefetch:
            consumer.qos(prefetch_count=prefetch)
        consumer.consume()

    def _note(self, _body: object, message: Any) -> None:
        self.messages.append(message)

    def bodies(self) -> list[object]:
        return [message.payload for message in self.messages]

    def work(self, seconds: float = 0.5) -> None:
        """Take what there is, until nothing came for so long."""
        while True:
            try:
                self.connection.drain_events(timeout=seconds)
            except TimeoutError:
                return


def until(what: str, condition: Callable[[], object], *workers: Worker) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        for one in workers:
            one.work(0.1)


def test_what_is_taken_is_written_down_until_it_is_acknowledged(broker: Broker) -> None:
    worker = Worker(broker.connect())
    broker.send(1, 2, 3)
    until("all came", lambda: len(worker.messages) == 3, worker)
    assert worker.bodies() == [1, 2, 3]
    assert broker.taken() == broker.redis.zcard(LEASES) == 3
    assert not broker.redis.exists("work", "unacked", "unacked_index")
    worker.messages[1].ack()
    assert broker.taken() == broker.redis.zcard(LEASES) == 2
    worker.messages[0].reject()
    assert broker.taken() == 1
    worker.messages[2].requeue()
    assert not broker.redis.exists(TAKEN, LEASES)
    assert broker.redis.llen("work") == 1


def test_copies_of_one_message_are_taken_apart(broker: Broker) -> None:
    """Fault of kombu's: its note is by the message's own tag, so that acknowledging one copy let go of all."""
    broker.send(1)
    (raw,) = broker.redis.lrange("work", 0, -1)
    broker.redis.lpush("work", raw, raw)
    worker = Worker(broker.connect())
    until("all came", lambda: len(worker.messages) == 3, worker)
    worker.messages[0].ack()
    assert broker.taken() == 2


def test_no_more_is_taken_than_may_be_worked_on_at_once(broker: Broker) -> None:
    broker.send(*range(10))
    worker = Worker(broker.connect(), prefetch=2)
    worker.work()
    assert broker.taken() == len(worker.messages) == 2
    worker.messages[0].ack()
    worker.work()
    assert len(worker.messages) == 3
    assert broker.redis.llen("work") == 7


def test_a_waiting_worker_is_told_and_need_not_look(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "_LOOK_AGAIN_S", 3_600.0)
    workers = [Worker(broker.connect()) for _ in range(3)]
    for one in workers:
        one.work(0.2)
    for number in range(20):
        broker.send(number)
        until("it came", lambda number=number: sum(len(one.messages) for one in workers) == number + 1, *workers)  # type: ignore[misc] # mypy cannot infer a lambda with a default
    assert sorted(str(body) for one in workers for body in one.bodies()) == sorted(map(str, range(20)))


def test_word_that_is_read_before_the_reply_is_not_forgotten(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault: of two sockets readable at once the listening one came first, and the message waited for the next look."""
    monkeypatch.setattr(ours, "_LOOK_AGAIN_S", 3_600.0)
    worker = Worker(broker.connect())
    worker.work(0.2)
    channel = worker.channel
    channel._asleep_until = 0.0
    channel._brpop_start()
    assert channel.client.connection.can_read(timeout=5), "it looked, and found nothing"
    broker.send(1)
    assert channel.listener.connection.can_read(timeout=5)
    channel.hear()
    with pytest.raises(Empty):
        channel._brpop_read()
    until("it came", lambda: worker.messages, worker)


def test_what_waits_costs_nothing(broker: Broker) -> None:
    worker = Worker(broker.connect(unacked_restore_interval=3_600))
    worker.work(0.5)
    before = broker.redis.info("stats")["total_commands_processed"]
    worker.work(3.0)
    spent = broker.redis.info("stats")["total_commands_processed"] - before
    assert spent <= 3, "two INFOs of this test's own, and at most a look"


def test_priorities_are_kept(broker: Broker) -> None:
    broker.send(1, 2)
    broker.send(9, priority=9)
    broker.send(5, priority=5)
    broker.send(3)
    worker = Worker(broker.connect())
    until("all came", lambda: len(worker.messages) == 5, worker)
    assert worker.bodies() == [1, 2, 3, 5, 9]
    for message in worker.messages:
        message.requeue()
    kept = {name: broker.redis.llen(name) for name in ("work", "work\x06\x163", "work\x06\x169")}
    assert kept == {"work": 3, "work\x06\x163": 1, "work\x06\x169": 1}, "each is back where it came from"


def test_a_dead_workers_messages_come_back_when_its_lease_ends_and_a_living_ones_do_not(broker: Broker) -> None:
    broker.send(1, 2)
    dead = Worker(broker.connect(visibility_timeout=3), prefetch=1)
    living = Worker(broker.connect(visibility_timeout=3), prefetch=1)
    until("each has one", lambda: len(dead.messages) == len(living.messages) == 1, dead, living)
    # The dead one does nothing any more; of the two only the other renews what it has.
    another = Worker(broker.connect(visibility_timeout=3))
    until("one comes again", lambda: another.messages, living, another)
    assert another.bodies() == dead.bodies()
    ends = time.monotonic() + 7
    until("two leases are over", lambda: time.monotonic() > ends, living, another)
    assert len(another.messages) == 1
    # What comes back too late of the dead one changes nothing.
    dead.messages[0].ack()
    assert broker.taken() == 2


def refusing(broker: Broker, *, yes: bool) -> None:
    """Have the server refuse all writes, as one does whose disk is full."""
    broker.redis.config_set("min-replicas-to-write", int(yes))


def test_a_worker_goes_on_after_a_server_that_took_no_acknowledgement(broker: Broker) -> None:
    """Fault: what a full disk refused stayed among the messages that the worker had, which soon had all that it may."""
    broker.send(1, 2, 3)
    worker = Worker(broker.connect(visibility_timeout=1), prefetch=2)
    until("two came", lambda: len(worker.messages) == 2, worker)
    refusing(broker, yes=True)
    worker.messages[0].ack()
    worker.messages[1].reject(requeue=True)
    refusing(broker, yes=False)
    both = (worker, Worker(broker.connect(visibility_timeout=1)))
    until("the others come", lambda: sorted(str(body) for one in both for body in one.bodies()) == list("1223"), *both)
    until("the broker knows", lambda: broker.taken() == broker.redis.zcard(LEASES) == 2, *both)


def test_what_was_done_is_not_done_again_while_the_server_refuses_to_hear_of_it(broker: Broker) -> None:
    broker.send(1)
    worker = Worker(broker.connect(visibility_timeout=1))
    until("it came", lambda: worker.messages, worker)
    refusing(broker, yes=True)
    worker.messages[0].ack()
    refusing(broker, yes=False)
    another = Worker(broker.connect(visibility_timeout=1))
    ends = time.monotonic() + 2.5
    until("two leases are over", lambda: time.monotonic() > ends, worker, another)
    assert not another.messages
    assert broker.taken() == 0


def test_what_a_channel_has_goes_back_as_it_closes(broker: Broker) -> None:
    broker.send(1, 2, 3)
    connection = broker.connect()
    worker = Worker(connection, prefetch=2)
    worker.work()
    assert broker.taken() == 2
    connection.release()
    assert not broker.redis.exists(TAKEN, LEASES)
    assert broker.redis.llen("work") == 3
    fresh: Any = broker.connect().channel()
    assert fresh.basic_get("work").payload == 1, "the first is still the first"


def test_a_channel_without_a_broker_closes_all_the_same() -> None:
    with valkey() as url:
        broker = Broker(url)
        broker.send(1, 2)
        connection = broker.connect()
        Worker(connection, prefetch=1).work()
    connection.release()


@pytest.mark.parametrize("no_ack", [True, False])
def test_what_needs_no_acknowledgement_is_not_kept(broker: Broker, no_ack: bool) -> None:
    broker.send(1, 2)
    channel: Any = broker.connect().channel()
    message = channel.basic_get("work", no_ack=no_ack)
    assert message.payload == 1
    assert broker.taken() == (0 if no_ack else 1)
    worker = Worker(broker.connect(), no_ack=no_ack)
    until("it came", lambda: worker.messages, worker)
    assert broker.taken() == (0 if no_ack else 2)


def test_a_server_that_forgot_the_scripts_is_given_them_again(broker: Broker) -> None:
    worker = Worker(broker.connect())
    broker.send(1)
    until("it came", lambda: len(worker.messages) == 1, worker)
    broker.redis.script_flush()
    broker.send(2)
    until("it came", lambda: len(worker.messages) == 2, worker)
    broker.redis.script_flush()
    worker.messages[0].ack()
    worker.messages[1].requeue()
    assert broker.redis.llen("work") == 1


def test_a_cut_connection_is_made_anew(broker: Broker) -> None:
    worker = Worker(broker.connect())
    worker.work(0.2)
    for number in range(3):
        broker.redis.client_kill_filter(_type="normal", skipme=True)
        # A consumer of kombu's meets it as an error, and goes on with the same channel.
        with pytest.raises(redis.exceptions.ConnectionError):
            worker.work(0.2)
        broker.send(number)
        until("it came", lambda number=number: number in worker.bodies(), worker)  # type: ignore[misc] # as above


def test_a_cut_listening_connection_is_made_anew(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nobody told, a message would wait until the next look."""
    monkeypatch.setattr(ours, "_LOOK_AGAIN_S", 3_600.0)
    worker = Worker(broker.connect())
    worker.work(0.2)
    for number in range(3):
        broker.redis.client_kill_filter(_type="pubsub", skipme=True)
        worker.work(0.2)
        broker.send(number)
        until("it came", lambda number=number: number in worker.bodies(), worker)  # type: ignore[misc] # as above


def test_remote_control_and_events_work(tmp_path: Any) -> None:
    """Flower, `celery inspect` and heartbeats go through fanout, and replies through queues that expire."""
    with valkey() as url, bridge_on(url):
        environ = environ_for(url)
        with running(tmp_path, environ, "worker") as worker:
            deadline = time.monotonic() + 60
            while True:
                asked = subprocess.run(
                    [sys.executable, "-m", "celery", "-A", "tasks.app", "inspect", "ping", "--json"],
                    cwd=ROOT,
                    env=environ,
                    capture_output=True,
                    text=True,
                    timeout=60,
                    check=False,
                )
                worker.check()
                if asked.returncode == 0:
                    break
                assert time.monotonic() < deadline, asked.stderr
            assert '"ok": "pong"' in asked.stdout
            with redis.Redis.from_url(url) as server:
                assert not server.exists(TAKEN, LEASES), "a reply needs no acknowledgement"
