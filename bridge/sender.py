"""``track()`` for sending services: checks the sessions, and puts one Celery message on the broker.

Light: it needs only ``celery[redis]``, imports it at the first call, and reads no ``.env``. One call opens one short
thread, because nothing else bounds a name lookup or a broker that answers a byte at a time; the message may still
arrive after BrokerUnreachable, which is harmless: tracking a session twice sends no second event.
"""

from __future__ import annotations

import contextvars
import json
import os
import re
import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from bridge.domain.server_urls import BrokerAddress, broker_address, safe_url
from bridge.domain.tracking import MAX_MESSAGE_BYTES, is_account, parse_items, to_wire
from bridge.errors import BrokerUnreachable, SettingsError, UsageError

if TYPE_CHECKING:
    from celery import Celery
    from kombu import Connection

TASK = "bridge.track"
QUEUE = "bridge.track"
_POLL = "bridge.poll"  # the name of both the task and its queue
WITHIN_S = 4.8
"""The promise is 5 s; the rest is for starting the thread on a busy machine."""

_SOCKET_TIMEOUT_S = 2.0
_BESIDE_BYTES = 4_096  # the account and Celery's own part of a body
_CONNECTIONS = 10
_refuses_login = re.compile(r"noauth|wrongpass|noperm|access.?refused|invalid.*password|authentication", re.IGNORECASE)


def track(items: object, account: str = "default", *, broker_url: str | None = None) -> str:
    """Track SMS sessions: returns the id of the Celery message that asks for it.

    ``items`` is a list of SessionNos, or of mappings with ``session_no`` and optionally ``phones``, ``phone_count``,
    ``metadata``, ``callback_url`` and ``sent_at``. ``broker_url`` goes before BRIDGE_BROKER_URL (or
    BRIDGE_BROKER_URL_FILE), and that before BRIDGE_REDIS_URL (or BRIDGE_REDIS_URL_FILE).

    Raises InvalidSession (nothing is sent), UsageError for a wrong account name or more than 16 MiB of items,
    SettingsError where no broker is set, and BrokerUnreachable within 5 s.
    """
    requests = parse_items(items)
    if not is_account(str(account)):
        raise UsageError("account: give 1 to 32 of the characters a-z, 0-9, _ and -")
    wire = [to_wire(request) for request in requests]
    size = len(json.dumps(wire))
    if size > MAX_MESSAGE_BYTES - _BESIDE_BYTES:
        raise UsageError(
            f"{len(wire):,} sessions make a message of {size:,} bytes, which workers refuse: give at most "
            f"{MAX_MESSAGE_BYTES:,} bytes a call, and call again for the rest"
        )
    return _send(
        broker_url,
        TASK,
        QUEUE,
        args=[wire],
        kwargs={"account": account},
        # They travel in the message's headers, where Flower and logs would show them: the default is the items.
        argsrepr=f"[{len(requests)} sessions]",
        kwargsrepr=f"{{'account': '{account}'}}",
    )


def ask_for_poll(account: str, *, broker_url: str) -> None:
    """Have a worker poll what is due of an account: a hint, which may be lost or repeated.

    Raises BrokerUnreachable within 5 s.
    """
    _send(broker_url, _POLL, _POLL, args=[account])


def _send(given_url: str | None, task: str, queue: str, **message: object) -> str:
    address = _address(given_url)
    broker = _broker(address)
    try:
        return _within(WITHIN_S, partial(_publish, broker, task, queue, message))
    except Exception as error:  # noqa: BLE001 - redis, amqp, socket and kombu share no base class, and name passwords
        raise BrokerUnreachable(_reason(error, address)) from None


@dataclass(frozen=True, kw_only=True)
class _Broker:
    """A Celery app and its connections. Not kombu's own pools: those belong to the host's Celery app, if it has one."""

    app: Celery
    connection: Connection
    connections: Any  # kombu's ConnectionPool, which its type stubs leave out


class _Brokers:
    """One broker per URL and process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.by_url: dict[str, _Broker] = {}
        self.inherited: list[dict[str, _Broker]] = []

    def get(self, address: BrokerAddress) -> _Broker:
        with self.lock:
            if address.url not in self.by_url:
                self.by_url[address.url] = _connectable(address)
            return self.by_url[address.url]

    def after_fork(self) -> None:
        # Another thread may have held the lock, and the parent goes on using the sockets: never closed from here,
        # since closing an AMQP connection says goodbye in the parent's name.
        self.lock = threading.Lock()
        self.inherited.append(self.by_url)
        self.by_url = {}


_brokers = _Brokers()
os.register_at_fork(after_in_child=_brokers.after_fork)


def _broker(address: BrokerAddress) -> _Broker:
    return _brokers.get(address)


def _connectable(address: BrokerAddress) -> _Broker:
    from celery import Celery
    from kombu import Connection, Exchange, Queue

    app = Celery("bridge-sender", set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_queues=[
            Queue(name, Exchange(name), routing_key=name, queue_arguments=address.queue_arguments)
            for name in (QUEUE, _POLL)
        ],
    )
    # Not the app's own connection: CELERY_BROKER_URL in the environment, which is the host's, would go before ours.
    connection = Connection(
        address.url,
        connect_timeout=_SOCKET_TIMEOUT_S,
        transport_options={**_transport_options(address), **address.transport_options},
        ssl=dict(address.ssl) or False,
    )
    return _Broker(app=app, connection=connection, connections=connection.Pool(_CONNECTIONS))


def _transport_options(address: BrokerAddress) -> dict[str, object]:
    # Without max_retries kombu would go on connecting in the abandoned thread.
    options: dict[str, object] = {"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2}
    if address.is_redis:
        return options | {
            "socket_connect_timeout": _SOCKET_TIMEOUT_S,
            "socket_timeout": _SOCKET_TIMEOUT_S,
            "socket_keepalive": True,
        }
    # A message that RabbitMQ has not confirmed may be lost with the connection.
    return options | {"confirm_publish": True, "read_timeout": _SOCKET_TIMEOUT_S, "write_timeout": _SOCKET_TIMEOUT_S}


def _publish(broker: _Broker, task: str, queue: str, message: Mapping[str, Any]) -> str:
    from celery.backends.base import DisabledBackend

    message_id = str(uuid.uuid4())
    with broker.connections.acquire(block=True, timeout=WITHIN_S) as connection, connection.Producer() as producer:
        broker.app.send_task(
            task,
            task_id=message_id,
            queue=queue,
            producer=producer,
            **message,
            ignore_result=True,
            # CELERY_RESULT_BACKEND in the environment is the host's.
            result_cls=partial(  # type: ignore[arg-type] # called like a class, and only that
                broker.app.AsyncResult, backend=DisabledBackend(app=broker.app)
            ),
            add_to_parent=False,
            # Once more on a fresh connection: a pooled one may have been closed by the broker meanwhile.
            retry=True,
            retry_policy={"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2},
        )
    return message_id


def _within(seconds: float, work: Callable[[], str]) -> str:
    """The result of ``work``, or TimeoutError; then it is left to end by itself in its thread."""
    done: Future[str] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            done.set_result(context.run(work))
        except BaseException as error:  # noqa: BLE001 - it is the caller's thread that has to see it
            done.set_exception(error)

    # A daemon: a broker that hangs must not keep a service from exiting.
    threading.Thread(target=run, name="bridge-track", daemon=True).start()
    return done.result(seconds)


def _address(broker_url: str | None) -> BrokerAddress:
    name, url = ("broker_url", broker_url) if broker_url else _configured()
    try:
        return broker_address(url)
    except ValueError as error:
        raise SettingsError(f"{name}: {error}") from None


def _configured() -> tuple[str, str]:
    environ = os.environ  # read here too, because settings.py needs pydantic, which a sending service lacks
    for name in ("BRIDGE_BROKER_URL", "BRIDGE_REDIS_URL"):
        url, path = environ.get(name, "").strip(), environ.get(f"{name}_FILE", "").strip()
        if url and path:
            raise SettingsError(f"{name}: given, and {name}_FILE too; give one of them")
        if path:
            return f"{name}_FILE", _read(f"{name}_FILE", path)
        if url:
            return name, url
    raise SettingsError("BRIDGE_BROKER_URL: not set; give the URL of the bridge's broker, such as redis://HOST:6379/0")


def _read(name: str, path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError, RuntimeError) as error:
        raise SettingsError(f"{name}: {path} cannot be read ({type(error).__name__})") from None


def _reason(error: BaseException, address: BrokerAddress) -> str:
    cause = error.__cause__ or error
    text = _without_secrets(" ".join(str(cause).split()), address)
    broker = f"the broker at {safe_url(address.url)}"
    if _refuses_login.search(f"{type(cause).__name__} {text}"):
        return f"{broker} refuses the login: check the user and password in BRIDGE_BROKER_URL"
    if "OOM" in text or type(cause).__name__ == "OutOfMemoryError":
        return f"{broker} is out of memory and takes no messages: try again later, and tell its operator"
    if "timeout" in type(cause).__name__.lower():
        return f"{broker} does not answer within 5 s: check BRIDGE_BROKER_URL, and that it runs"
    return f"{broker} cannot be reached ({type(cause).__name__}: {text[:200]}): check BRIDGE_BROKER_URL"


def _without_secrets(text: str, address: BrokerAddress) -> str:
    for url in address.url.split(";"):
        for secret in (urlsplit(url).password, urlsplit(url).query):
            for spelling in {secret, unquote(secret)} if secret else ():
                text = text.replace(spelling, "***")
    return text
