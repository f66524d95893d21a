"""Headers that a subscriber wants with its callbacks, such as a token for its gateway: which may be asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from bridge.errors import UsageError

MOST_HEADERS = 20
MOST_BYTES = 8_192
"""Of all headers together: what servers commonly take for a request's whole head, and ours is under 1 kB."""

_is_token = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}").fullmatch  # RFC 9110, 5.6.2
_is_value = re.compile(r"[!-~](?:[ -~]*[!-~])?").fullmatch  # printable ASCII, no space at either end
# Ours, or the connection's and the body's own; the last row would change what is answered, and how.
_TAKEN = frozenset(
    [
        "host",
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "te",
        "trailer",
        "upgrade",
        "http2-settings",
        "user-agent",
        "accept-encoding",
        "expect",
        "range",
    ]
)
_TAKEN_PREFIXES = ("content-", "webhook-", "proxy-", "svix-")
"""``svix-``: Standard Webhooks libraries verify by headers of these names too."""


def parse_headers(given: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """The (name, value) of each ``NAME=VALUE``. Raises UsageError, which never quotes a value."""
    return check_headers([_split(one) for one in given])


def check_headers(headers: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """``headers``, if callbacks may carry them. Raises UsageError, which never quotes a value."""
    if len(headers) > MOST_HEADERS:
        raise UsageError(f"--header: at most {MOST_HEADERS} of them, not {len(headers)}")
    seen: set[str] = set()
    for name, value in headers:
        _check(name, value)
        if _plain(name) in seen:
            raise UsageError(f"--header {name}: given twice; give it once, with commas within its value if need be")
        seen.add(_plain(name))
    if sum(len(name) + len(value) + 4 for name, value in headers) > MOST_BYTES:
        raise UsageError(f"--header: more than {MOST_BYTES:,} bytes in all; shorten the values")
    return tuple(headers)


def changed_headers(
    headers: Sequence[tuple[str, str]], given: Sequence[tuple[str, str]], dropped: Iterable[str]
) -> tuple[tuple[str, str], ...]:
    """``headers`` with those given, each in place of what there was of its name, and without those dropped.

    Raises UsageError: one that is dropped is not there, or callbacks may not carry what comes of it.
    """
    there = {_plain(name) for name, _ in headers}
    for name in dropped:
        if _plain(name) not in there:
            raise UsageError(f"--drop-header: there is no {name[:40]!a}")
    gone = {_plain(name) for name in (*dropped, *(name for name, _ in given))}
    return check_headers([*(one for one in headers if _plain(one[0]) not in gone), *given])


def _split(given: str) -> tuple[str, str]:
    name, separator, value = given.partition("=")
    if not separator:
        # What was given is not quoted: it may be the value alone.
        raise UsageError("--header: give NAME=VALUE, such as --header X-Tenant=7")
    return name, value


def _check(name: str, value: str) -> None:
    if not _is_token(name):
        raise UsageError(f"--header: {name[:40]!a} is no name of a header: letters, digits and hyphens, 128 at most")
    plain = _plain(name)
    if plain in _TAKEN or plain.startswith(_TAKEN_PREFIXES):
        raise UsageError(f"--header {name}: callbacks have a {plain} of their own, or none; choose another name")
    if not _is_value(value):
        raise UsageError(
            f"--header {name}: a value is printable ASCII without a space at either end, and not empty; percent-encode "
            "or base64-encode what is not"
        )


def _plain(name: str) -> str:
    # CGI and WSGI hand ``webhook_id`` to an application under the name of ``webhook-id``.
    return name.lower().replace("_", "-")
