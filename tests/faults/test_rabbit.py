"""RabbitMQ as the broker by its URL alone, with quorum queues: the whole flow, and its end and return under load."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Connection, Queue

from bridge.sender import track as send
from bridge.wiring import Bridge
from tests.delivery.slices import Receiver, subscribe
from tests.faults.house import Running, running, tracked, wait_until
from tests.faults.rabbit import Rabbit, rabbit
from tests.hostile import serving
from tests.servers import bridge_on, environ_for, valkey
from tests.simulator import running_simulator

QUEUE = "bridge.track"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rabbit]:
    with rabbit(tmp_path_factory.mktemp("rabbit") / "server") as server:
        yield server


def quorum_app(url: str) -> Celery:
    """Another team's app, which says for RabbitMQ what kind of queue it is, and waits until that has a message."""
    app = Celery(broker=url, set_as_current=False)
    app.conf.update(task_create_missing_queue_type="quorum", broker_transport_options={"confirm_publish": True})
    return app


def test_the_whole_flow_through_rabbitmq_and_its_restart(broker: Rabbit, tmp_path: Path) -> None:
    receiver = Receiver()
    with (
        valkey() as url,
        running_simulator() as simulator,
        serving(receiver) as receiving,
        bridge_on(url, allow_http="yes") as bridge,
    ):
        subscribe(bridge, receiving.url)
        settings = {"broker_url": broker.url, "provider_url": simulator.url, "poll_schedule": "100ms,1s"}
        environ = environ_for(url, allow_http="yes", **settings)
        with (
            running(tmp_path, environ, "worker", "--concurrency", "4") as worker,
            running(tmp_path, environ, "beat") as beat,
        ):
            wait_until("track, tick, poll and deliver run", bridge.index.last_tick_ms, worker, beat)
            sessions = [simulator.send(f"(86)186{number:08d}") for number in range(40)]
            send([{"session_no": sessions[0], "phone_count": 1}], broker_url=broker.url)
            app = quorum_app(broker.url)
            app.send_task("bridge.track", [[sessions[1]]], queue="bridge.track")
            app.send_task("bridge.track", [[sessions[2]]], queue="bridge.track", countdown=3_600)
            wait_until("all is told", lambda: len(receiver.accepted) == 3, worker, beat)
            is_kept_aside(bridge, broker, worker)
            is_put_back(bridge, broker, worker)

            # The store stands still, so that messages are taken and not acknowledged when the broker goes.
            bridge.client.redis.client_pause(3_000, all=True)
            for session in sessions[3:]:
                app.send_task("bridge.track", [[session]], queue="bridge.track")
            broker.kill()
            wait_until("it notices", lambda: "Connection to broker lost" in worker.log, worker)
            broker.start()
            wait_until("all is told", lambda: len(receiver.accepted) == len(sessions), worker, beat)
            app.close()
            assert worker.terminate(20)[0] == 0
            assert beat.terminate(20)[0] == 0
        assert len(set(receiver.accepted)) == len(receiver.accepted)


def is_kept_aside(bridge: Bridge, broker: Rabbit, worker: Running) -> None:
    """What cannot be worked on, of RabbitMQ's messages too."""
    with Connection(broker.url) as connection:
        producer = connection.Producer()
        for body in (b"", b"\xff", b"7", b"[]", b'{"task": 7}'):
            producer.publish(body, routing_key=QUEUE, content_type="application/json", content_encoding="utf-8")
        producer.publish(b"x", routing_key=QUEUE, content_type="application/x-python-serialize")
        producer.publish(b"x", routing_key=QUEUE, headers={"compression": "application/x-gzip"})
    wait_until("all are kept aside", lambda: len(list(bridge.tracking.rejected("default"))) == 7, worker)


def is_put_back(bridge: Bridge, broker: Rabbit, worker: Running) -> None:
    """What the store has no room for; by a new message, because RabbitMQ 4 drops what was put back 20 times."""
    bridge.client.redis.config_set("maxmemory", 1)
    send(["patient"], broker_url=broker.url)
    wait_until("it was put back", lambda: worker.log.count("tracking put back") > 1, worker)
    bridge.client.redis.config_set("maxmemory", 0)
    wait_until("it is tracked", lambda: tracked(bridge, ["patient"]), worker)


def test_a_queue_of_another_kind_is_said_in_one_line(broker: Rabbit, tmp_path: Path) -> None:
    with Connection(broker.url) as connection, valkey() as url, bridge_on(url):
        channel: Any = connection.default_channel
        channel.queue_delete(QUEUE)
        Queue(QUEUE)(channel).queue_declare()
        with running(tmp_path, environ_for(url, broker_url=broker.url), "worker") as worker:
            assert worker.process.wait(30) == 2
        assert worker.log.startswith("error: RabbitMQ has a queue of the same name and another kind")
        assert "x-queue-type" in worker.log
        assert len(worker.log.splitlines()) == 1
        channel.queue_delete(QUEUE)
        # The other test's sender declared it, and knows that it has.
        Queue(QUEUE, queue_arguments={"x-queue-type": "quorum"})(channel).queue_declare()
