"""Beat's clock: it goes on whatever the wall clock does, and sends no more than somebody takes."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

from celery.beat import Scheduler as CeleryScheduler
from celery.schedules import schedule

from bridge.observe.logs import get_logger

_log = get_logger(__name__)

QUEUE = "bridge.control"
MOST_WAITING = 10
"""Messages that may wait for a worker. With all of them away for a night there would be tens of thousands, and an
``expires`` of Celery's compares the clocks of two machines: a worker an hour ahead would take no tick at all."""

_LOOK_EACH_S = 5.0

_begun = (datetime.now(UTC), monotonic())


def steady_now() -> datetime:
    """The wall clock as it was when this process began, carried on by the monotonic one."""
    then, ticked = _begun
    return then + timedelta(seconds=monotonic() - ticked)


def every(seconds: float) -> schedule:
    """A schedule that a wall clock which is set back by an hour does not stop for an hour."""
    return schedule(seconds, nowfun=steady_now)


class Scheduler(CeleryScheduler):
    """Celery's scheduler, without a file, and quiet while nobody takes what it sends."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._is_quiet = False
        self._looked_at = -_LOOK_EACH_S
        super().__init__(*args, **options)

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send what is due. Celery's writes two stack traces each second that the broker refuses."""
        try:
            self.apply_async(entry, producer=producer, advance=False)
        except Exception as error:  # noqa: BLE001 - kombu and Celery share no base class; the next second tries again
            _log.warning("beat could not send", task=entry.task, reason=str(error)[:200])
            self._reconnect()

    def _reconnect(self) -> None:
        """Have the next task sent through a new connection: what looked at the queue does not mend the old one."""
        cached = self.__dict__  # Celery keeps its connection, and the producer on it, as properties that are made once
        cached.pop("producer", None)
        connection = cached.pop("connection", None)
        if connection is not None:
            with suppress(Exception):
                connection.release()

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **options: Any) -> Any:
        """Send a task, unless so many wait already that one more is of no use."""
        now = monotonic()
        if not self._is_quiet and now - self._looked_at < _LOOK_EACH_S:
            return super().apply_async(entry, producer=producer, advance=advance, **options)
        self._looked_at = now
        declared: Any = self.app.amqp.queues[QUEUE](producer.channel).queue_declare()
        waiting = declared.message_count
        quiet = waiting >= MOST_WAITING
        if quiet != self._is_quiet:
            self._is_quiet = quiet
            if quiet:
                _log.warning("no worker takes what beat sends; it sends no more until one does", waiting=waiting)
            else:
                _log.info("workers take what beat sends again")
        return None if quiet else super().apply_async(entry, producer=producer, advance=advance, **options)
