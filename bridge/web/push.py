"""``POST /v1/provider/usms/{account}/{token}``: the provider's own push, taken as a hint and never as the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread
from litestar import Request, Response, post
from litestar.background_tasks import BackgroundTask
from litestar.handlers import HTTPRouteHandler

from bridge.domain.tracking import is_account
from bridge.provider.push import ACKNOWLEDGED, MAX_BODY_BYTES, parse_push
from bridge.web.problems import documented, not_found, problem

_AT_ONCE = 8  # the store's answers: a flood keeps no thread from anybody else
_LONGEST_TOKEN = 128


@dataclass(frozen=True, kw_only=True)
class Pushes:
    """What the route asks of the store, each from a thread of its own; each raises BridgeError.

    ``admits`` says whether a token is an account's. ``hint`` makes sessions due, and says whether that is any sooner
    than before: then ``wake`` makes somebody poll the account.
    """

    admits: Callable[[str, str], bool]
    hint: Callable[[str, Sequence[str]], bool]
    wake: Callable[[str], None]


def push_route(pushes: Pushes) -> HTTPRouteHandler:
    """The route."""
    limiter = anyio.CapacityLimiter(_AT_ONCE)

    async def wake(account: str) -> None:
        await anyio.to_thread.run_sync(pushes.wake, account, limiter=limiter)

    @post(
        "/v1/provider/usms/{account:str}/{token:str}",
        summary="The provider's own push: the sessions that it names are polled at once",
        tags=["provider"],
        status_code=200,
        request_max_body_size=MAX_BODY_BYTES,
        responses={
            400: documented("The push is not as the provider documents it: `field` says where."),
            404: documented("No such account, or another's token."),
            413: documented("The body is too large."),
            503: documented("The store does not answer: push again."),
        },
        raises=[],
    )
    async def take(request: Request[Any, Any, Any]) -> Response[dict[str, object]]:
        account, token = request.path_params["account"], request.path_params["token"]
        if not is_account(account) or len(token) > _LONGEST_TOKEN:
            return not_found()
        # Before the body is read: who does not know the token makes nobody work, and learns nothing.
        if not await anyio.to_thread.run_sync(pushes.admits, account, token, limiter=limiter):
            return not_found()
        push = parse_push(await request.body())
        sooner = await anyio.to_thread.run_sync(pushes.hint, account, push.session_nos, limiter=limiter)
        # Once it is answered: the provider does not wait for our broker.
        woken = BackgroundTask(wake, account) if sooner else None
        if push.wrong:
            answer = problem(400, f"{push.field}: {push.wrong}", field=push.field)
            answer.background = woken
            return answer
        return Response(dict[str, object](ACKNOWLEDGED), background=woken)

    return take
