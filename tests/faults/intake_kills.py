"""Workers killed with ``kill -9`` as they take messages from a Redis broker, and the messages that nobody worked on.

    python -m tests.faults.intake_kills --kills 200 --messages 10000 --seed 1

Real Celery workers (solo pool, forked from this process), once with the bridge's channel and once with kombu's own. In
each round two workers start, both work on messages, then two more messages are sent and both are killed within 3 ms.
At the end a worker that is left alone works on all that comes back; what is missing then is lost.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import redis
from celery import Celery

from tasks import channel, consumer  # noqa: F401 - loaded here, a forked worker starts sooner
from tests.faults.house import use_kombus_own_transports
from tests.servers import valkey

VARIANTS = ("bridge", "kombu")
QUEUE = "bridge.track"
DONE = "done"
_LEASE_S = 2
_WITHIN_S = 3e-3
"""How long after a push a kill comes: a worker takes, reads and writes down a message in well under a millisecond."""
_PATIENCE_S = 60.0
_READY = "ready"


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What a run did. ``lost`` messages were sent, and worked on by nobody; ``repeated`` ones more than once."""

    variant: str
    seed: int
    kills: int
    sent: int
    lost: int
    repeated: int
    seconds: float


def run(variant: str, *, kills: int, messages: int, seed: int) -> Counts:
    """Kill so many workers over so many messages, on a server of its own."""
    started = time.monotonic()
    chance = random.Random(seed)
    with valkey() as url, Sender(url) as sender:
        rounds = max(1, kills // 2)
        killed = 0
        for number in range(rounds):
            with two_workers(variant, url) as workers:
                sender.wait_for_all(workers)
                share = messages // rounds - 2
                sender.send(share)
                if chance.random() < 0.5:
                    # Half of the kills find waiting workers that a push has just woken, half find busy ones.
                    sender.drain()
                sender.send(2)
                _spin(chance.uniform(0, _WITHIN_S))
                killed += kill(workers)
            _progress(f"{variant}: {killed} kills, {sender.sent:,} sent (round {number + 1} of {rounds})")
        with worker(variant, url):
            sender.drain(taken_too=True)
        done = sender.done()
    return Counts(
        variant=variant,
        seed=seed,
        kills=killed,
        sent=sender.sent,
        lost=sender.sent - len(done),
        repeated=sum(1 for times in done.values() if times > 1),
        seconds=round(time.monotonic() - started, 1),
    )


class Sender:
    """A stock Celery app that sends, and looks at what was worked on."""

    def __init__(self, url: str) -> None:
        use_kombus_own_transports()
        self.redis = redis.Redis.from_url(url)
        self.sent = 0
        self._app = Celery(broker=url, set_as_current=False)

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_: object) -> None:
        self._app.close()
        self.redis.close()

    def send(self, count: int) -> None:
        """Send numbered messages as any service would."""
        for _ in range(count):
            self._app.send_task("bridge.track", [[self.sent]], queue=QUEUE)
            self.sent += 1

    def wait_for_all(self, workers: list[int]) -> None:
        """Until each worker has worked on something."""
        _wait_until(lambda: all(self.redis.sismember(_READY, str(pid)) for pid in workers), each=lambda: self.send(1))

    def drain(self, *, taken_too: bool = False) -> None:
        """Until the queue is empty, and nothing is taken and not acknowledged."""
        keys = [QUEUE, "bridge.taken", "unacked"] if taken_too else [QUEUE]
        _wait_until(lambda: not self.redis.exists(*keys))

    def done(self) -> dict[bytes, int]:
        """How often each message was worked on."""
        found: Any = self.redis.hgetall(DONE)
        return {number: int(times) for number, times in found.items()}


def serve(variant: str, url: str, at_taking: Callable[[], None] | None = None) -> None:
    """Be a worker. ``at_taking`` is called once a message has been read from the broker, before anything else."""
    use_kombus_own_transports()
    if variant == "bridge":
        channel.install()
    app = Celery(broker=url, set_as_current=False)
    app.conf.update(
        broker_transport_options={"visibility_timeout": _LEASE_S, "unacked_restore_interval": 0.5}
        # kombu's own: without them it looks at one tenth of the times, and a worker killed at it stops all of that
        # for five minutes.
        | {"unacked_restore_throttle": 1, "unacked_mutex_expire": 5},
        task_acks_late=True,
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        **({"worker_consumer": "tasks.consumer:Consumer"} if variant == "bridge" else {}),
    )
    store = redis.Redis.from_url(url)

    @app.task(name="bridge.track")
    def note(items: list[int]) -> None:
        with store.pipeline() as pipe:
            pipe.hincrby(DONE, str(items[0]))
            pipe.sadd(_READY, os.getpid())
            pipe.execute()

    if at_taking is not None:
        _call_first(variant, at_taking)
    options = {"pool": "solo", "without_gossip": True, "without_mingle": True, "without_heartbeat": True}
    app.Worker(queues=[QUEUE], hostname=f"w{os.getpid()}@kills", loglevel="CRITICAL", **options).start()


def _call_first(variant: str, at_taking: Callable[[], None]) -> None:
    """Stop at the instant between the pop and the note of it, in either channel: as a message is first looked at."""
    from kombu.transport import redis as kombu_redis

    chosen: Any = channel.Channel if variant == "bridge" else kombu_redis.Channel
    make = chosen.Message.__init__

    def watched(message: Any, *args: Any, **options: Any) -> None:
        at_taking()
        make(message, *args, **options)

    chosen.Message.__init__ = watched


def fork_worker(variant: str, url: str, at_taking: Callable[[], None] | None = None) -> int:
    """Start a worker in a process of its own. Returns its pid."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setpgid(0, 0)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        logging.disable(logging.CRITICAL)
        warnings.simplefilter("ignore")  # pytest makes errors of them
        serve(variant, url, at_taking)
    finally:
        os._exit(1)


@contextmanager
def worker(variant: str, url: str) -> Iterator[int]:
    """A worker that is ended with the block."""
    pid = fork_worker(variant, url)
    try:
        yield pid
    finally:
        kill([pid])


@contextmanager
def two_workers(variant: str, url: str) -> Iterator[list[int]]:
    """Two workers, which are killed with the block if they were not before."""
    pids = [fork_worker(variant, url), fork_worker(variant, url)]
    try:
        yield pids
    finally:
        kill(pids)


def kill(pids: list[int]) -> int:
    """``kill -9``, all at once. Empties the list, and returns how many there were."""
    count = len(pids)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    while pids:
        os.waitpid(pids.pop(), 0)
    return count


def _spin(seconds: float) -> None:
    # Sleeping would wake late by as much as is measured here.
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def _wait_until(condition: Callable[[], object], each: Callable[[], None] = lambda: None) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {_PATIENCE_S:.0f} s")
        each()
        time.sleep(0.01)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{text}    ")


def main() -> int:
    """Run both variants and print what each lost, as JSON lines. Exit code 1 where the bridge lost anything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--variant", choices=VARIANTS, action="append")
    given = parser.parse_args()
    failed = False
    for variant in given.variant or VARIANTS:
        counts = run(variant, kills=given.kills, messages=given.messages, seed=given.seed)
        sys.stdout.write(msgspec.json.encode(counts).decode() + "\n")
        sys.stdout.flush()
        failed |= (variant == "bridge") == bool(counts.lost)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
