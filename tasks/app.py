"""The Celery app and its five tasks. `bridge worker` starts it; `celery -A tasks.app` would too."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, Task
from celery.exceptions import Reject
from celery.signals import worker_shutting_down

from bridge.errors import BridgeError
from bridge.observe.logs import get_logger
from tasks.process import Process

_log = get_logger(__name__)
_PAUSE_S = 2.0
"""Before a message goes back to its queue: a store that is down is not asked in a loop."""

app = Celery("usms-bridge", set_as_current=False)
app.config_from_object("tasks.config")
app.Task.Request = "tasks.redaction:RedactedRequest"


def _send(name: str, args: tuple[str, ...]) -> None:
    app.send_task(name, args=args)


class _Processes:
    """The process that this code runs in: a forked pool worker must not use its parent's connections."""

    def __init__(self) -> None:
        self._by_pid: dict[int, Process] = {}

    def current(self) -> Process:
        return self._by_pid.setdefault(os.getpid(), Process(_send))


processes = _Processes()


# shared=False: another Celery app in the same process is not given ours.
# typing=False: whatever a foreign sender passes is met inside, where it can be kept aside with its reason.
@app.task(name="bridge.track", shared=False, typing=False, bind=True)
def track(task: Task[..., None], /, items: Any = None, account: Any = "default", *_more: Any, **_unknown: Any) -> None:
    """Record sessions: see ``bridge.track``. The one task that carries data, so it is never given up."""
    process = processes.current()
    try:
        process.track(items, account, task.request.origin)
    except BridgeError as error:
        _log.warning("tracking put back into its queue", reason=str(error))
        process.wait(_PAUSE_S)
        raise Reject(str(error), requeue=True) from error


@app.task(name="bridge.tick", shared=False)
def tick() -> None:
    """Wake what is due."""
    processes.current().tick()


@app.task(name="bridge.poll", shared=False)
def poll(account: str = "default") -> None:
    """Ask the provider about an account's due sessions."""
    processes.current().poll(account)


@app.task(name="bridge.deliver", shared=False)
def deliver() -> None:
    """Send what is due."""
    processes.current().deliver()


@app.task(name="bridge.trim", shared=False)
def trim() -> None:
    """Remove what has been kept for long enough."""
    processes.current().trim()


@worker_shutting_down.connect
def _stop(**_details: Any) -> None:
    processes.current().stop()
