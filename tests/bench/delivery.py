"""Event in the log → accepted by a local receiver, everything on; beside libcurl alone, requests in threads, and a
Celery task per event.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import msgspec

from bridge.cli.family import Child, Family
from bridge.domain import events
from bridge.domain.accounts import DEFAULT_ACCOUNT
from bridge.domain.commits import ABSENT, CommitResult, Due, Entry, Route, Write
from bridge.domain.receipts import Status
from bridge.domain.status import PhoneState, SessionState
from bridge.wiring import Bridge
from tests.bench.figures import Goal, Measured, Samples, by_name, ratio
from tests.bench.house import House, open_bridge
from tests.bench.machine import apart, cpu_s, server_cpu_s
from tests.bench.receiver import Receiver
from tests.bench.senders import bare_libcurl, bridge_slices, requests_in_threads, signing_libcurl

CONNECTIONS = 50
ALONE = "libcurl alone"
SIGNING = "libcurl that signs"
CELERY = "Celery task + requests"
REQUESTS = {"requests, 1 thread": 1, "requests, 16 threads": 16}
_WARM_UP = 20
_A_POLL = 100  # sessions of one answer: what it changes has one time of observation
_COMMIT_AT_ONCE = _A_POLL
METADATA = '{"order":"8a6e0804-2bd0-4672-b79d-d97027f9071a","campaign":"autumn sale, reminder"}'


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """How much is sent in each round, ``few`` by those that are slow, and how many rounds there are."""

    events: int
    few: int
    celery_pool: str
    rounds: int


def measure(sizes: Sizes) -> Measured:
    """Run all of them in turns."""
    with Family("bench") as family:
        house = House(family)
        receiver = Receiver(family, house.directory)
        body = events.render(DEFAULT_ACCOUNT, next(records(1)))[1]
        about = {
            "receiver": receiver.kind,
            "body": f"{len(body)} bytes",
            "events": f"{sizes.events:,}; {sizes.few:,} by requests and by Celery (pool {sizes.celery_pool})",
        }
        packed = [events.pack(record) for record in records(sizes.events)]
        rounds: dict[str, list[dict[str, float]]] = defaultdict(list)
        for _ in range(sizes.rounds):
            for name, found in with_libcurl(house, receiver, body, packed).items():
                rounds[name].append(found)
            for name, threads in REQUESTS.items():
                rounds[name].append(apart(requests_in_threads, receiver.url, body, sizes.few, threads))
            rounds[CELERY].append(_celery(house, receiver, sizes, body))
    figures = {who: by_name(found) for who, found in rounds.items()}
    goals = (*beside_libcurl(figures), *_beside_others(figures))
    return Measured(about=about, figures=figures, goals=goals, references=tuple(list(figures)[1:]))


def with_libcurl(house: House, receiver: Receiver, body: bytes, packed: Sequence[bytes]) -> dict[str, dict[str, float]]:
    """A round of the bridge and of both libcurl loops: as many events as there are ``packed`` ones."""
    count, ca_file = len(packed), str(receiver.ca_file or "")
    house.empty()
    fill(house, receiver.url, count)
    return {
        "bridge": apart(bridge_slices, house.environment, count),
        ALONE: apart(bare_libcurl, receiver.url, count, CONNECTIONS, body, ca_file),
        SIGNING: apart(signing_libcurl, receiver.url, packed, CONNECTIONS, ca_file),
    }


def beside_libcurl(figures: Mapping[str, Mapping[str, Samples]], way: str = "") -> tuple[Goal, ...]:
    """What delivery takes, of libcurl that signs and of libcurl alone; ``way`` is how events go, for their names.

    The targets are of a loop that builds and signs what it sends, as a callback has to be; and are those without TLS.
    """
    rate, cpu = "events/s", "CPU µs/event"
    goals: list[Goal] = []
    for who, wanted in ((SIGNING, not way), (ALONE, False)):
        ours, theirs = figures["bridge"], figures[who]
        goals += (
            Goal(
                what=f"deliver{way}: events/s, of {who}",
                unit="%",
                samples=ratio(ours[rate], theirs[rate], 100),
                wanted=60 if wanted else None,
                better="more",
                reference=who,
            ),
            Goal(
                what=f"deliver{way}: CPU, of {who}",
                unit="×",
                samples=ratio(ours[cpu], theirs[cpu]),
                wanted=1.6 if wanted else None,
                reference=who,
            ),
        )
    return tuple(goals)


def _beside_others(figures: Mapping[str, Mapping[str, Samples]]) -> tuple[Goal, ...]:
    cpu, ours = "CPU µs/event", figures["bridge"]
    return (
        Goal(
            what="deliver: less CPU than a Celery task an event",
            unit="×",
            samples=ratio(figures[CELERY][cpu], ours[cpu]),
            wanted=40,
            better="more",
            reference=CELERY,
        ),
        Goal(
            what="deliver: less CPU than requests in a thread",
            unit="×",
            samples=ratio(figures["requests, 1 thread"][cpu], ours[cpu]),
            better="more",
            reference="requests, 1 thread",
        ),
        Goal(what="deliver: round trips an event", unit="", samples=ours["round trips/event"], wanted=0.1),
    )


def fill(house: House, url: str, count: int, *, metadata: str = METADATA, prefix: str = "bench") -> None:
    """Put events in the log and in one subscription's queue, as a poll does."""
    bridge = open_bridge(house.environment)
    subscription, _, _ = bridge.subscribe(url)
    writes = (write_of(record, subscription.id) for record in records(count, metadata=metadata, prefix=prefix))
    while batch := list(islice(writes, _COMMIT_AT_ONCE)):
        results = bridge.sessions.commit(DEFAULT_ACCOUNT, batch)
        if any(result is not CommitResult.WRITTEN for result in results.values()):
            raise AssertionError("a commit was refused")
    _check_filled(bridge, subscription.id, count)
    bridge.close()


def _check_filled(bridge: Bridge, subscription: str, count: int) -> None:
    waiting = bridge.queues.lengths([subscription])[subscription]
    if waiting != count:
        raise AssertionError(f"{waiting} lanes wait, not {count}")


def records(count: int, *, metadata: str = METADATA, prefix: str = "bench") -> Iterator[events.Record]:
    """Events of a phone each."""
    now_ms = int(time.time() * 1000)
    for number in range(count):
        yield events.Record(
            schema=events.SCHEMA,
            session_no=f"{prefix}{number:011d}",
            phone=f"(86)185{number:08d}",
            user_id="1213",
            status=int(Status.DELIVERED),
            previous=int(Status.TRACKED),
            sequence=1,
            corrected=False,
            late=False,
            result="发送成功",
            code="DELIVRD",
            description="短信发送成功",
            receipt_time=now_ms // 1000 - number % 60,
            segments=1,
            observed_ms=now_ms + number // _A_POLL,
            previous_poll_ms=now_ms + number // _A_POLL - 10_000,
            metadata=metadata,
        )


def write_of(record: events.Record, subscription: str) -> Write:
    """What a poll writes of it, for one subscription."""
    phone = PhoneState(record.phone, record.user_id, record.status, 1, record.receipt_time, record.observed_ms, False)
    state = SessionState(
        record.observed_ms, record.observed_ms, record.observed_ms, record.observed_ms, phones=(phone,)
    )
    lane = events.lane_id(record.session_no, record.phone)
    entry = Entry(events.pack(record), [Route(subscription, lane)])
    return Write(record.session_no, ABSENT, state, Due.NONE, record.observed_ms + 259_200_000, [entry])


def _celery(house: House, receiver: Receiver, sizes: Sizes, body: bytes) -> dict[str, float]:
    """One task an event: a worker with Celery's own defaults, its whole tree's CPU from the first task to the last."""
    arguments = ["-m", "celery", "-A", "tests.bench.plain_celery", "worker", "--pool", sizes.celery_pool]
    if sizes.celery_pool != "prefork":
        arguments += ["--concurrency", "16"]
    worker = house.start("celery", *arguments, extra={"BENCH_REDIS_URL": house.server.url})
    try:
        return _drive(worker, house.server.url, receiver, sizes.few, body)
    finally:
        worker.terminate()
        worker.wait(30)


def _drive(worker: Child, broker: str, receiver: Receiver, count: int, body: bytes) -> dict[str, float]:
    before = receiver.requests()
    apart(publish_posts, broker, receiver.url, _WARM_UP, body)
    receiver.wait_for(before + _WARM_UP)
    busy_s, server_s, began_s = cpu_s(worker.pid), server_cpu_s(broker), time.perf_counter()
    publishing = apart(publish_posts, broker, receiver.url, count, body)
    receiver.wait_for(before + _WARM_UP + count)
    return {
        "events/s": count / (time.perf_counter() - began_s),
        "CPU µs/event": (cpu_s(worker.pid) - busy_s) / count * 1e6,
        "CPU µs/event, server": (server_cpu_s(broker) - server_s) / count * 1e6,
        "CPU µs/event, publisher": publishing,
    }


def publish_posts(broker: str, url: str, count: int, body: bytes) -> float:
    """Enqueue the tasks; returns µs of CPU a task."""
    from celery import Celery

    app = Celery("publisher", broker=broker, set_as_current=False)
    event = msgspec.json.decode(body)
    began_s = time.process_time()
    for _ in range(count):
        app.send_task("plain.post", (url, event), ignore_result=True)
    return (time.process_time() - began_s) / count * 1e6
