"""``python -m tasks worker|beat|flower``: what ``bridge worker``, ``bridge beat`` and ``bridge flower`` become.

A process of its own kind from the start, because ``bridge`` itself imports nothing of Celery.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from bridge.domain.server_urls import safe_url
from bridge.errors import BridgeError, BrokerUnreachable, UsageError
from bridge.settings import Settings, load_settings
from bridge.wiring import Bridge, observe
from tasks.starting import when_reachable

if TYPE_CHECKING:
    from celery import Celery

_QUEUES = "bridge.track,bridge.control,bridge.poll,bridge.deliver"
_BROKER_TIMEOUT_S = 5


def main(argv: Sequence[str]) -> int:
    """Check that everything needed is there, then become the process that was asked for. Returns the exit code."""
    kind, *options = argv
    try:
        settings = load_settings()
        observe(settings)
        return _KINDS[kind](settings, options)
    except BridgeError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code


def _worker(settings: Settings, options: Sequence[str]) -> int:
    when_reachable(lambda: _check_store(settings, _can_work))
    arguments = ["--pool", "threads", "--queues", _QUEUES, "--without-gossip", "--without-mingle", *options]
    return _run(["--quiet", "worker", *arguments])


def _can_work(bridge: Bridge) -> None:
    """Raise at once, with one clear line, what would otherwise fail task after task."""
    bridge.providers.require_some()
    _ = bridge.secret_box


def _beat(settings: Settings, options: Sequence[str]) -> int:
    when_reachable(lambda: _check_store(settings))
    return _run(["--quiet", "beat", *options])


def _check_store(settings: Settings, check: Callable[[Bridge], None] = lambda _bridge: None) -> None:
    bridge = Bridge(settings)
    try:
        check(bridge)
    finally:
        bridge.close()


def _flower(_settings: Settings, options: Sequence[str]) -> int:
    return _run(["flower", *options])


def _run(argv: Sequence[str]) -> int:
    from celery.exceptions import CPendingDeprecationWarning, SecurityWarning
    from celery.signals import setup_logging as celery_sets_up_logging

    from tasks.app import app

    # A receiver is all it takes for Celery to leave logging alone.
    celery_sets_up_logging.connect(_leave_logging_alone)
    # Celery warns of root because of pickle, and no message here may be one. In containers root is the rule.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    # And, at each loss of the broker, of a default that it will change one day.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
    when_reachable(lambda: _declare_queues(app))
    # The stubs say that it returns nothing; it returns the exit code of what ended it.
    return cast("int | None", app.start(list(argv))) or 0


def _declare_queues(app: Celery) -> None:
    from amqp.exceptions import PreconditionFailed
    from kombu.exceptions import OperationalError

    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=_BROKER_TIMEOUT_S)
            for queue in app.conf.task_queues:
                queue(connection.default_channel).declare()
    except PreconditionFailed as error:
        raise UsageError(
            f"RabbitMQ has a queue of the same name and another kind ({error.reply_text}): take what is in it, delete "
            "it with `rabbitmqctl delete_queue NAME`, and start workers before senders"
        ) from error
    except (OSError, OperationalError) as error:
        broker = safe_url(app.conf.broker_url)
        raise BrokerUnreachable(
            f"the broker {broker} does not answer ({type(error).__name__}): check BRIDGE_BROKER_URL and that it runs"
        ) from error


def _leave_logging_alone(**_details: object) -> None:
    pass


_KINDS: dict[str, Callable[[Settings, Sequence[str]], int]] = {
    "worker": _worker,
    "beat": _beat,
    "flower": _flower,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
