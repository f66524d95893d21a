"""Log lines on stderr, for people or as JSON; ours and every library's take the same way, and are scrubbed at its end.

Everything goes through the standard library's logging, so that Sentry and tests see what is written.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

import structlog

from bridge.observe.scrub import scrub

_FIELDS = "bridge_fields"
# These install handlers of their own, which would write past the scrubber.
_WITH_HANDLERS = (
    *("celery", "celery.task", "celery.redirected", "kombu", "amqp", "flower"),
    *("uvicorn", "uvicorn.error", "uvicorn.access", "litestar", "tornado", "tornado.access", "tornado.application"),
)
# At INFO and DEBUG they tell of each connection and request, with its URL.
_TALKATIVE = ("urllib3", "kombu", "amqp", "asyncio", "tornado.access", "httpx")


def setup_logging(log_format: Literal["console", "json"] = "console", level: int | str = "INFO") -> None:
    """Send every log line of this process to stderr, scrubbed. Calling it again replaces what it did before.

    Uncaught exceptions of the process and its threads are log lines too.
    """
    _configure_structlog()
    handler = _Handler(sys.stderr)
    handler.setFormatter(_Formatter(log_format, colors=sys.stderr.isatty()))
    root = logging.getLogger()
    # Exactly these: a test's or a tool's own handlers are subclasses, and none of our business.
    root.handlers = [kept for kept in root.handlers if type(kept) not in (logging.StreamHandler, _Handler)]
    root.addHandler(handler)
    root.setLevel(level)
    for name in _WITH_HANDLERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose calls take an event and fields: ``log.info("session settled", session_no=…)``."""
    if not structlog.is_configured():
        # Its own default prints to stdout, unscrubbed, in a process that never calls setup_logging.
        _configure_structlog()
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger


def _configure_structlog() -> None:
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.PositionalArgumentsFormatter(),
            _as_record,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


def _as_record(
    _logger: object, _method: str, event_dict: MutableMapping[str, Any]
) -> tuple[tuple[str], dict[str, object]]:
    # The exception travels as the record's own, where Sentry looks for it.
    options = {name: event_dict.pop(name) for name in ("exc_info", "stack_info") if name in event_dict}
    return (str(event_dict.pop("event", "")),), {**options, "extra": {_FIELDS: dict(event_dict)}}


class _Handler(logging.StreamHandler[Any]):
    """Writes to stderr. A line that cannot be written is told of without its arguments, which may hold phones."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        error = sys.exc_info()[0]
        if not logging.raiseExceptions or issubclass(error or Exception, BrokenPipeError):
            return
        # It may be stderr itself that cannot be written: a full disk must not end what somebody wished to log.
        with suppress(OSError):
            sys.stderr.write(
                f"a log line of {record.name}:{record.lineno} was lost ({getattr(error, '__name__', '?')})\n"
            )


class _Formatter(logging.Formatter):
    """A record as one line (and its traceback), every part scrubbed."""

    def __init__(self, log_format: Literal["console", "json"], *, colors: bool) -> None:
        super().__init__()
        self._is_json = log_format == "json"
        self._console = structlog.dev.ConsoleRenderer(
            colors=colors, exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
        )

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        fields = getattr(record, _FIELDS, {})
        # A field named like one of these must not stand in its place.
        line |= {name + "_" * (name in line): value for name, value in fields.items()}
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        scrubbed = scrub(line)
        if not isinstance(scrubbed, dict):
            raise TypeError("a scrubbed mapping is a mapping")
        if self._is_json:
            return json.dumps(scrubbed, ensure_ascii=False, default=str)
        return str(self._console(None, "", scrubbed))


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("bridge").critical("uncaught exception", exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None:
        _log_uncaught(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
