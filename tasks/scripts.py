"""The Lua scripts of ``tasks/lua``: what the Redis channel does in one step on the broker."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from importlib.resources.abc import Traversable

import msgspec


class Script(msgspec.Struct, frozen=True):
    """A Lua file and the SHA-1 that the server knows it by."""

    source: str
    sha: str


def _read(file: Traversable) -> Script:
    source = file.read_text()
    return Script(source, hashlib.sha1(source.encode()).hexdigest())  # noqa: S324 - the server's own name for a script


# All of them now: a process that is out of descriptors must not need one later.
_SCRIPTS = {file.name: _read(file) for file in files("tasks").joinpath("lua").iterdir()}


def script(name: str) -> Script:
    """The script ``tasks/lua/<name>.lua``."""
    return _SCRIPTS[f"{name}.lua"]
