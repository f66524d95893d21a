"""Names that lead where they should not: each looked up by the system's own resolver, from a server that says so.

Run as a program, in a network of its own: it plays every case and prints what came of it. Whatever port is called, on
whatever address, somebody listens there, and notes it.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path

import msgspec

from bridge.delivery.guard import UrlPolicy, check_resolved, parse_url
from bridge.delivery.transport import Transport
from bridge.errors import InvalidUrl
from tests.delivery.posting import post
from tests.hostile import NO_CONTENT
from tests.nameserver import FAILS, SILENT, Answer, NameServer
from tests.namespace import go_apart

PUBLIC, OTHER_PUBLIC = "93.184.216.34", "93.184.216.35"
UNREACHABLE = "93.184.216.36"
PRIVATE, METADATA = "10.0.0.1", "169.254.169.254"
ADDRESSES = (PUBLIC, OTHER_PUBLIC, PRIVATE, METADATA, "192.168.7.7", "100.64.0.1")
REFUSED = (PRIVATE, METADATA, "192.168.7.7", "100.64.0.1", "127.0.0.1", "::1")
"""Those of them that are called only where the operator allows it."""

PORT = 8080
FILES = {
    "/etc/resolv.conf": "nameserver 127.0.0.1\nsearch corp.test\noptions timeout:3 attempts:1\n",
    "/etc/nsswitch.conf": "hosts: files dns\n",
    "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
}

NOT_APART = 77
"""The exit code where no network of its own could be had."""

GIVEN, ATTEMPT, ATTEMPT_ANEW = "given", "attempt", "attempt anew"
"""What is done: the URL is given; it is called; it is called by a process that knows no address of it yet."""

STRICT = UrlPolicy(allow_http=True)
ALL = UrlPolicy(allow_http=True, allow_networks=(ip_network("0.0.0.0/0"), ip_network("::/0")))
LOOPBACK = UrlPolicy(allow_http=True, allow_networks=(ip_network("127.0.0.0/8"),))


class Case(msgspec.Struct, frozen=True):
    """A host, what its name has at each look-up, and what is done with it in turn."""

    host: str
    answers: Sequence[Answer]
    steps: Sequence[str] = (GIVEN, ATTEMPT)
    policy: UrlPolicy = STRICT
    timeout_ms: int = 20_000


class Outcome(msgspec.Struct, frozen=True):
    """What each step came to, the addresses that were connected to, and how often the name was looked up."""

    steps: list[str]
    connected: list[str]
    asked: int


class Listeners:
    """Who answers every connection to PORT, and notes to which address it came."""

    def __init__(self) -> None:
        self.reached: list[str] = []
        for host in ("0.0.0.0", "::"):  # noqa: S104 - of a network that is nobody else's
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.create_server((host, PORT), family=family, backlog=64)
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                self.reached.append(str(connection.getsockname()[0]))
                received = b""
                while b'{"a":1}' not in received:
                    piece = connection.recv(65_536)
                    if not piece:
                        break
                    received += piece
                else:
                    connection.sendall(NO_CONTENT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))


class Stage:
    """The name server, the listeners, and the cases that are played between them."""

    def __init__(self, cases: Sequence[Case]) -> None:
        zone = {case.host: case.answers for case in cases if case.answers}
        inner = {
            "inner.test": [[PRIVATE]],
            "further.test": [["inner.test"]],
            "local.test": [["127.0.0.1"]],
            "intranet.corp.test": [[PRIVATE]],
        }
        self._names = NameServer(zone | inner)
        self._listeners = Listeners()

    def play(self, case: Case) -> Outcome:
        self._listeners.reached.clear()
        url = f"http://{case.host}:{PORT}/hook"
        transport = Transport(policy=case.policy)
        steps = []
        for step in case.steps:
            if step == ATTEMPT_ANEW:
                transport.close()
                transport = Transport(policy=case.policy)
            steps.append(_given(url, case.policy) if step == GIVEN else _attempted(transport, url, case.timeout_ms))
        transport.close()
        return Outcome(steps, self._listeners.reached.copy(), self._names.times(case.host))


def _given(url: str, policy: UrlPolicy) -> str:
    try:
        note = check_resolved(parse_url(url, policy), policy)
    except InvalidUrl as refusal:
        return refusal.reason
    return "noted" if note else "taken"


def _attempted(transport: Transport, url: str, timeout_ms: int) -> str:
    answer = post(transport, url, timeout_ms=timeout_ms)
    return answer.error if answer.status == 0 else str(answer.status)


CASES: dict[str, Case] = {
    "a public address": Case("public.test", [[PUBLIC]]),
    "a public and a private address": Case("both.test", [[PUBLIC, PRIVATE]]),
    "a private and a public address": Case("reversed.test", [[PRIVATE, PUBLIC]]),
    "two private addresses": Case("private.test", [[PRIVATE, "192.168.7.7"]]),
    "a public address that cannot be reached, and a private one": Case("half.test", [[UNREACHABLE, PRIVATE]]),
    "another answer after it was given": Case("rebound.test", [[PUBLIC], ["127.0.0.1"]]),
    "another answer after it was called": Case(
        "moved.test", [[PUBLIC], [PUBLIC], [PRIVATE]], (GIVEN, ATTEMPT, ATTEMPT_ANEW)
    ),
    "another answer each time": Case(
        "flipping.test", [[PUBLIC], [METADATA], [OTHER_PUBLIC], ["127.0.0.1"]], (GIVEN, *[ATTEMPT_ANEW] * 3)
    ),
    "a TTL of 0 s": Case("brief.test", [[PUBLIC], [PUBLIC], [PRIVATE]], (GIVEN, ATTEMPT, ATTEMPT)),
    "a CNAME to a private name": Case("alias.test", [["inner.test"]]),
    "a CNAME to a CNAME": Case("chain.test", [["further.test"]]),
    "a CNAME to a name of the host itself": Case("self.test", [["local.test"]]),
    "a name of the search list": Case("intranet", [[]]),
    "metadata": Case("cloud.test", [[METADATA]]),
    "CGNAT": Case("carrier.test", [["100.64.0.1"]]),
    "this network": Case("zero.test", [["0.1.2.3"]]),
    "unspecified": Case("unspecified.test", [["0.0.0.0"]]),  # noqa: S104 - refused, not bound
    "IPv6 loopback": Case("six.test", [["::1"]]),
    "IPv4 within IPv6": Case("mapped.test", [["::ffff:127.0.0.1"]]),
    "IPv4 behind NAT64": Case("translated.test", [["64:ff9b::7f00:1"]]),
    "public IPv4, private IPv6": Case("mixed.test", [[PUBLIC, "::1"]]),
    "a trailing dot": Case("dotted.test.", [[PUBLIC]]),
    "foo.localhost": Case("foo.localhost", [[PUBLIC]]),
    "foo.localhost, where the loopback is allowed": Case("bar.localhost", [[PRIVATE]], policy=LOOPBACK),
    "localhost with a dot": Case("localhost.", [[PUBLIC]]),
    "a name of the metadata": Case("metadata.google.internal", [[PUBLIC]]),
    "no address": Case("empty.test", [[]]),
    "no such name": Case("nobody.test", []),
    "a name server that fails": Case("failing.test", [[FAILS]]),
    "whatever an operator allows": Case(
        "allowed.test", [[one] for one in REFUSED], [ATTEMPT_ANEW] * len(REFUSED), policy=ALL
    ),
    "a name server that is silent": Case("silent.test", [[SILENT]], (ATTEMPT,), timeout_ms=300),
}


def main() -> int:
    """Play every case, and print what came of it as JSON."""
    try:
        go_apart(ADDRESSES, FILES, Path(sys.argv[1]))
    except OSError as error:
        sys.stdout.write(str(error))
        return NOT_APART
    stage = Stage(list(CASES.values()))
    sys.stdout.write(msgspec.json.encode({name: stage.play(case) for name, case in CASES.items()}).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
