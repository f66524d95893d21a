"""The Celery app and its tasks. `bridge worker` starts it; `celery -A tasks.app` would too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from celery import Celery, Task
from celery.exceptions import Reject
from celery.signals import celeryd_init, worker_shutting_down

from bridge.domain.tracking import is_account
from bridge.errors import BridgeError
from bridge.observe.logs import get_logger
from tasks.process import Process
from tasks.shutdown import StopSignal, end_within

_log = get_logger(__name__)
_PAUSE_S = 2.0
"""Before a message goes back to its queue: a store that is down is not asked in a loop."""

app = Celery("usms-bridge", set_as_current=False)
app.config_from_object("tasks.config")


def _put_back(name: str, args: tuple[Any, ...], error: BridgeError) -> None:
    """Have a task run again later. On RabbitMQ by a new message: its release 4 drops one that was put back 20 times."""
    if not app.conf.broker_transport_options.get("confirm_publish"):
        raise Reject(str(error), requeue=True) from error
    try:
        app.send_task(name, args=args)
    except Exception as refused:  # noqa: BLE001 - whatever it was, the message is still here
        raise Reject(str(refused), requeue=True) from error


def _send(name: str, args: tuple[str, ...]) -> None:
    app.send_task(name, args=args)


class _Processes:
    """The process that this code runs in: a forked pool worker must not use its parent's connections.

    ``most_polls`` may run at once in each.
    """

    def __init__(self) -> None:
        self.most_polls = 1
        self._by_pid: dict[int, Process] = {}
        # Made before any pool process is: those share it.
        self._stopping = StopSignal()

    def current(self) -> Process:
        return self._by_pid.setdefault(os.getpid(), Process(_send, self._stopping, self.most_polls))

    def stop(self) -> None:
        """Have tasks end early, those of pool processes too."""
        self._stopping.set()


processes = _Processes()


@celeryd_init.connect
def _share_threads(options: Mapping[str, Any], **_details: object) -> None:
    """Of a worker's threads polls leave three: for tracking, a tick, and a slice of delivery."""
    processes.most_polls = max(1, (options.get("concurrency") or 0) - 3)


# shared=False: another Celery app in the same process is not given ours.
# typing=False: whatever a foreign sender passes is met inside, where it can be kept aside with its reason.
@app.task(name="bridge.track", shared=False, typing=False, bind=True)
def track(
    task: Task[..., None],
    /,
    items: Any = None,
    account: Any = "default",
    origin: Any = None,
    *_more: Any,
    **_unknown: Any,
) -> None:
    """Record sessions: see ``bridge.track``. The one task that carries data, so it is never given up.

    ``origin`` is who sent the message that this one stands for, where a worker had to put that one back.
    """
    process = processes.current()
    origin = origin or task.request.origin
    try:
        process.track(items, account, origin)
    except BridgeError as error:
        _log.warning("tracking put back into its queue", reason=str(error))
        process.wait(_PAUSE_S)
        _put_back("bridge.track", (items, account, origin), error)


@app.task(name="bridge.set_aside", shared=False, typing=False)
def set_aside(start: Any = "", reason: Any = "", *_more: Any, **_unknown: Any) -> None:
    """Keep a message aside that no task can work on: tasks/consumer.py puts this one in its place."""
    process = processes.current()
    try:
        process.set_aside(str(start), str(reason))
    except BridgeError as error:
        _log.warning("a message that cannot be read stays in its queue", reason=str(error))
        process.wait(_PAUSE_S)
        _put_back("bridge.set_aside", (start, reason), error)


# What a newer release says beside it is left alone, here as above.
@app.task(name="bridge.tick", shared=False, typing=False)
def tick(*_more: Any, **_unknown: Any) -> None:
    """Wake what is due."""
    processes.current().tick()


@app.task(name="bridge.poll", shared=False, typing=False)
def poll(account: Any = "default", *_more: Any, **_unknown: Any) -> None:
    """Ask the provider about an account's due sessions."""
    if isinstance(account, str) and is_account(account):
        processes.current().poll(account)


@app.task(name="bridge.deliver", shared=False, typing=False)
def deliver(*_more: Any, **_unknown: Any) -> None:
    """Send what is due."""
    processes.current().deliver()


@app.task(name="bridge.trim", shared=False, typing=False)
def trim(*_more: Any, **_unknown: Any) -> None:
    """Remove what has been kept for long enough."""
    processes.current().trim()


@worker_shutting_down.connect
def _stop(**_details: Any) -> None:
    processes.stop()
    end_within()
