"""Erasing a phone from all that is stored, and the tombstones that keep it from coming back.

The order: its tombstone first, under which no later commit holds it; then sessions, queues, the log, dead letters and
notes. A crash in between leaves some of it: erasing it again goes on, for what is found depends on nothing before it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import cast

import msgspec

from bridge.domain import events
from bridge.domain.commits import CommitResult, Due, Write
from bridge.domain.erasure import KEY_BYTES, is_in, tombstone, without_phone, without_phone_in
from bridge.domain.receipts import normalise_phone
from bridge.errors import BridgeError
from bridge.store import keys, positions
from bridge.store.attempts import AttemptLog
from bridge.store.client import Argument, Call, Client
from bridge.store.log import EventLog
from bridge.store.queues import QueueStore
from bridge.store.secrets import SecretBox
from bridge.store.sessions import SessionStore
from bridge.store.subscriptions import SubscriptionStore
from bridge.store.tracking import TrackingStore

_OWNER = "erasure"
_PAGE = 200
_TRIES = 20
_phones_in = re.compile(r"[0-9(+][0-9()+ -]{4,}").findall


class Erased(msgspec.Struct):
    """How much was removed, or would be: sessions changed, events, their waiting deliveries, and the rest.

    ``metadata`` counts the sessions whose metadata named the phone. What could not be removed: ``metadata_left`` events
    and dead letters of other phones carry such metadata until they are trimmed, for their bytes do not change; and of
    the sessions ``doubtful`` the metadata has the digits within a longer number.
    """

    sessions: int = 0
    events: int = 0
    waiting: int = 0
    dead: int = 0
    attempts: int = 0
    rejected: int = 0
    metadata: int = 0
    metadata_left: int = 0
    doubtful: list[str] = []


class Tombstones:
    """What stands for erased phones, under a key that only BRIDGE_SECRET_KEYS opens."""

    def __init__(self, client: Client, box: SecretBox) -> None:
        self._client = client
        self._box = box

    @cached_property
    def _key(self) -> bytes:
        (sealed,) = self._client.commands([["HGET", keys.ERASURE, "key"]])
        if sealed is None:
            fresh = self._box.seal(secrets.token_bytes(KEY_BYTES), _OWNER)
            _, sealed = self._client.commands([["HSETNX", keys.ERASURE, "key", fresh], ["HGET", keys.ERASURE, "key"]])
        return self._box.open(cast("bytes", sealed), _OWNER)

    def of(self, phone: str) -> bytes:
        """A phone's tombstone. Raises ``SecretsUnreadable``."""
        return tombstone(self._key, phone)

    def put(self, phone: str, now_ms: int) -> None:
        """Set a phone's tombstone. The caller bumps the registry, under which commits read it."""
        self._client.commands([["HSET", keys.TOMBSTONES, self.of(phone), now_ms]])


class ErasedPlaces:
    """The places of erased events: what is missing from the log and not among them was lost."""

    def __init__(self, client: Client, shards: int) -> None:
        self._client = client
        self._shards = shards

    def among(self, account: str, places: Iterable[tuple[int, bytes]]) -> set[tuple[int, bytes]]:
        """Those of ``places`` that were erased."""
        asked = list(places)
        replies = self._client.commands([["ZSCORE", keys.erased(shard, account), place] for shard, place in asked])
        return {place for place, score in zip(asked, replies, strict=True) if score is not None}

    def trim_tombstones(self, before_ms: int) -> int:
        """Drop tombstones older than ``before_ms`` (Unix ms): which needs no key. Returns how many."""
        (flat,) = self._client.commands([["HGETALL", keys.TOMBSTONES]])
        values = cast("list[bytes]", flat)
        old = [name for name, at in zip(values[::2], values[1::2], strict=True) if int(at) < before_ms]
        if old:
            self._client.commands([["HDEL", keys.TOMBSTONES, *old]])
        return len(old)

    def trim(self, accounts: Iterable[str], before_ms: int) -> None:
        """Forget places of events older than ``before_ms`` (Unix ms)."""
        self._client.commands(
            [
                ["ZREMRANGEBYSCORE", keys.erased(shard, account), "-inf", f"({before_ms}"]
                for account in accounts
                for shard in range(self._shards)
            ]
        )


class Eraser:
    """Finds and removes what belongs to one phone. With ``dry`` it only counts."""

    def __init__(
        self,
        client: Client,
        shards: int,
        *,
        keep_settled_ms: int,
        tell: Callable[[int], None],
        dry: bool,
    ) -> None:
        self._client = client
        self._shards = shards
        self._keep_settled_ms = keep_settled_ms
        self._tell = tell
        self._dry = dry
        self._sessions = SessionStore(client, shards)
        self._log = EventLog(client, shards)
        self._queues = QueueStore(client, shards)
        self._attempts = AttemptLog(client)
        self._tracking = TrackingStore(client, shards)
        self._subscriptions = SubscriptionStore(client, shards)

    def erase(self, phone: str, accounts: Sequence[str], tombstones: Tombstones, now_ms: int) -> Erased:
        """Remove all of a phone, of every account."""
        digits = normalise_phone(phone)
        if not self._dry:
            tombstones.put(phone, now_ms)
            self._subscriptions.bump()
        done = Erased()
        registry = self._subscriptions.load()
        for account in accounts:
            names = [one.id for one in registry.of(account)]
            self._from_sessions(account, digits, done)
            for shard, records in self._logged(account, digits, done):
                done.waiting += sum(self._queues.take_out(name, shard, records, dry=self._dry) for name in names)
                done.events += self._from_log(account, shard, records)
            for name, shard, records in self._kept(names, digits, done):
                # Their places first: the log has none of them, and what was taken out here is found nowhere again.
                done.events += self._from_log(account, shard, records)
                done.waiting += self._queues.take_out(name, shard, records, dry=self._dry)
            for name in names:
                done.dead += self._from_dead(account, name, digits, done)
                done.attempts += self._attempts.erase(name, events.phone_tag(phone), dry=self._dry)
            done.rejected += self._from_rejected(account, digits)
        return done

    def _from_sessions(self, account: str, digits: str, done: Erased) -> None:
        for session_no, seen in self._sessions.scan(account):
            self._tell(1)
            if seen.metadata:
                cleaned = without_phone_in(seen.metadata, digits)
                done.metadata += cleaned.metadata != seen.metadata
                done.doubtful += [session_no] * cleaned.doubtful
            if without_phone(seen, digits) is not None:
                done.sessions += 1
                if not self._dry:
                    self._rewrite(account, session_no, digits)

    def _rewrite(self, account: str, session_no: str, digits: str) -> None:
        for _ in range(_TRIES):
            stored = self._sessions.read(account, [session_no])[session_no]
            state = stored.state and without_phone(stored.state, digits)
            if not state:
                return
            due, expires_ms = Due.KEEP, None
            if state.settled_ms:
                due, expires_ms = Due.LEAVE, state.settled_ms + self._keep_settled_ms
            written = self._sessions.commit(account, [Write(session_no, stored.version, state, due, expires_ms)])
            if written[session_no] is CommitResult.WRITTEN:
                return
        raise BridgeError("a session kept changing while a phone was erased from it: erase it again")

    def _logged(self, account: str, digits: str, done: Erased) -> Iterator[tuple[int, dict[bytes, bytes]]]:
        """The phone's records in the log, by shard and position. Counts on the way what others carry of it."""
        found: dict[int, dict[bytes, bytes]] = {}
        for one in self._log.read(account):
            self._tell(1)
            if _is_of(one.record, digits, done):
                page = found.setdefault(one.shard, {})
                page[one.position] = one.record
                if len(page) >= _PAGE:
                    yield one.shard, found.pop(one.shard)
        yield from found.items()

    def _kept(self, names: Sequence[str], digits: str, done: Erased) -> Iterator[tuple[str, int, dict[bytes, bytes]]]:
        """Those that are kept beside a queue once the log has dropped them: subscription, shard, and by position."""
        for name in names:
            for shard in range(self._shards):
                kept = self._queues.all_kept(name, shard)
                mine = {place: record for place, record in kept.items() if _is_of(record, digits, done)}
                if mine:
                    yield name, shard, mine

    def _from_log(self, account: str, shard: int, records: Mapping[bytes, bytes]) -> int:
        args: list[Argument] = []
        for position in records:
            args += (positions.to_id(position), position)
        if not self._dry:
            self._client.run([Call("erase_events", [keys.log(shard, account), keys.erased(shard, account)], args)])
        return len(records)

    def _from_dead(self, account: str, name: str, digits: str, done: Erased) -> int:
        letters = [one for one in self._queues.dead_letters(name) if one.record and _is_of(one.record, digits, done)]
        if not self._dry:
            for one in letters:
                self._from_log(account, one.shard, {one.position: one.record})
                self._client.commands([["XDEL", keys.dead(one.shard, name), one.id]])
        return len(letters)

    def _from_rejected(self, account: str, digits: str) -> int:
        found = [
            one.id
            for one in self._tracking.rejected(account)
            if any(normalise_phone(text) == digits for text in _phones_in(one.item))
        ]
        if found and not self._dry:
            self._client.commands([["XDEL", keys.rejected(account), *found]])
        return len(found)


def _is_of(record: bytes, digits: str, done: Erased) -> bool:
    event = events.readable(record)
    if event is None:
        # Nothing is lost with what nobody can read, and the phone may be in it.
        return digits.encode() in record
    if normalise_phone(event.phone) == digits:
        return True
    done.metadata_left += is_in(event.metadata, digits)
    return False
