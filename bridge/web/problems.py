"""Errors as RFC 9457 problem details, all of one form: what was asked for in vain tells nothing of what there is."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException

from bridge.errors import BridgeError
from bridge.observe.logs import get_logger

_log = get_logger(__name__)
_DETAILS = {
    404: "There is nothing here, or it is not yours.",
    405: "This does not take the method.",
    413: "The body is too large.",
}


def problem(status: int, detail: str, **more: object) -> Response[dict[str, object]]:
    """A problem; ``more`` are further members, such as ``field``."""
    body: dict[str, object] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    headers = {"Retry-After": "5"} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    return Response(
        {**body, "detail": detail, **more},
        status_code=status,
        media_type="application/problem+json",
        headers=headers,
    )


def not_found() -> Response[dict[str, object]]:
    """The answer to whatever is not there, and to whatever the asker may not know of."""
    return problem(404, _DETAILS[404])


def refused(_request: Request[Any, Any, Any], error: HTTPException) -> Response[dict[str, object]]:
    """What the framework refuses."""
    status = error.status_code
    return problem(status, _DETAILS.get(status, error.detail))


def failed(_request: Request[Any, Any, Any], error: Exception) -> Response[dict[str, object]]:
    """What went wrong here: the asker learns that, and the log the rest. Not the path: it may hold a secret."""
    if isinstance(error, BridgeError):
        _log.warning("request could not be served", reason=str(error))
        return problem(503, "The bridge cannot do this now: try again.")
    _log.error("request failed", exc_info=error)
    return problem(500, "This is a bug of the bridge: its log says more.")
