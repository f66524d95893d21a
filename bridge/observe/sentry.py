"""Errors reported to Sentry, without phones, secrets, or the values of variables."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import sentry_sdk
from sentry_sdk.integrations import DidNotEnable
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
_ARGUMENTS = ("args", "kwargs")


def setup_sentry(dsn: str | None, release: str, transport: type[Transport] | Transport | None = None) -> bool:
    """Report uncaught exceptions and logged errors to ``dsn``; False, and nothing done, without one.

    ``transport`` takes the place of HTTP. To be called before Celery's worker starts, and after
    ``setup_logging``, which makes uncaught exceptions the error lines that are reported.
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
    # Here, because it imports Celery: only a process that reports pays for it. Not dependent on whether Celery was
    # imported before: the worker sets up reporting first.
    try:
        from sentry_sdk.integrations.celery import CeleryIntegration
    except DidNotEnable:
        return wanted
    return [*wanted, CeleryIntegration(propagate_traces=False)]


def _scrubbed(event: Event, _hint: Hint) -> Event | None:
    """The event without what was dropped, everything else scrubbed. If this fails, Sentry's SDK drops the event."""
    kept = {name: value for name, value in cast("Mapping[str, object]", event).items() if name not in _DROPPED}
    # The integration's "celery-job", and "data" and the parameters of the line that Celery logs of a failed task.
    for name in ("extra", "logentry"):
        part = kept.get(name)
        if isinstance(part, Mapping):
            kept[name] = {key: _without_arguments(value) for key, value in part.items()}
    _drop_variables(kept)
    return cast("Event", scrub(kept))


def _without_arguments(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    return {name: member for name, member in value.items() if name not in _ARGUMENTS}


def _drop_variables(value: Any) -> None:
    # include_local_variables=False leaves them out already; an integration that adds its own would not ask.
    if isinstance(value, dict):
        value.pop("vars", None)
        for member in value.values():
            _drop_variables(member)
    elif isinstance(value, list):
        for member in value:
            _drop_variables(member)
