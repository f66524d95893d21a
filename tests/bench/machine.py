"""What was measured on, and how: CPU of processes and servers, and one measurement in a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

import redis

from bridge.delivery.libcurl import pycurl
from bridge.store.server_program import find_server_binary
from tests.processes import children

P = ParamSpec("P")
T = TypeVar("T")

_TICKS = os.sysconf("SC_CLK_TCK")


def apart(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of ``work`` in a fresh process: no other sender's memory, sockets or threads in its figures."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *args, **kwargs).result()


def cpu_s(pid: int) -> float:
    """Seconds of CPU, user and system, of a process, its children and those that have ended and were waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = sum(map(int, fields[11:15])) / _TICKS
    return own + sum(cpu_s(child) for child in children(pid))


def server_cpu_s(url: str) -> float:
    """Seconds of CPU, user and system, that a Redis or Valkey server has taken."""
    with redis.Redis.from_url(url, protocol=2) as client:
        cpu = cast("dict[str, float]", client.info("cpu"))
    return cpu["used_cpu_user"] + cpu["used_cpu_sys"]


def describe() -> dict[str, str]:
    """The machine, and the versions of what is measured on it."""
    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "machine": models[0] if models else platform.machine(),
        "cores": str(os.cpu_count()),
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "libcurl": pycurl.version_info()[1],
        "server": _server_version(),
        "Celery": version("celery"),
        "redis-py": version("redis"),
    }


def _server_version() -> str:
    """Of the server that is embedded: ``Valkey 9.1.2``."""
    said = subprocess.run([find_server_binary(), "--version"], capture_output=True, text=True, timeout=10, check=True)
    name, _, rest = said.stdout.partition(" server v=")
    return f"{name} {rest.split()[0]}"


def load() -> str:
    """The machine's load averages, of 1, 5 and 15 minutes."""
    return " ".join(f"{one:.1f}" for one in os.getloadavg())


def _lines(path: str) -> list[str]:
    return Path(path).read_text(errors="replace").splitlines() if Path(path).exists() else []
