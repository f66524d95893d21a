"""A store that was emptied is noticed, by an id that is kept elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.errors import StoreEmptied
from bridge.store import keys
from bridge.store.client import open_store
from bridge.store.identity import Identity
from tests.parts import SHARDS, Parts

KINDS = ("valkey", "cluster")


@pytest.fixture
def kept(parts: Parts, tmp_path: Path) -> Identity:
    return Identity(parts.client, tmp_path, parts.url)


def test_the_first_look_believes_and_the_next_ones_compare(kept: Identity, parts: Parts) -> None:
    kept.check()
    assert not kept.path.exists(), "a store that nobody has opened has no id to keep"
    name = open_store(parts.client, SHARDS)
    for _ in range(2):
        kept.check()
    assert kept.found == name
    assert kept.path.read_bytes() == name + b"\n"


def test_an_emptied_store_is_noticed_whether_opened_again_or_not(kept: Identity, parts: Parts) -> None:
    open_store(parts.client, SHARDS)
    kept.check()
    before = parts.redis.hgetall(keys.STORE)
    parts.empty()
    with pytest.raises(StoreEmptied, match=str(kept.path)):
        kept.check()
    open_store(parts.client, SHARDS)
    with pytest.raises(StoreEmptied, match="backup"):
        kept.check()
    # Restored from a backup it is the same again.
    parts.redis.hset(keys.STORE, mapping=before)  # type: ignore[arg-type]  # what was read may be written
    kept.check()


def test_one_that_was_emptied_on_purpose_is_accepted_by_removing_the_file(kept: Identity, parts: Parts) -> None:
    open_store(parts.client, SHARDS)
    kept.check()
    parts.empty()
    name = open_store(parts.client, SHARDS)
    kept.path.unlink()
    kept.check()
    assert kept.path.read_bytes() == name + b"\n"


def test_stores_are_told_apart_by_their_urls_and_no_file_holds_a_password(parts: Parts, tmp_path: Path) -> None:
    first = Identity(parts.client, tmp_path, "redis://:sesame@h:1/0")
    assert first.path == Identity(parts.client, tmp_path, "redis://:rotated@h:1/0").path
    assert first.path != Identity(parts.client, tmp_path, "redis://:sesame@h:1/1").path
    assert Identity(parts.client, tmp_path, None).path == tmp_path / "stores" / "embedded.id"


def test_a_directory_that_keeps_nothing_is_said_and_stops_nothing(parts: Parts, tmp_path: Path) -> None:
    (tmp_path / "stores").write_text("in the way")
    kept = Identity(parts.client, tmp_path, parts.url)
    open_store(parts.client, SHARDS)
    for _ in range(2):
        kept.check()
    assert str(kept.path) in kept.unkept
    assert [one.name for one in tmp_path.iterdir()] == ["stores"]
