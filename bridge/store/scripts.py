"""Lua scripts, as they are shipped beside the code: ``<package>/lua/<name>.lua``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources import files

import msgspec


class Script(msgspec.Struct, frozen=True):
    """A Lua file and the SHA-1 that the server knows it by."""

    source: str
    sha: str


def read_scripts(package: str) -> Mapping[str, Script]:
    """All scripts of a package, by name.

    To be called as a module is loaded: a process that is out of descriptors, or whose files an upgrade replaces, must
    not need one later.
    """
    sources = {file.name.removesuffix(".lua"): file.read_text() for file in files(package).joinpath("lua").iterdir()}
    return {
        name: Script(source, hashlib.sha1(source.encode()).hexdigest())  # noqa: S324 - the server's own name for a script
        for name, source in sources.items()
    }
