"""Secrets as commands take them: from files or the standard input, never as an argument that `ps` shows."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from bridge.domain.credentials import Identity
from bridge.domain.durations import parse_duration_ms
from bridge.domain.signing import decode_secret
from bridge.errors import UsageError

SecretFile = Annotated[
    str | None,
    typer.Option(metavar="F|-", help="Take the secret (whsec_…, of 24 to 64 bytes) from a file. Default: a fresh one."),
]
_LONGEST_FILE = 65_536
_LONGEST_OVERLAP_MS = 7 * 24 * 3600 * 1000


def read_secret(path: str | None) -> bytes:
    """The signing key in a file or, for ``-``, on standard input; b"" where none is given. Raises UsageError."""
    if path is None:
        return b""
    try:
        return decode_secret(read_file("--secret-file", path).decode().strip())
    except UnicodeError:
        raise UsageError("--secret-file: a secret is whsec_ followed by base64; this is no text") from None
    except ValueError as error:
        raise UsageError(f"--secret-file: {error}") from None


def read_file(option: str, path: str) -> bytes:
    """What a file or standard input (``-``) holds: up to 64 kB. Raises UsageError."""
    try:
        if path == "-":
            found = sys.stdin.buffer.read(_LONGEST_FILE + 1)
        else:
            with Path(path).expanduser().open("rb") as file:
                found = file.read(_LONGEST_FILE + 1)
    except OSError as error:
        raise UsageError(f"{option}: {path} cannot be read ({error.strerror})") from None
    if len(found) > _LONGEST_FILE:
        raise UsageError(f"{option}: {path} has more than 64 kB")
    return found


def read_identity(certificate: str | None, key: str | None, authorities: str | None) -> tuple[Identity, int] | None:
    """What the files hold that connections are to be made with, and when it expires. Raises UsageError."""
    if certificate is None and key is None and authorities is None:
        return None
    from bridge.delivery.identity import parse_identity

    return parse_identity(
        _given("--client-cert", certificate),
        _given("--client-key", key),
        _given("--ca-file", authorities),
        datetime.now(UTC),
    )


def _given(option: str, path: str | None) -> bytes:
    if path is None:
        return b""
    content = read_file(option, path)
    if not content:
        raise UsageError(f"{option}: {path} is empty")
    return content


def parse_overlap_ms(text: str) -> int:
    """``--overlap``: a duration from 0s to 7d. Raises UsageError."""
    try:
        overlap_ms = parse_duration_ms("0s" if text.strip() == "0" else text)
    except ValueError as error:
        raise UsageError(f"--overlap: {error}") from None
    if overlap_ms > _LONGEST_OVERLAP_MS:
        raise UsageError(f"--overlap: {text} is longer than 7d; a secret that is kept for longer is not rotated out")
    return overlap_ms
