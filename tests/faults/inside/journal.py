"""What a worker did, written down from within as it happens: its POSTs, its words to the store, and what kept it.

A POST is marked with a header, ``x-attempt``, that names it; the receiver's record has it too. So of each attempt it is
known which process made it, whether libcurl told of an answer, and whether its outcome was handed to the store: what a
duplicate may be excused with. Noted at the seams with libcurl and Redis, of which the bridge's code knows nothing; each
line is written at once, so that a ``kill -9`` loses none but the one that it cuts off.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

MARK = b"x-attempt"
_HOLD = re.compile(rb"u\{(\d+)\}:hold:(.+)", re.DOTALL)
_LATE_S = 0.3
"""A thread that only sleeps and is later than this was kept from running: stopped, or without its turn."""
_NAP_S = 0.05


class Journal:
    """The lines of this process, in a file of its own in ``directory``: a ``kill -9`` may come amid a line that goes
    over a page's end, and nothing is to follow it. ``clock_ns`` is the machine's clock, whatever this process is told
    of the time."""

    def __init__(self, directory: str, clock_ns: Any) -> None:
        self._clock_ns = clock_ns
        self._pid = os.getpid()
        # Open all the while: a process that is out of descriptors is to be watched too, and not to fail of that.
        self._descriptor = os.open(f"{directory}/{self._pid}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.numbers = itertools.count(1)
        self._unwritten: list[bytes] = []
        self._writing = threading.Lock()

    def add(self, what: str, **fields: object) -> None:
        line = json.dumps({"at": self._clock_ns() // 1_000_000, "pid": self._pid, "what": what} | fields)
        with self._writing:
            self._unwritten.append(line.encode() + b"\n")
            # While its disk is full it is remembered: each line says itself when that was.
            with contextlib.suppress(OSError):
                os.write(self._descriptor, b"".join(self._unwritten))
                self._unwritten.clear()

    def name(self) -> str:
        """A name that no other attempt has."""
        return f"{self._pid}-{next(self.numbers)}"

    def watch_standstills(self) -> None:
        """Note where this process was kept from running, and until when it was not: it may be killed while it is."""

        def watch() -> None:
            while True:
                began, began_ms = time.monotonic(), self._clock_ns() // 1_000_000
                time.sleep(_NAP_S)
                if time.monotonic() - began > _NAP_S + _LATE_S:
                    self.add("stood still", since=began_ms)
                else:
                    self.add("awake")

        threading.Thread(target=watch, name="standstills", daemon=True).start()

    def watch_pycurl(self, module: Any) -> None:
        """Mark each POST, and note that it was sent, what libcurl told of it, or that it was dropped untold."""
        journal, curl_made, multi_made = self, module.Curl, module.CurlMulti

        class Curl(curl_made):  # type: ignore[misc, valid-type]  # a class of a C module
            def setopt(self, option: int, value: Any) -> Any:
                if option == module.HTTPHEADER:
                    self.attempt = journal.name()
                    value = [*value, MARK + b": " + self.attempt.encode()]
                return super().setopt(option, value)

        class Multi(multi_made):  # type: ignore[misc, valid-type]
            def __init__(self, *args: Any) -> None:
                super().__init__(*args)
                self.under_way: set[Any] = set()

            def add_handle(self, curl: Any) -> Any:
                journal.add("sent", name=curl.attempt)
                self.under_way.add(curl)
                return super().add_handle(curl)

            def remove_handle(self, curl: Any) -> Any:
                if curl in self.under_way:
                    self.under_way.discard(curl)
                    journal.add("dropped", name=curl.attempt)
                return super().remove_handle(curl)

            def info_read(self, *args: Any) -> Any:
                told = super().info_read(*args)
                for curl, code in [(curl, 0) for curl in told[1]] + [(one[0], one[1]) for one in told[2]]:
                    self.under_way.discard(curl)
                    journal.add("heard", name=curl.attempt, code=code, status=curl.getinfo(module.RESPONSE_CODE))
                return told

        module.Curl, module.CurlMulti = Curl, Multi
        self.watch_standstills()

    def watch_redis(self, module: Any, scripts: Mapping[bytes, str]) -> None:
        """Note outcomes that are handed to the store, holds that are taken, and what it does not answer."""
        journal, connection = self, module.AbstractConnection
        # What is not the broker's connection is the store's, of which each server has a port of its own.
        broker_port = urlsplit(os.environ.get("BRIDGE_BROKER_URL", "")).port
        marks = [sha for sha, name in scripts.items() if name in _WATCHED] + [b"EVAL\r\n"]
        send, read, disconnect = connection.send_packed_command, connection.read_response, connection.disconnect

        def sending(self: Any, command: Any, *args: Any, **options: Any) -> Any:
            pieces = [command] if isinstance(command, bytes | str) else command
            packed = b"".join(piece.encode() if isinstance(piece, str) else bytes(piece) for piece in pieces)
            labels: list[str | None] = []
            if any(mark in packed for mark in marks):
                server = getattr(self, "port", 0)
                labels = [journal.ask(words, scripts, server) for words in _commands(packed)]
            try:
                sent = send(self, command, *args, **options)
            except Exception as error:
                journal.breaks(self, broker_port, error)
                raise
            # After the library's own pings, which it sends and hears first.
            self.journal_labels = labels
            return sent

        def reading(self: Any, *args: Any, **options: Any) -> Any:
            labels = getattr(self, "journal_labels", [])
            try:
                reply = read(self, *args, **options)
            except module.ResponseError as error:
                journal.answer(labels, type(error).__name__)
                if type(error).__name__ != "NoScriptError":
                    journal.breaks(self, broker_port, error)
                raise
            except Exception as error:
                journal.breaks(self, broker_port, error)
                raise
            journal.answer(labels, reply)
            return reply

        def disconnecting(self: Any, *args: Any, **options: Any) -> Any:
            if any(getattr(self, "journal_labels", [])):
                self.journal_labels = []
                journal.breaks(self, broker_port, TimeoutError("given up"))
            return disconnect(self, *args, **options)

        connection.send_packed_command, connection.read_response = sending, reading
        connection.disconnect = disconnecting

    def breaks(self, connection: Any, broker_port: int | None, error: Exception) -> None:
        """Note a failure of a connection to the store; one to the broker is of no account here."""
        if getattr(connection, "port", None) != broker_port:
            self.add("broken", said=type(error).__name__)

    def ask(self, words: Sequence[bytes], scripts: Mapping[bytes, str], server: int) -> str | None:
        """Note a call of a script that counts, by the port of the server asked. Returns its name, for the reply."""
        if words[0] not in {b"EVALSHA", b"EVAL"}:
            return None
        # The server's own name for a script.
        sha = words[1] if words[0] == b"EVALSHA" else hashlib.sha1(words[1]).hexdigest().encode()  # noqa: S324
        script = scripts.get(sha)
        if script not in _WATCHED:
            return None
        count = int(words[2])
        keys, given = words[3 : 3 + count], words[3 + count :]
        hold = _HOLD.fullmatch(keys[1])
        if hold is None:
            raise AssertionError(f"the second key of {script} is no hold: {keys[1]!r}")
        name = self.name()
        fields: dict[str, object] = {
            "script": script,
            "server": server,
            "shard": int(hold[1]),
            "subscription": hold[2].decode(),
            "token": given[1].hex(),
        }
        if script == "settle_lanes":
            packed = given[5]
            fields["accepted"] = [struct.unpack(">QI", packed[at + 8 : at + 20]) for at in range(0, len(packed), 20)]
            fields["lanes"] = [packed[at : at + 8].hex() for at in range(0, len(packed), 20)]
        else:
            fields["hold_ms"] = int(given[2])
        self.add("asked", name=name, **fields)
        return name

    def answer(self, labels: list[str | None], reply: object) -> None:
        """Note the reply to a call that counts."""
        name = labels.pop(0) if labels else None
        if name is None:
            return
        if isinstance(reply, list):
            self.add("answered", name=name, reply=int(reply[1]), lanes=[lane.hex() for lane in reply[2:]])
        elif isinstance(reply, int):
            self.add("answered", name=name, reply=reply)
        else:
            self.add("answered", name=name, reply=None, said=str(reply))


_WATCHED = ("settle_lanes", "claim_lanes")


def _commands(packed: bytes) -> list[list[bytes]]:
    """The commands of what goes over the wire: arrays of strings with their lengths."""
    found = []
    at = 0
    while at < len(packed):
        end = packed.index(b"\r\n", at)
        count, at = int(packed[at + 1 : end]), end + 2
        words = []
        for _ in range(count):
            end = packed.index(b"\r\n", at)
            size, at = int(packed[at + 1 : end]), end + 2
            words.append(packed[at : at + size])
            at += size + 2
        found.append(words)
    return found
