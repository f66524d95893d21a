"""The Lua scripts of ``tasks/lua``: what the Redis channel does in one step on the broker."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

import msgspec


class Script(msgspec.Struct, frozen=True):
    """A Lua file and the SHA-1 that the server knows it by."""

    source: str
    sha: str


@cache
def script(name: str) -> Script:
    """The script ``tasks/lua/<name>.lua``."""
    source = files("tasks").joinpath("lua", f"{name}.lua").read_text()
    return Script(source, hashlib.sha1(source.encode()).hexdigest())  # noqa: S324 - the server's own name for a script
