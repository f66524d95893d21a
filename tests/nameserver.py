"""A DNS server on 127.0.0.1:53, for whoever has a network of its own: it answers what a test says."""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, ip_address

_A, _CNAME, _AAAA = 1, 5, 28
_NO_SUCH_NAME, _FAILED = 3, 2

FAILS = "SERVFAIL"
SILENT = "no answer"

Answer = Sequence[str]
"""Addresses and names (a CNAME each, and what that has besides), or FAILS, or SILENT."""


class NameServer:
    """Answers from ``zone``: what each name has, the first time it is looked up, the second, and so on; the last stays.

    Names that are not there do not exist. ``ttl_s`` goes with every record.
    """

    def __init__(self, zone: Mapping[str, Sequence[Answer]], ttl_s: int = 0) -> None:
        self._zone = zone
        self._ttl_s = ttl_s
        self.asked: Counter[tuple[str, int]] = Counter()
        """How often each name was asked for, by the type of record."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def times(self, name: str) -> int:
        """How often a name was looked up."""
        return max(self.asked[name, _A], self.asked[name, _AAAA])

    def _serve(self) -> None:
        while True:
            question, whence = self._socket.recvfrom(512)
            reply = self._answer(question)
            if reply:
                self._socket.sendto(reply, whence)

    def _answer(self, question: bytes) -> bytes:
        name, end = _name(question, 12)
        (kind,) = struct.unpack_from(">H", question, end)
        turns = self._zone.get(name)
        answer = None if turns is None else turns[min(self.asked[name, kind], len(turns) - 1)]
        self.asked[name, kind] += 1
        if answer is not None and SILENT in answer:
            return b""
        code = _NO_SUCH_NAME if answer is None else _FAILED if FAILS in answer else 0
        records = [] if code else list(self._records(name, kind, answer or ()))
        head = question[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, len(records), 0, 0)
        return head + question[12 : end + 4] + b"".join(records)

    def _records(self, name: str, kind: int, answer: Answer) -> Iterable[bytes]:
        for one in answer:
            try:
                address = ip_address(one)
            except ValueError:
                yield self._record(name, _CNAME, _packed(one))
                yield from self._records(one, kind, self._zone.get(one, [()])[0])
            else:
                if kind == (_A if isinstance(address, IPv4Address) else _AAAA):
                    yield self._record(name, kind, address.packed)

    def _record(self, name: str, kind: int, data: bytes) -> bytes:
        return _packed(name) + struct.pack(">HHIH", kind, 1, self._ttl_s, len(data)) + data


def _name(message: bytes, at: int) -> tuple[str, int]:
    """A name without its last dot, and where it ends."""
    labels = []
    while length := message[at]:
        labels.append(message[at + 1 : at + 1 + length].decode().lower())
        at += 1 + length
    return ".".join(labels), at + 1


def _packed(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
