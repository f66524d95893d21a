"""A family of child processes that never outlives its parent.

However the parent ends (well, by an error, SIGINT, SIGTERM, SIGHUP or ``kill -9``), no child, no grandchild and no
temporary directory of the family remains. A *warden* process sees to it: it leads the process group in which each
child is started, and it reads a pipe that only the parent holds open (``_warden.py``). What leaves that group by
itself (``setsid``, a daemon) is beyond it; nothing that the bridge starts does.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, NoReturn, Self

from bridge.errors import BridgeError

STOP_WITHIN_S = 15.0  # a worker's delivery slice takes up to 10 s to end
EACH_AT_LEAST_S = 2.0  # for the last ones (the server syncs its file), when the first ones took all of the time
KILL_WITHIN_S = 5.0
WARDEN_GRACE_S = 3.0  # for grandchildren, once each child has ended
WARDEN_WITHIN_S = 30.0
TAIL_LINES = 8
_COLOURS = ("36", "33", "32", "35", "34", "31")
_WARDEN = Path(__file__).with_name("_warden.py")


class Child:
    """One started process. Its output is in ``log_file``, or is shown with its name before each line."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log_file: Path | None, log_from: int) -> None:
        self.name = name
        self.log_file = log_file
        self._process = process
        self._log_from = log_from
        self._recent: deque[str] = deque(maxlen=TAIL_LINES)
        self._reader: threading.Thread | None = None
        self.wanted = True

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit code (negative: the signal that killed it); None while it runs."""
        return self._process.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait up to ``timeout`` seconds for its end; raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout)

    def terminate(self) -> None:
        """SIGTERM; its end is then no failure for ``Family.check``."""
        self.wanted = False
        self._process.terminate()

    def kill(self) -> None:
        """SIGKILL; its end is then no failure for ``Family.check``."""
        self.wanted = False
        self._process.kill()

    def last_lines(self) -> str:
        """The end of what it wrote."""
        if self.log_file is None:
            if self._reader is not None and self.poll() is not None:
                self._reader.join(1.0)
            return "\n".join(self._recent)
        try:
            lines = self.log_file.read_bytes()[self._log_from :].decode(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-TAIL_LINES:])

    def show(self, screen: Screen, prefix: str) -> None:
        """Start showing its output, from a thread of its own."""

        def run(stream: IO[bytes]) -> None:
            # Read to the end even where nothing can be shown any more: a full pipe would stop the child.
            with stream:
                for line in stream:
                    text = line.decode(errors="replace").rstrip("\r\n")
                    self._recent.append(text)
                    screen.write(f"{prefix}{text}\n")

        if self._process.stdout is not None:
            self._reader = threading.Thread(
                target=run, args=(self._process.stdout,), name=f"output of {self.name}", daemon=True
            )
            self._reader.start()

    def finish_showing(self) -> None:
        if self._reader is not None:
            self._reader.join(KILL_WITHIN_S)


class Screen:
    """Standard output, for lines of several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._colours = itertools.cycle(_COLOURS)
        self.is_gone = False

    def prefix(self, name: str) -> str:
        text = f"{name:<9} | "
        if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
            return f"\x1b[{next(self._colours)}m{text}\x1b[0m"
        return text

    def write(self, text: str) -> None:
        with self._lock:
            try:
                if not self.is_gone:
                    sys.stdout.write(text)
                    sys.stdout.flush()
            except (OSError, ValueError):  # a closed pipe, a closed stream
                self.is_gone = True


class Family:
    """Use as a context manager, from the main thread if signals are to end it well.

    ``name`` is part of its temporary directory's name. With ``handle_signals``, SIGTERM and SIGHUP raise SystemExit
    (128 + signal) and SIGINT KeyboardInterrupt in the ``with`` block; a second one, while it stops, kills what is
    left at once. ``stop_within_s``: how long all children together may take to end after SIGTERM.
    """

    def __init__(self, name: str, *, handle_signals: bool = True, stop_within_s: float = STOP_WITHIN_S) -> None:
        self._name = name
        self._stop_within_s = stop_within_s
        self._handle_signals = handle_signals
        self._handlers: dict[int, object] = {}
        self._children: list[Child] = []
        self._screen = Screen()
        self._root: Path | None = None
        self._warden: subprocess.Popen[bytes] | None = None
        self._starting = self._stopping = self._hurry = False
        self._pending: int | None = None

    def __enter__(self) -> Self:
        self._warden = subprocess.Popen(  # noqa: S603 - this interpreter, and a file of this package
            [sys.executable, "-I", "-S", str(_WARDEN)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            process_group=0,
        )
        if self._warden.stdout is not None:
            os.set_blocking(self._warden.stdout.fileno(), False)
        if self._handle_signals and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                # One that is ignored (nohup) or handled by the program stays so.
                if signal.getsignal(number) in {signal.SIG_DFL, signal.default_int_handler}:
                    self._handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        log_file: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Child:
        """Start a program; raises BridgeError where it cannot be.

        ``env`` is its whole environment, this process's own by default. Its output is appended to ``log_file``, or
        shown on standard output with ``name`` before each line.
        """
        warden = self._living_warden()
        log_from = log_file.stat().st_size if log_file is not None and log_file.exists() else 0
        with self._uninterrupted():
            try:
                process = _popen(argv, env, log_file, pass_fds, warden.pid)
            except OSError as error:
                raise BridgeError(f"cannot start {name} ({argv[0]}): {error.strerror}") from error
            child = Child(name, process, log_file, log_from)
            self._children.append(child)
        child.show(self._screen, self._screen.prefix(name) if log_file is None else "")
        return child

    def temporary_directory(self, name: str = "tmp") -> Path:
        """A new directory that is removed when the family ends, however it ends."""
        if self._root is None:
            root = Path(tempfile.gettempdir()).resolve() / f"usms-bridge-{self._name}-{secrets.token_hex(8)}"
            # Told before it is made: a kill between the two leaves nothing behind.
            self._tell(f"dir {os.fsencode(root).hex()}")
            root.mkdir(mode=0o700)
            self._root = root
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._root))

    def check(self) -> None:
        """Raises BridgeError that names a child that ended by itself, with the end of its output.

        Raises BrokenPipeError when the reader of our own output has gone.
        """
        for child in self._children:
            code = child.poll()
            if code is None or not child.wanted:
                continue
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            lines = child.last_lines()
            raise BridgeError(f"{child.name} {how}" + (f"; its last lines:\n{lines}" if lines else ""))
        if self._screen.is_gone:
            raise BrokenPipeError
        self._living_warden()

    def stop(self) -> None:
        """End all: SIGTERM in reverse order of starting, each awaited, then SIGKILL. Harmless when repeated."""
        warden = self._warden
        if warden is None:
            return
        self._stopping = True
        deadline = time.monotonic() + self._stop_within_s
        for child in reversed(self._children):
            self._stop_child(child, max(deadline, time.monotonic() + EACH_AT_LEAST_S))
        # It ends what the children have left behind, and removes the directories after that.
        self._dismiss(warden)
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
        for child in self._children:
            child.finish_showing()
        self._warden = None
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # it is what signal.signal returned
        self._handlers.clear()

    def _stop_child(self, child: Child, deadline: float) -> None:
        child.terminate()
        while child.poll() is None and not self._hurry and time.monotonic() < deadline:
            with suppress(subprocess.TimeoutExpired):
                child.wait(0.1)
        child.kill()
        with suppress(subprocess.TimeoutExpired):
            child.wait(KILL_WITHIN_S)

    def _dismiss(self, warden: subprocess.Popen[bytes]) -> None:
        if self._is_gone(warden):
            # Somebody killed it. It has not been reaped, so its id is still its own, and so is the group's.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(warden.pid, signal.SIGKILL)
        else:
            with suppress(BridgeError):
                self._tell(f"grace {WARDEN_GRACE_S}")
        if warden.stdin is not None:
            warden.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            warden.wait(WARDEN_WITHIN_S)
        if warden.stdout is not None:
            warden.stdout.close()

    def _living_warden(self) -> subprocess.Popen[bytes]:
        if self._warden is None:
            raise BridgeError("the family has not been started, or has ended")
        if self._is_gone(self._warden):
            raise BridgeError("the process that watches over this one's children was killed; start again")
        return self._warden

    @staticmethod
    def _is_gone(warden: subprocess.Popen[bytes]) -> bool:
        """By the end of its output, not by ``poll``: that would reap it, and its id must stay reserved."""
        if warden.stdout is None:
            return True
        try:
            return os.read(warden.stdout.fileno(), 1) == b""
        except BlockingIOError:
            return False

    def _tell(self, line: str) -> None:
        warden = self._living_warden()
        if warden.stdin is not None:
            try:
                warden.stdin.write(line.encode() + b"\n")
            except BrokenPipeError:
                raise BridgeError("the process that watches over this one's children was killed") from None

    @contextmanager
    def _uninterrupted(self) -> Iterator[None]:
        """A signal in here is acted upon at its end: no child is started and then not known of."""
        self._starting = True
        try:
            yield
        finally:
            self._starting = False
        if self._pending is not None:
            _raise_for(self._pending)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._stopping:
            self._hurry = True
        elif self._starting:
            self._pending = number
        else:
            _raise_for(number)


def _raise_for(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _popen(
    argv: Sequence[str],
    env: Mapping[str, str] | None,
    log_file: Path | None,
    pass_fds: Sequence[int],
    group: int,
) -> subprocess.Popen[bytes]:
    # The group is set before the program runs: there is no moment at which a child is not in it.
    with open(os.devnull if log_file is None else log_file, "ab") as log:  # noqa: PTH123 - os.devnull is no Path
        return subprocess.Popen(  # noqa: S603 - the family's owner says what to run
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if log_file is None else log,
            stderr=subprocess.STDOUT,
            pass_fds=tuple(pass_fds),
            process_group=group,
        )
