"""A cluster over TLS, whose certificate is checked. The wheel's server has none: this runs on a redis-server."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch
from urllib.parse import quote

import pytest

from bridge.errors import StoreUnreachable
from bridge.store.client import Client
from tests.clusters import RealCluster, free_port
from tests.hostile import Certificate
from tests.parts import Parts, entry

REDIS = shutil.which("redis-server") or ""
KINDS = ("redis",)


def has_tls(directory: Path) -> bool:
    """Whether the program was built with TLS: one without does not know its directives' connection."""
    argv = [REDIS, "--port", "0", "--tls-port", "1", "--tls-cert-file", str(directory / "none")]
    return "TLS support" not in subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False).stdout


def test_a_cluster_over_tls_is_used_and_its_certificate_checked(tmp_path: Path) -> None:
    if not REDIS or not has_tls(tmp_path):
        pytest.skip("no redis-server with TLS is on the PATH")
    mine, others = Certificate(tmp_path / "mine.pem", "127.0.0.1"), Certificate(tmp_path / "others.pem", "127.0.0.1")
    port = free_port()
    options = {
        "tls-port": str(port),
        "tls-cluster": "yes",  # else nodes tell clients the ports without TLS
        "tls-cert-file": str(mine.path),
        "tls-key-file": str(mine.path),
        "tls-ca-cert-file": str(mine.path),
        "tls-auth-clients": "no",
    }
    with ExitStack() as stack:
        stack.enter_context(patch("bridge.store.server.find_server_binary", return_value=Path(REDIS)))
        cluster = RealCluster(stack, masters=1, options=options)
        login = cluster.url.partition("://")[2].rpartition("@")[0]
        url = f"rediss+cluster://{login}@127.0.0.1:{port}?ssl_ca_certs={{}}"
        parts = Parts(url.format(quote(str(mine.path))))
        parts.write("s1", entry("s1"), due=1)
        assert [node.name for node in parts.client.nodes()] == [f"127.0.0.1:{port}"]
        parts.close()
        plain = Client(url.format(quote(str(mine.path))).replace("+cluster", ""))
        assert plain.is_cluster
        plain.close()
        with pytest.raises(StoreUnreachable):
            Client(url.format(quote(str(others.path)))).commands([["PING"]])
