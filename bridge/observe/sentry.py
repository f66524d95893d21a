"""Errors reported to Sentry, without phones, secrets, or the values of variables."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import sentry_sdk
from sentry_sdk.integrations.argv import ArgvIntegration
from sentry_sdk.integrations.excepthook import ExcepthookIntegration
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.integrations.modules import ModulesIntegration
from sentry_sdk.integrations.stdlib import StdlibIntegration
from sentry_sdk.integrations.threading import ThreadingIntegration

from bridge.observe.scrub import scrub

if TYPE_CHECKING:
    from sentry_sdk.integrations import Integration
    from sentry_sdk.transport import Transport
    from sentry_sdk.types import Event, Hint

# Parts that hold what was given to us rather than what went wrong.
_DROPPED = ("breadcrumbs", "user", "request")
_DROPPED_OF_A_JOB = ("args", "kwargs")


def setup_sentry(dsn: str | None, release: str, transport: type[Transport] | Transport | None = None) -> bool:
    """Report uncaught exceptions and logged errors to ``dsn``; False, and nothing done, without one.

    ``transport`` takes the place of HTTP. To be called before Celery's worker starts, and after ``celery`` is
    imported where tasks are to be reported; after ``setup_logging``, whose handling of uncaught exceptions it wraps.
    """
    if not dsn:
        return False
    sentry_sdk.init(
        dsn=dsn,
        release=release,
        transport=transport,
        before_send=_scrubbed,
        before_send_transaction=_scrubbed,
        # Each of these would send phones: in variables of frames, in earlier log lines, in requests. (send_default_pii
        # is off unless set, and newer releases of the SDK warn wherever it is.)
        include_local_variables=False,
        max_breadcrumbs=0,
        max_request_body_size="never",
        # Lines of source beside each frame: the release and the line number tell as much.
        include_source_context=False,
        # It would add headers to the requests to the provider.
        trace_propagation_targets=[],
        auto_session_tracking=False,
        # Enabling everything that happens to be installed imports it, and patches it.
        auto_enabling_integrations=False,
        integrations=_integrations(),
        disabled_integrations=[
            ArgvIntegration(),  # a command line holds phones and secrets
            ModulesIntegration(),  # the release tells
            StdlibIntegration(),  # URLs of requests, and arguments of subprocesses
            # setup_logging makes each uncaught exception an error line, which is reported: once is enough.
            ExcepthookIntegration(),
            ThreadingIntegration(),
        ],
    )
    return True


def _integrations() -> list[Integration]:
    wanted: list[Integration] = [LoggingIntegration(level=None, event_level=logging.ERROR)]
    # Only in a process that uses it already: the bridge itself knows nothing of Celery.
    if "celery" in sys.modules:
        from sentry_sdk.integrations.celery import CeleryIntegration

        wanted.append(CeleryIntegration(propagate_traces=False))
    return wanted


def _scrubbed(event: Event, _hint: Hint) -> Event | None:
    """The event without what was dropped, everything else scrubbed. If this fails, Sentry's SDK drops the event."""
    kept = {name: value for name, value in cast("Mapping[str, object]", event).items() if name not in _DROPPED}
    extra = kept.get("extra")
    if isinstance(extra, Mapping):
        kept["extra"] = {name: _job(value) if name == "celery-job" else value for name, value in extra.items()}
    _drop_variables(kept)
    return cast("Event", scrub(kept))


def _job(value: object) -> object:
    if not isinstance(value, Mapping):
        return None
    return {name: member for name, member in value.items() if name not in _DROPPED_OF_A_JOB}


def _drop_variables(value: Any) -> None:
    # include_local_variables=False leaves them out already; an integration that adds its own would not ask.
    if isinstance(value, dict):
        value.pop("vars", None)
        for member in value.values():
            _drop_variables(member)
    elif isinstance(value, list):
        for member in value:
            _drop_variables(member)
