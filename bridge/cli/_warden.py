"""Ends a family of processes when its parent is gone, by whatever means: even ``kill -9``.

Run by ``bridge.cli.family`` as a script, with ``python -I -S``, so it may import nothing but the quick parts of the
standard library. It leads the process group that every child of the family is started in, and reads its standard
input, which only the parent holds open: at its end the parent is gone. Lines on it, ended by a newline::

    dir HEX       remove this directory at the end; hex of its path, which may hold any byte
    grace S       seconds between SIGTERM and SIGKILL

Why only processes of the family are ever signalled: the group's number is this process's id, which the system gives
to nobody else while this process runs, and a process can join a group only from within the same session.
"""

import os
import signal
import stat
import time
from contextlib import suppress

GRACE_S = 10.0
KILL_WITHIN_S = 5.0  # a process in an uninterruptible wait does not even die by SIGKILL; directories go all the same
POLL_S = 0.02


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    directories, grace_s = _read_until_the_parent_is_gone()
    group = os.getpid()
    try:
        _leave_the_group()
    except OSError:  # no process can be made: without waiting, then, and this one ends with the others
        for directory in directories:
            _remove(directory)
        os.killpg(group, signal.SIGKILL)
    _signal(group, signal.SIGTERM)
    if not _wait_until_empty(group, grace_s):
        _signal(group, signal.SIGKILL)
        _wait_until_empty(group, KILL_WITHIN_S)
    for directory in directories:
        _remove(directory)


def _read_until_the_parent_is_gone() -> tuple[list[str], float]:
    received = b""
    while block := os.read(0, 65536):
        received += block
    directories, grace_s = [], GRACE_S
    # What follows the last newline was cut off by the parent's death: it has not been acted upon there either.
    for line in received.split(b"\n")[:-1]:
        word, _, value = line.partition(b" ")
        if word == b"dir":
            directories.append(os.fsdecode(bytes.fromhex(value.decode())))
        elif word == b"grace":
            grace_s = float(value)
    return directories, grace_s


def _leave_the_group() -> None:
    """Move this process to another group, so that the family's is empty when its children are gone.

    Its leader cannot make itself another one; a child made for the purpose can lend its own. Being out of it, this
    process can also see when a child that was just being started has lost its group: it then never runs.
    """
    lender = os.fork()
    if lender == 0:
        signal.alarm(5)  # its end if this process is killed here
        signal.pause()
        os._exit(0)
    os.setpgid(lender, lender)
    os.setpgid(0, lender)
    os.kill(lender, signal.SIGKILL)
    os.waitpid(lender, 0)


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # empty; macOS says EPERM where all are zombies
        os.killpg(group, number)


def _wait_until_empty(group: int, limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while _has_members(group):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)  # nothing tells when others' children end
    return True


def _has_members(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    # Orphans that have ended stay in the group until the system's first process reaps them: in some containers never.
    try:
        ids = [name for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - pathlib takes 10 ms to import
    except OSError:
        return True
    return not ids or any(_is_running(process, group) for process in ids)


def _is_running(process: str, group: int) -> bool:
    try:
        with open(f"/proc/{process}/stat", "rb") as file:  # noqa: PTH123 - as above
            state, _parent, its_group = file.read().rpartition(b")")[2].split()[:3]
    except OSError:
        return False
    return int(its_group) == group and state not in {b"Z", b"X"}


def _remove(directory: str) -> None:
    with suppress(OSError):
        found = os.lstat(directory)
        # Somebody else may have made one of that name before the parent could: it is not ours to remove.
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid():
            import shutil

            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
