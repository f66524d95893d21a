"""What was measured on, and how: CPU of processes, medians, and one measurement in a process of its own."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, TypeVar

import redis

from bridge.delivery.libcurl import pycurl

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
    return own + sum(cpu_s(child) for child in _children(pid))


def _children(pid: int) -> list[int]:
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for one in lists for child in one.read_text().split()]


def median_by(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure over several rounds; of an even number, the lower middle one."""
    return {name: sorted(one[name] for one in rounds)[(len(rounds) - 1) // 2] for name in rounds[0]}


def describe_machine(store_url: str) -> dict[str, str]:
    """Machine and versions, as a table's caption."""
    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    about = redis.Redis.from_url(store_url, protocol=2).info("server")
    return {
        "machine": f"{os.cpu_count()} × {models[0] if models else platform.machine()}",
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "python": platform.python_version(),
        "libcurl": pycurl.version_info()[1],
        "server": f"{about.get('server_name', 'redis')} {about.get('valkey_version', about['redis_version'])}",
        "celery": version("celery"),
        "redis-py": version("redis"),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text(errors="replace").splitlines() if Path(path).exists() else []
