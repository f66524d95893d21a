"""SIGTERM under load: a worker and beat end within 20 s, and nothing that they had is lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import redis

from bridge.wiring import Bridge
from tests.commands import track
from tests.faults.house import foreign_app, running, tracked, wait_until
from tests.hostile import serving, silent
from tests.servers import bridge_on, environ_for, valkey

NAMES = [f"s{number}" for number in range(400)]


def test_a_worker_ends_in_time_though_the_provider_hangs(tmp_path: Path) -> None:
    """Of both pools, beside one another: each takes its 15 s."""
    with ThreadPoolExecutor() as threads:
        for ended in [threads.submit(ends_in_time, pool, tmp_path / pool) for pool in ("threads", "prefork")]:
            ended.result()


def ends_in_time(pool: str, tmp_path: Path) -> None:
    with valkey() as url, serving(silent) as provider, bridge_on(url) as bridge:
        environ = environ_for(url, provider_url=provider.url, provider_timeout="50s", poll_schedule="50ms")
        with (
            running(tmp_path, environ, "worker", "--pool", pool, "--concurrency", "4") as worker,
            foreign_app(url) as app,
            redis.Redis.from_url(url) as queues,
        ):
            track(bridge, "hangs")
            wait_until("a session is due", lambda: bridge.index.due(bridge.clock.now_ms()).accounts)
            app.send_task("bridge.poll", ["default"], queue="bridge.poll")
            wait_until("the provider is asked", lambda: provider.connections, worker)
            for name in NAMES:
                app.send_task("bridge.track", [[name]], queue="bridge.track")
            code, took_s = worker.terminate(20)
            assert code == 0
            assert took_s > 10, "the poll should have hung"
            left = [bytes(item) for item in queues.lrange("bridge.poll", 0, -1)]
            # And perhaps a second one, of the run that was to go on beside the call that hangs.
            assert left, "the poll's message is handed back"
            assert not queues.exists("bridge.taken", "bridge.leases")
        nothing_is_lost(bridge, environ, tmp_path)


def test_a_busy_worker_ends_soon(tmp_path: Path) -> None:
    with valkey() as url, bridge_on(url) as bridge:
        environ = environ_for(url)
        with (
            running(tmp_path, environ, "worker") as worker,
            foreign_app(url) as app,
            redis.Redis.from_url(url) as queues,
        ):
            for name in NAMES:
                app.send_task("bridge.track", [[name]], queue="bridge.track")
            wait_until("it is at work", lambda: tracked(bridge, NAMES), worker)
            code, took_s = worker.terminate(20)
            assert code == 0
            assert took_s < 10
            assert not queues.exists("bridge.taken", "bridge.leases")
        nothing_is_lost(bridge, environ, tmp_path)


def nothing_is_lost(bridge: Bridge, environ: dict[str, str], tmp_path: Path) -> None:
    """Another worker finds all of it."""
    with running(tmp_path, environ, "worker") as worker:
        wait_until("all are tracked", lambda: len(tracked(bridge, NAMES)) == len(NAMES), worker)


def test_beat_ends_at_once(tmp_path: Path) -> None:
    with valkey() as url, bridge_on(url), redis.Redis.from_url(url) as queues:
        with running(tmp_path, environ_for(url), "beat") as beat:
            wait_until("it sends", lambda: queues.llen("bridge.control") > 1, beat)
            code, took_s = beat.terminate(20)
        assert code == 0
        assert took_s < 10
