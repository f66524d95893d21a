"""What a task carries, as Celery's events and logs show it: nothing.

A sender's own ``argsrepr`` travels in its message's headers, phones and all, to Flower and into log lines. The worker
replaces it before anything has read it.
"""

from __future__ import annotations

from typing import Any

from celery.worker.request import Request

HIDDEN = "(hidden)"


class RedactedRequest(Request):
    """A received task whose arguments nobody is shown."""

    def __init__(self, message: Any, **options: Any) -> None:
        headers = dict(options.pop("headers", None) or message.headers)
        headers["argsrepr"] = headers["kwargsrepr"] = HIDDEN
        super().__init__(message, headers=headers, **options)
