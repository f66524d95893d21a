"""Runs inside a worker of the harness, by PYTHONPATH: no code of the bridge knows of it.

``FAULTS_INSIDE`` is JSON: ``stops`` are named points at which the process kills itself, at its so manieth passing, if
no other has before it: whoever does leaves a link in ``deaths``, from the point's name to its pid and the time.
``bugs`` are names of mistakes to make (``bugs.py``); ``skew_s`` sets the wall clock off; ``visibility_s`` shortens the
broker's lease and that of sessions, and other waits of minutes; ``authorities`` is a file of certificate authorities to
trust in place of the public ones; ``notes`` is a file to write down in what happened, ``journal`` one for what was
sent and settled (``journal.py``). Points lie at the seams with other programs, which stay where they are when the code
between them is redrawn: what is said to Redis, to the provider, and to receivers.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.abc
import importlib.machinery
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

Patch = Callable[[Any], None]

_given: dict[str, Any] = json.loads(os.environ.get("FAULTS_INSIDE", "{}"))
_lock = threading.Lock()
_stops: dict[str, int] = _given.get("stops", {})
_at_work = threading.Event()
_clock_ns = time.time_ns


def note(text: str) -> None:
    """Add a line to the notes, whole, whoever else writes."""
    descriptor = os.open(_given["notes"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{_clock_ns() // 1_000_000} {os.getpid()} {text}\n".encode())
    os.close(descriptor)


def passing(point: str) -> None:
    """Die here, if it is this point's time."""
    if not _at_work.is_set() and point in {"provider:before", "post:before"}:
        _at_work.set()
        note("at work")
    if point not in _stops:
        return
    with _lock:
        _stops[point] -= 1
        if _stops[point] == 0 and _is_first_at(point):
            os.kill(os.getpid(), signal.SIGKILL)


def _is_first_at(point: str) -> bool:
    """Take a point for this process. At once, and with all that is to be known: it may be killed at any moment."""
    try:
        Path(_given["deaths"], point).symlink_to(f"{os.getpid()} {_clock_ns() // 1_000_000}")
    except FileExistsError:
        return False
    return True


def _scripts() -> dict[bytes, str]:
    """The names of the bridge's scripts by what stands for each on the wire: any product module would be too early."""
    found = {}
    for folder in ("bridge/store/lua", "tasks/lua"):
        for file in Path(_given["root"]).joinpath(folder).glob("*.lua"):
            # The server's own name for a script.
            found[hashlib.sha1(file.read_bytes()).hexdigest().encode()] = file.stem  # noqa: S324
    return found


def _watch_redis(module: Any) -> None:
    """``<script>:before`` it is sent, and ``:after`` its reply is read; so BRPOP of a stock channel."""
    wanted = {point.partition(":")[0] for point in _stops}
    marks = {mark: name for mark, name in {**_scripts(), b"BRPOP": "BRPOP"}.items() if name in wanted}
    if not marks:
        return
    connection = module.AbstractConnection
    send, read = connection.send_packed_command, connection.read_response

    def sending(self: Any, command: Any, *args: Any, **options: Any) -> Any:
        pieces = [command] if isinstance(command, bytes | str) else command
        packed = b"".join(piece.encode() if isinstance(piece, str) else bytes(piece) for piece in pieces)
        said = [name for mark, name in marks.items() if mark in packed]
        for name in said:
            passing(f"{name}:before")
        self.faults_said = said
        return send(self, command, *args, **options)

    def reading(self: Any, *args: Any, **options: Any) -> Any:
        reply = read(self, *args, **options)
        if getattr(self, "faults_said", []) and reply is not None:
            said, self.faults_said = self.faults_said, []
            for name in said:
                passing(f"{name}:after")
        return reply

    connection.send_packed_command = sending
    connection.read_response = reading


def _watch_requests(module: Any) -> None:
    """``provider:before`` a call and ``provider:after`` its answer."""
    send = module.HTTPAdapter.send

    def sending(self: Any, *args: Any, **options: Any) -> Any:
        passing("provider:before")
        answer = send(self, *args, **options)
        passing("provider:after")
        return answer

    module.HTTPAdapter.send = sending


def _watch_pycurl(module: Any) -> None:
    """``post:before`` it is handed to libcurl, and ``post:after`` its answer has come."""
    made: Any = module.CurlMulti

    class Multi(made):  # type: ignore[misc]  # a class of a C module
        def add_handle(self, curl: Any) -> Any:
            passing("post:before")
            return super().add_handle(curl)

        def info_read(self, *args: Any) -> Any:
            told = super().info_read(*args)
            if told[1]:
                passing("post:after")
            return told

    module.CurlMulti = Multi


def _shorten_leases(module: Any) -> None:
    options = getattr(module, "broker_transport_options", {})
    if "visibility_timeout" in options:
        options["visibility_timeout"] = _given["visibility_s"]


def _shorten_polls(module: Any) -> None:
    """Sessions that a killed worker had claimed come back after seconds, as all else does here."""
    if hasattr(module, "_SHORTEST_LEASE_MS"):
        module._SHORTEST_LEASE_MS = 5_000


def _shorten_probes(module: Any) -> None:
    """An account whose keys were refused is asked for again after a second or two."""
    module._FIRST_PROBE_MS, module._LONGEST_PROBE_MS = 1_000, 2_000


def _shorten_breakers(module: Any) -> None:
    """A receiver that failed ten times is left alone for seconds, and not for half a minute and then ever longer."""
    module.BreakerPolicy = functools.partial(module.BreakerPolicy, first_ms=1_000, longest_ms=4_000)


def _forget_names(module: Any) -> None:
    """Names are looked up again after a second."""
    option = module.pycurl.DNS_CACHE_TIMEOUT
    module._CONSTANT_OPTIONS = tuple((name, 1 if name == option else value) for name, value in module._CONSTANT_OPTIONS)


def _trust(module: Any) -> None:
    module.where = lambda: _given["authorities"]


def _skew(off_s: float) -> None:
    """Have the wall clock tell another time. (Under libfaketime, which shifts it for a whole process, Python's sleeps
    fail.) The monotonic clock is left alone, as by whoever sets the time."""
    clock: Any = time
    now, now_ns, universal, local = time.time, time.time_ns, time.gmtime, time.localtime
    clock.time = lambda: now() + off_s
    clock.time_ns = lambda: now_ns() + int(off_s * 1e9)
    clock.gmtime = lambda seconds=None: universal(now() + off_s if seconds is None else seconds)
    clock.localtime = lambda seconds=None: local(now() + off_s if seconds is None else seconds)


class _Loader(importlib.abc.Loader):
    """Another's loader, and what is to be changed once it is done."""

    def __init__(self, inner: Any, patches: Sequence[Patch]) -> None:
        self._inner = inner
        self._patches = patches

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._inner.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)
        for patch in self._patches:
            patch(module)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, patches: dict[str, list[Patch]]) -> None:
        self._patches = patches

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._patches:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._patches[fullname])
        return spec


def install() -> None:
    """Change what is to be changed, as it is imported."""
    patches: dict[str, list[Patch]] = {
        "redis.connection": [_watch_redis],
        "requests.adapters": [_watch_requests],
        "pycurl": [_watch_pycurl],
    }
    if "journal" in _given:
        # Beside this file, on the worker's own path. After the points: who dies at one has not heard what comes next.
        from journal import Journal  # type: ignore[import-not-found]

        journal = Journal(_given["journal"], _clock_ns)
        patches["pycurl"].append(journal.watch_pycurl)
        patches["redis.connection"].append(functools.partial(journal.watch_redis, scripts=_scripts()))
    if "visibility_s" in _given:
        patches["tasks.config"] = [_shorten_leases]
        patches["bridge.wiring"] = [_shorten_polls]
        patches["bridge.domain.rate"] = [_shorten_probes]
        patches["bridge.policies"] = [_shorten_breakers]
        patches["bridge.delivery.handles"] = [_forget_names]
    if "authorities" in _given:
        patches["certifi"] = [_trust]
    if _given.get("bugs"):
        import bugs  # type: ignore[import-not-found]  # beside this file, on the worker's own path

        chance = random.Random(_given.get("seed", 1))
        for name in _given["bugs"]:
            where, patch = bugs.BUGS[name]
            patches.setdefault(where, []).append(functools.partial(patch, chance=chance, note=note))
    sys.meta_path.insert(0, _Finder(patches))


if _given:
    install()
    if _given.get("skew_s"):
        _skew(_given["skew_s"])
