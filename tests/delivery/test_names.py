"""Names that lead where they should not, by the system's own resolver: the address that is connected to decides.

libcurl resolves by ``getaddrinfo``, and so does the check of a URL that is given. Both are asked here as they are, in a
process whose network is its own, with a DNS server in it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.delivery.names import CASES, NOT_APART, OTHER_PUBLIC, PUBLIC, REFUSED, Outcome

BLOCKED_PRIVATE = Outcome(["private address", "blocked: private address"], [], 2)
UNRESOLVED = "could not resolve hostname"

# What each step came to, which addresses were connected to, how often the name was looked up.
EXPECTED: dict[str, Outcome] = {
    "a public address": Outcome(["taken", "204"], [PUBLIC], 2),
    # It is refused when it is given. Of one that was given before, the public address alone is called.
    "a public and a private address": Outcome(["private address", "204"], [PUBLIC], 2),
    "a private and a public address": Outcome(["private address", "204"], [PUBLIC], 2),
    "two private addresses": BLOCKED_PRIVATE,
    "a public address that cannot be reached, and a private one": Outcome(
        ["private address", "network is unreachable"], [], 2
    ),
    "another answer after it was given": Outcome(["taken", "blocked: loopback address"], [], 2),
    "another answer after it was called": Outcome(["taken", "204", "blocked: private address"], [PUBLIC], 3),
    "another answer each time": Outcome(
        ["taken", "blocked: metadata address", "204", "blocked: loopback address"], [OTHER_PUBLIC], 4
    ),
    # libcurl goes by what it knows for a minute, and what it knows passed.
    "a TTL of 0 s": Outcome(["taken", "204", "204"], [PUBLIC, PUBLIC], 2),
    "a CNAME to a private name": BLOCKED_PRIVATE,
    "a CNAME to a CNAME": BLOCKED_PRIVATE,
    "a CNAME to a name of the host itself": Outcome(["loopback address", "blocked: loopback address"], [], 2),
    "a name of the search list": Outcome(["private address", "blocked: private address"], [], 1),
    "metadata": Outcome(["metadata address", "blocked: metadata address"], [], 2),
    "CGNAT": Outcome(["CGNAT address", "blocked: CGNAT address"], [], 2),
    "this network": Outcome(["reserved address", "blocked: reserved address"], [], 2),
    "unspecified": Outcome(["unspecified address", "blocked: unspecified address"], [], 2),
    "IPv6 loopback": Outcome(["loopback address", "blocked: loopback address"], [], 2),
    "IPv4 within IPv6": Outcome(["mapped address", "blocked: mapped address"], [], 2),
    "IPv4 behind NAT64": Outcome(["translated address", "blocked: translated address"], [], 2),
    "public IPv4, private IPv6": Outcome(["loopback address", "204"], [PUBLIC], 2),
    # By their names alone, and nobody is asked for them.
    "a trailing dot": Outcome(["trailing dot", "blocked: trailing dot"], [], 0),
    "foo.localhost": Outcome(["loopback address", "blocked: loopback address"], [], 0),
    "localhost with a dot": Outcome(["trailing dot", "blocked: trailing dot"], [], 0),
    "a name of the metadata": Outcome(["metadata address", "blocked: metadata address"], [], 0),
    # The check asks the system, whose name server may say anything; libcurl takes such a name for the host itself.
    "foo.localhost, where the loopback is allowed": Outcome(["private address", "204"], ["127.0.0.1"], 1),
    "no address": Outcome(["noted", UNRESOLVED], [], 2),
    "no such name": Outcome(["noted", UNRESOLVED], [], 2),
    "a name server that fails": Outcome(["noted", UNRESOLVED], [], 2),
    # Somebody listens on every address: whoever was not connected to was refused, and not merely absent.
    "whatever an operator allows": Outcome(["204"] * len(REFUSED), list(REFUSED), len(REFUSED)),
    "a name server that is silent": Outcome(["timed out after 300 ms"], [], 1),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Every case, played once."""
    played = subprocess.run(
        [sys.executable, "-m", "tests.delivery.names", str(tmp_path_factory.mktemp("apart"))],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if played.returncode == NOT_APART:
        pytest.skip(f"no process may have a network of its own here ({played.stdout.strip()})")
    assert (played.returncode, played.stderr) == (0, "")
    return msgspec.json.decode(played.stdout, type=dict[str, Outcome])


def test_every_case_is_expected_to_come_to_something() -> None:
    assert set(EXPECTED) == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_the_address_that_is_connected_to_decides(outcomes: dict[str, Outcome], case: str) -> None:
    assert outcomes[case] == EXPECTED[case]
