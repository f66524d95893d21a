"""Errors as RFC 9457 problem details, all of one form: what was asked for in vain tells nothing of what there is."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, cast

import msgspec
from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException
from litestar.openapi import ResponseSpec

from bridge.errors import BridgeError
from bridge.observe.logs import get_logger

_log = get_logger(__name__)
PROBLEM_JSON = "application/problem+json"
_DETAILS = {
    404: "There is nothing here, or it is not yours.",
    405: "This does not take the method.",
    413: "The body is too large.",
}


class Problem(msgspec.Struct, omit_defaults=True):
    """What a problem has in it, for documents."""

    type: str
    title: str
    status: int
    detail: str
    field: str | msgspec.UnsetType = msgspec.UNSET
    failures: dict[str, str] | msgspec.UnsetType = msgspec.UNSET


def documented(description: str) -> ResponseSpec:
    """A problem as the OpenAPI document has it."""
    return ResponseSpec(
        Problem, generate_examples=False, description=description, media_type=cast("MediaType", PROBLEM_JSON)
    )


def problem(status: int, detail: str, **more: object) -> Response[dict[str, object]]:
    """A problem; ``more`` are further members, such as ``field``."""
    body: dict[str, object] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    headers = {"Retry-After": "5"} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    return Response(
        {**body, "detail": detail, **more},
        status_code=status,
        media_type=PROBLEM_JSON,
        headers=headers,
    )


def not_found() -> Response[dict[str, object]]:
    """The answer to whatever is not there, and to whatever the asker may not know of."""
    return problem(404, _DETAILS[404])


def refused(_request: Request[Any, Any, Any], error: HTTPException) -> Response[dict[str, object]]:
    """What the framework refuses."""
    status = error.status_code
    answer = problem(status, _DETAILS.get(status, error.detail))
    # A 405 says in a header what there is instead (RFC 9110, 15.5.6).
    answer.headers.update(error.headers or {})
    return answer


def failed(_request: Request[Any, Any, Any], error: Exception) -> Response[dict[str, object]]:
    """What went wrong here: the asker learns that, and the log the rest. Not the path: it may hold a secret."""
    if isinstance(error, BridgeError):
        _log.warning("request could not be served", reason=str(error))
        return problem(503, "The bridge cannot do this now: try again.")
    _log.error("request failed", exc_info=error)
    return problem(500, "This is a bug of the bridge: its log says more.")
