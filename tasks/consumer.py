"""Celery's consumer, made to end for nothing that a broker or a sender does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

from celery.worker.consumer import Consumer as CeleryConsumer
from vine import promise

from bridge.observe.logs import get_logger
from tasks.intake import Admitted, Unfit, admit, aside

_log = get_logger(__name__)
_steps: list[str] = vars(CeleryConsumer.Blueprint)["default_steps"]
_EVENTS_EVERY_S = 0.25
"""How long the events that Flower sees are gathered. Sent at every turn of the loop, as Celery's own do it, they were a
quarter of what a worker that tracks takes."""


class Consumer(CeleryConsumer):
    """Sets messages aside that cannot be worked on, and outlives its broker."""

    class Blueprint(CeleryConsumer.Blueprint):  # type: ignore[misc,valid-type] # a class that the stubs call a type
        """Without the 28 queues of Celery's own for delays: nothing here is delayed, and a foreign delay is ignored."""

        default_steps = tuple(step for step in _steps if "delayed_delivery" not in step)

    strategies: dict[str, Any]
    _handle: Callable[..., Any]
    app: Any
    hub: Any
    connection_errors: tuple[type[Exception], ...]
    _flush_events: Callable[[], None]
    _events_until = 0.0

    def create_task_handler(self, promise: type[promise] = promise) -> Callable[..., Any]:
        """Celery's handler, given only what it can handle: whatever it raises would end the worker, again and again."""
        handle = super().create_task_handler(promise)

        def on_task_received(message: Any) -> None:
            try:
                _replace(message, admit(message.headers, message.content_type, message.content_encoding, message.body))
            except Unfit as reason:
                _replace(message, aside(str(reason), message.body, _name_of(message)))
            handle(message)

        self._handle = handle
        return on_task_received

    def on_send_event_buffered(self) -> None:  # type: ignore[override] # Celery's gives nothing back either
        """Have the events of tasks sent together. They say themselves when they happened."""
        if self.app.conf.broker_transport_options.get("confirm_publish"):
            super().on_send_event_buffered()  # RabbitMQ: no trip of its own for each, and nothing to save
            return
        # From any thread of the pool: two of them at once only send what there is twice as often.
        now = monotonic()
        if self.hub is not None and now >= self._events_until:
            self._events_until = now + _EVENTS_EVERY_S
            self.hub.call_soon(self.hub.call_later, _EVENTS_EVERY_S, self._flush_events)

    def shutdown(self) -> None:
        """Celery's, once the last events were sent."""
        with suppress(*self.connection_errors):
            self._flush_events()
        super().shutdown()

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Set aside what kombu could not unpack. Celery's logs all of it, phones too, and forgets it."""
        _replace(message, aside(f"{type(exc).__name__}: {exc}"[:200], message.body, _name_of(message)))
        self._handle(message)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Celery's, for a connection whose closing raises nothing.

        Fault of 5.7.0: with messages unacknowledged, closing a connection whose broker is gone raises what is no
        connection error (an AttributeError), and that ended the worker.
        """
        if self.connection is not None:
            self.connection = _Lost(self.connection)  # type: ignore[assignment] # all that is called of it from here
        super().on_connection_error_after_connected(exc)


class _Lost:
    """A connection whose broker is gone: closing it is all that is left, and may not fail."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def close(self) -> None:
        try:
            self._connection.close()
        except Exception as error:  # noqa: BLE001 - whatever a dead connection raises, the next one is made
            _log.debug("closing the lost connection to the broker failed", reason=repr(error))

    release = close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def _replace(message: Any, admitted: Admitted) -> None:
    """Put what is worked on in the place of what came; acknowledging it still acknowledges that."""
    number = admitted.headers["id"]
    message.headers = dict(admitted.headers)
    message.body = admitted.body
    message.content_type, message.content_encoding = "application/json", "utf-8"
    message.properties = {"correlation_id": number, "reply_to": None}
    info = message.delivery_info if isinstance(message.delivery_info, dict) else {}
    message.delivery_info = {
        name: value
        for name, value in info.items()
        if name in ("exchange", "routing_key", "redelivered", "consumer_tag", "delivery_tag")
    }
    message.errors = []
    message._decoded_cache = None  # noqa: SLF001 - it may have been read as it came


def _name_of(message: Any) -> object:
    with suppress(Exception):
        return message.headers.get("task")
    return None
