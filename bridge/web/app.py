"""The HTTP application of ``bridge web``. What it asks of the store and the broker comes in as functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import anyio
import anyio.to_thread
from litestar import Litestar, Response, get
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig

from bridge.errors import BridgeError
from bridge.web.problems import documented, failed, problem, refused
from bridge.web.push import Pushes, push_route

CHECK_WITHIN_S = 5.0  # a load balancer's own patience is seldom more than 10 s
CHECKS_AT_ONCE = 16  # a check that hangs keeps its thread: so many, and no more, can


def create_app(
    checks: Mapping[str, Callable[[], None]], pushes: Pushes, *, check_within_s: float = CHECK_WITHIN_S
) -> Litestar:
    """The application. ``checks`` are what ``/readyz`` runs, by name; each raises BridgeError, saying what to do."""
    limiter = anyio.CapacityLimiter(CHECKS_AT_ONCE)

    @get("/healthz", summary="Is this process up?", tags=["health"])
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @get(
        "/readyz",
        summary="Are the store and the broker reachable?",
        tags=["health"],
        raises=[],
        responses={503: documented("One of them is not: `failures` says which, and what to do.")},
    )
    async def readyz() -> Response[dict[str, object]]:
        failures: dict[str, str] = {}

        async def run(name: str, check: Callable[[], None]) -> None:
            found = await _problem_of(check, check_within_s, limiter)
            if found:
                failures[name] = found

        async with anyio.create_task_group() as group:
            for name, check in checks.items():
                group.start_soon(run, name, check)
        if not failures:
            return Response({"status": "ok"})
        return _not_ready({name: failures[name] for name in checks if name in failures})

    return Litestar(
        route_handlers=[healthz, readyz, push_route(pushes)],
        exception_handlers={HTTPException: refused, Exception: failed},
        openapi_config=OpenAPIConfig(title="usms-bridge", version="1"),
        # Logging is the process's, set up once where it starts.
        logging_config=None,
    )


async def _problem_of(check: Callable[[], None], within_s: float, limiter: anyio.CapacityLimiter) -> str:
    """What a check found wrong, "" if nothing."""
    try:
        with anyio.fail_after(within_s):
            await anyio.to_thread.run_sync(check, abandon_on_cancel=True, limiter=limiter)
    except TimeoutError:
        return f"no answer within {within_s:g} s"
    except BridgeError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - a check that fails in an unforeseen way means not ready, too
        return f"the check itself failed ({type(error).__name__})"
    return ""


def _not_ready(failures: Mapping[str, str]) -> Response[dict[str, object]]:
    """A problem with a member ``failures``: what is not reachable, and what to do about it."""
    detail = "; ".join(f"{name}: {found}" for name, found in failures.items())
    return problem(503, detail, failures=dict(failures))
