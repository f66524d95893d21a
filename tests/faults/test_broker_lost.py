"""The broker goes away under load, with messages taken and not acknowledged: the worker stays, and loses nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from tests.faults.house import foreign_app, mortal, running, tracked, wait_until
from tests.servers import bridge_on, environ_for, valkey


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_worker_outlives_its_broker_and_loses_nothing(pool: str, tmp_path: Path) -> None:
    """Fault of Celery 5.7.0: closing the dead connection raised AttributeError, and the worker ended."""
    with valkey() as store_url, mortal(tmp_path / "broker") as broker, bridge_on(store_url) as bridge:
        environ = environ_for(store_url, broker_url=broker.url)
        with (
            running(tmp_path, environ, "worker", "--pool", pool, "--concurrency", "4") as worker,
            foreign_app(broker.url) as app,
            redis.Redis.from_url(broker.url) as queues,
        ):
            names = [f"s{number}" for number in range(60)]
            app.send_task("bridge.track", [names[:20]], queue="bridge.track")
            wait_until("it works", lambda: len(tracked(bridge, names)) == 20, worker)
            # The store stands still, so that what the worker has taken stays unacknowledged.
            bridge.client.redis.client_pause(4_000, all=True)
            for name in names[20:]:
                app.send_task("bridge.track", [[name]], queue="bridge.track")
            wait_until("messages are taken", lambda: queues.hlen("bridge.taken") == 4, worker)
            broker.kill()
            wait_until("it notices", lambda: "Connection to broker lost" in worker.log, worker)
            broker.revive()
            wait_until("all are tracked", lambda: len(tracked(bridge, names)) == len(names), worker)
            wait_until("all are acknowledged", lambda: not queues.exists("bridge.taken", "bridge.track"), worker)

            queues.flushall()
            app.send_task("bridge.track", [["after"]], queue="bridge.track")
            wait_until("an emptied broker is one as good", lambda: tracked(bridge, ["after"]), worker)
            assert worker.terminate(20)[0] == 0
