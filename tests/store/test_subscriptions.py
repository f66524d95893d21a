"""The registry of subscriptions, and the versions that make "wanted it then" exact."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.domain.commits import ABSENT, CommitResult, Write
from bridge.errors import NotFound
from bridge.store import keys
from bridge.store.server import EmbeddedServer
from tests.parts import OPEN, SUB, Parts, subscription


def test_subscriptions_are_loaded_by_account_the_oldest_first(parts: Parts) -> None:
    assert parts.subscriptions.load().of("default") == ()
    parts.subscriptions.put(subscription("sub_b", created_ms=2))
    parts.subscriptions.put(subscription("sub_a", created_ms=1))
    parts.subscriptions.put(subscription("sub_c", account="other"))

    registry = parts.subscriptions.load()

    assert [one.id for one in registry.of("default")] == ["sub_a", "sub_b"]
    assert [one.id for one in registry.of("other")] == ["sub_c"]
    assert registry.of("nobody") == ()
    assert set(registry.by_id()) == {"sub_a", "sub_b", "sub_c"}
    assert parts.subscriptions.get("sub_c") == subscription("sub_c", account="other")


def test_what_is_not_there_is_not_found(parts: Parts) -> None:
    with pytest.raises(NotFound, match="subscriptions list"):
        parts.subscriptions.get(SUB)
    with pytest.raises(NotFound, match="subscriptions list"):
        parts.subscriptions.remove(SUB)


def test_every_change_makes_every_shards_version_another(parts: Parts) -> None:
    seen = [parts.subscriptions.load().versions]
    parts.subscriptions.put(subscription())
    seen.append(parts.subscriptions.load().versions)
    parts.subscriptions.put(subscription(created_ms=5))
    seen.append(parts.subscriptions.load().versions)
    parts.subscriptions.remove(SUB)
    seen.append(parts.subscriptions.load().versions)
    for shard in range(parts.shards):
        assert len({versions[shard] for versions in seen}) == 4


def test_a_version_that_the_server_lost_does_not_come_again(parts: Parts) -> None:
    """Fault: a poller that knew a subscription which the server lost with its last second went on routing to it,
    and not to the one that was added then.

    Versions were counted: after the loss the next change made the same number again. Now they are random.
    """
    parts.subscriptions.put(subscription("sub_a"))
    before = {shard: parts.redis.get(keys.registry(shard)) for shard in range(parts.shards)}
    parts.subscriptions.put(subscription("sub_lost"))
    known = parts.subscriptions.load()
    parts.redis.hdel(keys.SUBSCRIPTIONS, "sub_lost")
    for shard, version in before.items():
        assert isinstance(version, bytes)
        parts.redis.set(keys.registry(shard), version)

    parts.subscriptions.put(subscription("sub_new"))

    write = Write("s1", ABSENT, OPEN, 1, None)
    assert parts.sessions.commit("default", [write], known.versions) == {"s1": CommitResult.STALE_REGISTRY}


def test_a_full_store_lets_subscriptions_be_disabled_and_removed(tmp_path: Path) -> None:
    """Fault: the field was changed, and then the versions' plain SET was refused. Nobody was told, and the slice whose
    receiver had said 410 ended, with all that it held.
    """
    with EmbeddedServer(tmp_path, options={"maxmemory": "100mb"}) as server:
        parts = Parts(server.url)
        parts.subscriptions.put(subscription("sub_a"))
        parts.subscriptions.put(subscription("sub_b"))
        seen = [parts.subscriptions.load().versions]
        parts.redis.config_set("maxmemory", "1")
        assert parts.subscriptions.disable("sub_a", "the receiver is gone", 5)
        seen.append(parts.subscriptions.load().versions)
        parts.subscriptions.remove("sub_b")
        seen.append(parts.subscriptions.load().versions)
        parts.close()
    for shard in range(parts.shards):
        assert len({versions[shard] for versions in seen}) == 3
