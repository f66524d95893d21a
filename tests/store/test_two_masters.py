"""While Sentinels replace a master, the one before goes on taking itself for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from redis.sentinel import SentinelConnectionPool

from bridge.store.server import EmbeddedServer
from bridge.store.wire import Reading, pack
from tests.parts import until

Address = tuple[str, int]


class Sentinels:
    """What redis-py asks them: who the master is."""

    def __init__(self, master: Address) -> None:
        self.master = master

    def discover_master(self, _name: str) -> Address:
        return self.master


@pytest.fixture
def masters(tmp_path: Path) -> Iterator[list[Address]]:
    """Two servers, each of which says that it is one; without a password."""
    with ExitStack() as stack:
        urls = [stack.enter_context(EmbeddedServer(tmp_path / name)).url for name in ("before", "after")]
        for url in urls:
            with redis.Redis.from_url(url, protocol=2) as client:
                client.config_set("requirepass", "")
        yield [("127.0.0.1", urlsplit(url).port or 0) for url in urls]


def test_a_process_that_knows_of_a_new_master_asks_the_old_one_no_more(masters: list[Address]) -> None:
    """Fault: during a failover a slice leased lanes from one master and told the other what became of them, so each was
    sent twice within milliseconds, by one process.

    Cause: a slice keeps its connections for looking and for settling; one that broke was made anew, to the new master,
    while the other stayed with the old one, which still took writes. Fix: before each exchange a connection to whom the
    process knows to be master no more is given back.
    """
    sentinels = Sentinels(masters[0])
    pool = SentinelConnectionPool("mine", sentinels, protocol=2)  # type: ignore[no-untyped-call]
    kept, other = Reading(pool, 5.0), Reading(pool, 5.0)
    assert asked(kept) == asked(kept) == masters[0][1]
    sentinels.master = masters[1]
    assert asked(kept) == masters[0][1], "of which this process has heard nothing yet"
    assert asked(other) == masters[1][1]
    assert asked(kept) == masters[1][1]
    kept.close()
    other.close()
    pool.disconnect()


def asked(reading: Reading) -> int:
    """The port of the server that answers."""
    reading.begin(pack(("CONFIG", "GET", "port")), 1)
    replies: list[object] = []

    def is_answered() -> bool:
        replies.extend(reading.arrived())
        return bool(replies)

    until(is_answered)
    (reply,) = replies
    assert isinstance(reply, list)
    return int(reply[1])
