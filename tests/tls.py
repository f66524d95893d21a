"""Servers that speak TLS. The wheel's Valkey is built without it: these run on the redis-server of the PATH."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.hostile import Certificate


def program_with_tls() -> Path:
    """A server that knows TLS; without one the test is skipped."""
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("redis-server is not on the PATH, and the embedded Valkey is built without TLS")
    # One without complains of that; one with it, of the file that is not there.
    argv = [found, "--port", "0", "--tls-port", "1", "--tls-cert-file", "/nowhere"]
    if "TLS support" in subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False).stdout:
        pytest.skip("the redis-server on the PATH is built without TLS")
    return Path(found)


def directives(certificate: Certificate, port: int) -> dict[str, str]:
    """Of a server that listens on ``port`` with a certificate of its own making, which it trusts others by too."""
    return {
        "tls-port": str(port),
        "tls-cert-file": str(certificate.path),
        "tls-key-file": str(certificate.path),
        "tls-ca-cert-file": str(certificate.path),
        "tls-auth-clients": "no",
    }


ignores_what_redis_py_leaves_open = pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
"""Where a TLS handshake fails, as while a server dies, redis-py 8.1 closes the plain socket, which the one that speaks
TLS has taken over: that one is left to the garbage collector, which says so."""
