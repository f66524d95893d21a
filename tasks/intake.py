"""What a worker lets in: messages of our tasks that can be read; of all others, why not.

Whatever a foreign sender put into a message's headers is left behind: only the task's name, its id and the machine that
sent it are of use, and each of the rest (a bad ``eta``, a ``retries`` that is no number, an ``argsrepr`` full of
phones) has crashed or betrayed some worker. A message of an older or a newer release is read as far as it is
understood.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import msgspec

from bridge.domain.tracking import MAX_MESSAGE_BYTES, machine_of
from tasks.envelopes import KEPT_BYTES, MALFORMED

SET_ASIDE = "bridge.set_aside"
"""The task that keeps a message aside which cannot be worked on: the store is the pool's to wait for."""

TASKS = frozenset({"bridge.track", "bridge.tick", "bridge.poll", "bridge.deliver", "bridge.trim", SET_ASIDE})

HIDDEN = "(hidden)"
_MOST_ID_CHARS = 255


class Unfit(Exception):
    """A message that no task of ours can work on; its text is the reason."""


class Admitted(msgspec.Struct, frozen=True):
    """A message as the worker goes on with it: protocol 2, with headers of our own making."""

    headers: Mapping[str, object]
    body: bytes


def admit(headers: object, content_type: object, content_encoding: object, body: object) -> Admitted:
    """Check a message and make it plain. Raises Unfit, with the reason."""
    if isinstance(headers, Mapping) and isinstance(headers.get(MALFORMED), str):
        raise Unfit(str(headers[MALFORMED]))
    text = body.encode(errors="replace") if isinstance(body, str) else body
    if not isinstance(text, bytes | bytearray | memoryview):
        raise Unfit(f"a body of type {type(body).__name__}")
    if len(text) > MAX_MESSAGE_BYTES:
        raise Unfit(f"a body of {len(text):,} bytes: give at most {MAX_MESSAGE_BYTES:,}, and send the rest apart")
    if content_type != "application/json":
        raise Unfit(f"the content type {str(content_type)[:60]!r}: give application/json")
    if str(content_encoding).lower() not in ("utf-8", "us-ascii", "binary", "none"):
        raise Unfit(f"the content encoding {str(content_encoding)[:60]!r}: give utf-8")
    given: Mapping[Any, Any] = headers if isinstance(headers, Mapping) else {}
    name, args, kwargs, number = _call(given, _decoded(bytes(text)))
    if name not in TASKS:
        raise Unfit(f"the unknown task {str(name)[:60]!r}")
    if not isinstance(number, str) or not 0 < len(number) <= _MOST_ID_CHARS or not number.isprintable():
        number = str(uuid4())
    # Only JSON's own types are in it: what was read is written again.
    named = {str(key): value for key, value in kwargs.items()}
    return _admitted(name, number, list(args), named, machine_of(given.get("origin")))


def aside(reason: str, body: object, name: object = None) -> Admitted:
    """The message that has an unfit one kept aside, in the place of that one."""
    raw = body.tobytes() if isinstance(body, memoryview) else body
    text = raw if isinstance(raw, str) else raw.decode(errors="replace") if isinstance(raw, bytes) else repr(raw)
    start = text[:KEPT_BYTES].encode(errors="replace").decode()
    if isinstance(name, str) and name not in TASKS and name not in reason:
        reason = f"{name[:60]}: {reason}"
    return _admitted(SET_ASIDE, str(uuid4()), [start, reason], {})


def _decoded(text: bytes) -> object:
    try:
        # The standard library's, as Celery's own: msgspec refuses NaN and what lies deeper than it likes.
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unfit(f"a body that is not JSON ({type(error).__name__})") from None


def _call(headers: Mapping[Any, Any], body: object) -> tuple[str, Any, Mapping[Any, Any], object]:
    """The task's name, its positional and named arguments and its id, of protocol 2 or 1."""
    if "task" in headers:
        if not isinstance(body, list) or len(body) < 2:
            raise Unfit("a body that is not [args, kwargs, …]")
        name, number, (args, kwargs) = headers["task"], headers.get("id"), body[:2]
    elif isinstance(body, dict) and "task" in body:
        name, number, args, kwargs = body["task"], body.get("id"), body.get("args"), body.get("kwargs")
    else:
        raise Unfit("no task: neither a header nor the body names one")
    if not isinstance(name, str):
        raise Unfit(f"a task's name of type {type(name).__name__}")
    args, kwargs = [] if args is None else args, {} if kwargs is None else kwargs
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise Unfit("args that are no list, or kwargs that are no object")
    return name, args, kwargs, number


def _admitted(name: str, number: str, args: list[object], kwargs: dict[str, object], origin: str = "") -> Admitted:
    headers = {
        "lang": "py",
        "task": name,
        "id": number,
        "root_id": number,
        "parent_id": None,
        "group": None,
        "shadow": None,
        "eta": None,
        "expires": None,
        "retries": 0,
        "timelimit": [None, None],
        "argsrepr": HIDDEN,
        "kwargsrepr": HIDDEN,
        "origin": origin,
        "ignore_result": True,
    }
    return Admitted(headers=headers, body=json.dumps([args, kwargs, {}]).encode())
