"""The catalogue of keys, as ``bridge/store/keys.py`` documents it, held against a server's keys."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec
import redis

from bridge.store import keys

_ROW = re.compile(r"(u\S+)\s+(string|hash|set|zset|list|stream)\s+(\S.*?)\s{2,}(\S.*)")
_PLACES = {
    "{i}": r"\{\d+\}",
    "<a>": r"[a-z0-9_-]{1,32}",
    "<no>": r"[!-~]{1,64}",
    "<sub>": r"[a-z0-9_]+",
    "<bucket>": r"\d{1,4}",
    "<ms>": r"\d{13}",
    "<hour>": r"\d{1,6}",
    "<what>": r"[a-z0-9:_-]+",
}


class Row(msgspec.Struct, frozen=True):
    """A row: what names match it, their type, and what bounds them."""

    name: str
    pattern: str
    kind: str
    bound: str

    @property
    def expires(self) -> bool:
        return self.bound.startswith("a TTL")


def catalogue() -> list[Row]:
    rows = []
    for line in (keys.__doc__ or "").splitlines():
        match = _ROW.fullmatch(line.rstrip())
        if match:
            pattern = re.split(r"(\{i\}|<\w+>)", match[1])
            text = "".join(_PLACES.get(part) or re.escape(part) for part in pattern)
            rows.append(Row(match[1], text, match[2], match[4]))
    return rows


def fault_of(name: str, kind: str, ttl_s: int) -> str | None:
    """What is wrong with a key, None for one that is as the catalogue says."""
    rows = [row for row in catalogue() if re.fullmatch(row.pattern, name)]
    if not rows:
        return f"{name!r} is in no row of the catalogue of bridge/store/keys.py"
    if all(row.kind != kind for row in rows):
        return f"{name!r} is a {kind}, not a {rows[0].kind}"
    if any(row.expires for row in rows) and ttl_s < 0:
        return f"{name!r} has no TTL"
    if not any(row.expires for row in rows) and ttl_s >= 0:
        return f"{name!r} has a TTL, and is not bounded by one"
    return None


def _type_and_ttl(server: redis.Redis, key: bytes) -> tuple[bytes, int]:
    pipeline = server.pipeline()  # in one transaction: it may expire in between
    pipeline.type(key)
    pipeline.ttl(key)
    kind, ttl_s = pipeline.execute()
    return kind, ttl_s


def assert_catalogued(server: redis.Redis, names: Iterable[bytes]) -> None:
    """Each of these keys is in the catalogue, of its type, and has a TTL where that is what bounds it."""
    faults = []
    for key in names:
        kind, ttl_s = _type_and_ttl(server, key)
        if ttl_s != -2 and (fault := fault_of(key.decode(), kind.decode(), ttl_s)):
            faults.append(fault)
    assert not faults
