"""A cluster over TLS, whose certificate is checked."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch
from urllib.parse import quote

import pytest

from bridge.errors import StoreUnreachable
from bridge.store.client import Client
from tests.clusters import RealCluster
from tests.hostile import Certificate
from tests.parts import Parts, entry
from tests.ports import unused_port
from tests.tls import directives, program_with_tls


def test_a_cluster_over_tls_is_used_and_its_certificate_checked(tmp_path: Path) -> None:
    program = program_with_tls()
    mine, others = Certificate(tmp_path / "mine.pem", "127.0.0.1"), Certificate(tmp_path / "others.pem", "127.0.0.1")
    port = unused_port()
    # Nodes tell clients the ports without TLS otherwise.
    options = directives(mine, port) | {"tls-cluster": "yes"}
    with ExitStack() as stack:
        stack.enter_context(patch("bridge.store.server.find_server_binary", return_value=program))
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
