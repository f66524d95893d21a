"""Sessions: their packed state, when they are due, and the one commit that changes all of it together."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

import msgspec

from bridge.domain.commits import ABSENT, CommitResult, Due, Stored, Watched, Write
from bridge.domain.packing import Wanted
from bridge.domain.policy import DEFAULT_LIMITS, Limits
from bridge.domain.polls import PollNote
from bridge.domain.rate import Demand
from bridge.domain.status import SessionState
from bridge.store import keys
from bridge.store.client import Argument, Call, Client

_packer = msgspec.msgpack.Encoder()
_unpacker = msgspec.msgpack.Decoder(SessionState)
_VERSION_BYTES = 4
_ROUTES_A_CALL = 1_000
"""Ways of events to subscriptions: 15 to 60 ms of the server's time. One session has no more than 1,000 phones."""
_MORE_CALLS = 8


class SessionStore:
    """Sessions of all accounts, by shard."""

    def __init__(self, client: Client, shards: int, limits: Limits = DEFAULT_LIMITS) -> None:
        self._client = client
        self._shards = shards
        self._limits = limits.share(shards)

    def by_shard(self, session_nos: Iterable[str]) -> dict[int, list[str]]:
        """Group SessionNos by the shard they live in."""
        groups: dict[int, list[str]] = {}
        for session_no in session_nos:
            groups.setdefault(keys.shard_of(session_no, self._shards), []).append(session_no)
        return groups

    def read(self, account: str, session_nos: Sequence[str]) -> dict[str, Stored]:
        """Read sessions, in one round trip."""
        groups = self.by_shard(session_nos)
        replies = self._client.commands(
            [["MGET", *(keys.session(shard, account, no) for no in group)] for shard, group in groups.items()]
        )
        found: dict[str, Stored] = {}
        for group, reply in zip(groups.values(), replies, strict=True):
            for session_no, value in zip(group, cast("list[bytes | None]", reply), strict=True):
                found[session_no] = unpack(value)
        return found

    def commit(
        self, account: str, writes: Iterable[Write], registry_versions: Mapping[int, bytes] | None = None
    ) -> dict[str, CommitResult]:
        """Write sessions, each with its events, queues and due time: one script call a shard, one round trip in all.

        Of very many events there are more: a script that takes seconds would keep everybody else waiting, and so would
        a round trip the sender. ``registry_versions`` (by shard) fences the routes of events; None where there are
        none to fence.
        """
        groups: dict[int, list[Write]] = {}
        for write in writes:
            groups.setdefault(keys.shard_of(write.session_no, self._shards), []).append(write)
        parts = [(shard, part) for shard, group in groups.items() for part in _split(group, _ROUTES_A_CALL)]
        verdicts: dict[str, CommitResult] = {}
        for at in range(0, len(parts), self._shards + _MORE_CALLS):
            trip = parts[at : at + self._shards + _MORE_CALLS]
            calls = [
                _commit_call(shard, account, part, registry_versions[shard] if registry_versions else b"", self._limits)
                for shard, part in trip
            ]
            for (_, part), reply in zip(trip, self._client.run(calls), strict=True):
                _, *results = cast("list[int]", reply)
                if results == [-1]:
                    results = [-1] * len(part)
                for write, result in zip(part, results, strict=True):
                    verdicts[write.session_no] = CommitResult(result)
        return verdicts

    def due_counts(self, account: str, now_ms: int) -> list[int]:
        """How many of the account's sessions are due, by shard."""
        replies = self._client.commands(
            [["ZCOUNT", keys.due(shard, account), "-inf", now_ms] for shard in range(self._shards)]
        )
        return cast("list[int]", replies)

    def demand(self, account: str, now_ms: int, window_ms: int) -> Demand:
        """What the account's sessions ask for: those due, and those that come due within ``window_ms``."""
        dues = [keys.due(shard, account) for shard in range(self._shards)]
        asked: list[list[Argument]] = [["ZCOUNT", name, "-inf", now_ms] for name in dues]
        asked += [["ZCOUNT", name, f"({now_ms}", now_ms + window_ms] for name in dues]
        asked += [["ZRANGE", name, 0, 0, "WITHSCORES"] for name in dues]
        replies = self._client.commands(asked)
        due, soon = (cast("list[int]", replies[part * self._shards :][: self._shards]) for part in (0, 1))
        firsts = [float(pair[1]) for pair in cast("list[list[bytes]]", replies[2 * self._shards :]) if pair]
        lag_ms = max(0, now_ms - int(min(firsts, default=now_ms)))
        return Demand(sum(due), lag_ms, sum(soon), window_ms)

    def claim(
        self, account: str, wanted: Mapping[int, Wanted], lease_end_ms: int, soon_ms: int
    ) -> tuple[int, dict[str, int]]:
        """Lease due sessions until ``lease_end_ms`` (Unix ms): of each shard those wanted.

        Sessions that come due within ``soon_ms`` are those that may ride along. Returns (now in Unix ms, the due times
        that the claimed had, by SessionNo).
        """
        calls = [
            Call(
                "claim_sessions",
                [keys.index(shard), keys.due(shard, account)],
                [keys.poll_member(account), lease_end_ms, most.oldest, most.newest, soon_ms, most.soon],
            )
            for shard, most in wanted.items()
        ]
        now_ms = 0
        claimed: dict[str, int] = {}
        for reply in self._client.run(calls):
            at_ms, *found = cast("tuple[int, *tuple[bytes, ...]]", tuple(cast("list[object]", reply)))
            now_ms = max(now_ms, at_ms)
            for session_no, due_ms in zip(found[::2], found[1::2], strict=True):
                # No SessionNo of ours is other than ASCII; one that is names no session, and takes no other with it.
                claimed[session_no.decode(errors="replace")] = int(float(due_ms))
        return now_ms, claimed

    def reschedule(self, account: str, due_ms: Mapping[str, int], lease_end_ms: int) -> None:
        """Give claimed sessions, whose lease is still theirs, other due times (Unix ms)."""
        self._client.run(
            [
                Call(
                    "reschedule_sessions",
                    [keys.index(shard), keys.due(shard, account)],
                    [keys.poll_member(account), lease_end_ms, *(value for no in group for value in (no, due_ms[no]))],
                )
                for shard, group in self.by_shard(due_ms).items()
            ]
        )

    def poll_now(self, account: str, session_nos: Sequence[str]) -> set[str]:
        """Make sessions due now; a settled one is asked for once more. Returns those that there are."""
        groups = self.by_shard(dict.fromkeys(session_nos))
        calls = [
            Call(
                "hasten_sessions",
                [keys.index(shard), keys.due(shard, account), *(keys.session(shard, account, no) for no in group)],
                [keys.poll_member(account), *group],
            )
            for shard, group in groups.items()
        ]
        found: set[str] = set()
        for group, reply in zip(groups.values(), self._client.run(calls), strict=True):
            found.update(no for no, there in zip(group, cast("list[int]", reply), strict=True) if there)
        return found

    def drop_due(self, account: str, session_nos: Sequence[str]) -> None:
        """Forget the due times of those of these sessions that do not exist."""
        self._client.run(
            [
                Call(
                    "drop_sessions",
                    [
                        keys.index(shard),
                        keys.due(shard, account),
                        *(keys.session(shard, account, no) for no in group),
                    ],
                    [keys.poll_member(account), *group],
                )
                for shard, group in self.by_shard(session_nos).items()
            ]
        )

    def forget(self, account: str, session_nos: Sequence[str]) -> list[str]:
        """Remove sessions: they are not polled any more. Their events stay, and what waits of them is delivered.

        Returns those that there were.
        """
        there: list[str] = []
        groups = self.by_shard(dict.fromkeys(session_nos))
        calls = [
            Call(
                "forget_sessions",
                [
                    keys.index(shard),
                    keys.due(shard, account),
                    keys.expiry(shard),
                    keys.hinted(shard, account),
                    keys.damaged(shard, account),
                    *(keys.session(shard, account, no) for no in group),
                ],
                [keys.poll_member(account), f"{account}:", *group],
            )
            for shard, group in groups.items()
        ]
        for group, reply in zip(groups.values(), self._client.run(calls), strict=True):
            there += [no for no, was in zip(group, cast("list[int]", reply), strict=True) if was]
        return there

    def unsettled(self, account: str) -> int:
        """How many of an account's sessions are still asked for."""
        replies = self._client.commands([["ZCARD", keys.due(shard, account)] for shard in range(self._shards)])
        return sum(cast("list[int]", replies))

    def due(self, account: str, now_ms: int, limit: int) -> dict[str, int]:
        """Sessions that are due, with since when (Unix ms): of each shard the longest due, at most ``limit``."""
        replies = self._client.commands(
            [
                ["ZRANGEBYSCORE", keys.due(shard, account), "-inf", now_ms, "WITHSCORES", "LIMIT", 0, limit]
                for shard in range(self._shards)
            ]
        )
        found: dict[str, int] = {}
        for reply in replies:
            flat = cast("list[bytes]", reply)
            found |= {no.decode(): int(float(due)) for no, due in zip(flat[::2], flat[1::2], strict=True)}
        return found

    def due_ms(self, account: str, session_no: str) -> int | None:
        """When a session is polled next (Unix ms), None if it is not."""
        shard = keys.shard_of(session_no, self._shards)
        (score,) = self._client.commands([["ZSCORE", keys.due(shard, account), session_no]])
        return None if score is None else int(float(cast("bytes", score)))

    def polls(self, account: str, session_no: str) -> list[PollNote]:
        """A session's last 16 polls, the oldest first; none where there is no such session."""
        state = self.read(account, [session_no])[session_no].state
        return [] if state is None else state.polls

    def watched(self, now_ms: int, most: int) -> list[Watched]:
        """Lists of sessions that are to be looked at by now: of each shard the first one's first ``most``."""
        replies = self._client.commands(
            [["ZRANGEBYSCORE", keys.watches(shard), "-inf", now_ms, "LIMIT", 0, 1] for shard in range(self._shards)]
        )
        lists: list[tuple[int, str, int]] = []
        for shard, reply in enumerate(replies):
            for member in cast("list[bytes]", reply):
                account, _, at_ms = member.decode(errors="replace").rpartition(":")
                if at_ms.isascii() and at_ms.isdigit():
                    lists.append((shard, account, int(at_ms)))
        names = self._client.commands([["LRANGE", keys.watch(*one), 0, most - 1] for one in lists])
        return [
            Watched(*one, tuple(no.decode() for no in cast("list[bytes]", found)))
            for one, found in zip(lists, names, strict=True)
        ]

    def unwatch(self, looked_at: Watched) -> None:
        """Forget the sessions of a list that were looked at."""
        one = looked_at
        first = one.session_nos[0] if one.session_nos else ""
        list_key = keys.watch(one.shard, one.account, one.at_ms)
        member = f"{one.account}:{one.at_ms}"
        self._client.run(
            [Call("trim_watch", [keys.watches(one.shard), list_key], [member, first, len(one.session_nos)])]
        )

    def set_aside(self, account: str, session_nos: Sequence[str]) -> None:
        """Note sessions that cannot be read, so that they are seen."""
        groups = self.by_shard(session_nos)
        self._client.commands([["SADD", keys.damaged(shard, account), *group] for shard, group in groups.items()])

    def damaged(self, account: str) -> list[str]:
        """Sessions that were found damaged, and still are; those that can be read again, or are gone, are forgotten."""
        replies = self._client.commands([["SMEMBERS", keys.damaged(shard, account)] for shard in range(self._shards)])
        noted = [name.decode() for reply in replies for name in cast("list[bytes]", reply)]
        stored = self.read(account, noted)
        healed = [name for name in noted if not stored[name].damaged]
        groups = self.by_shard(healed)
        self._client.commands([["SREM", keys.damaged(shard, account), *group] for shard, group in groups.items()])
        return sorted(name for name in noted if stored[name].damaged)

    def scan(self, account: str) -> Iterator[tuple[str, SessionState]]:
        """Walk all sessions of an account, in no order; one written meanwhile may be missed or come twice."""
        for shard in range(self._shards):
            prefix = keys.session(shard, account, "")
            # Redis' patterns give [, ], * and ? a meaning; accounts and prefixes have none of them.
            for batch in _batches(self._client.scan(f"{prefix}*"), 500):
                (values,) = self._client.commands([["MGET", *batch]])
                for key, value in zip(batch, cast("list[bytes | None]", values), strict=True):
                    state = unpack(value).state
                    if state is not None:
                        yield key.decode()[len(prefix) :], state

    def expire(self, now_ms: int, limit: int) -> int:
        """Remove sessions that settled long enough ago, at most ``limit`` a shard. Returns how many."""
        replies = self._client.commands(
            [["ZRANGEBYSCORE", keys.expiry(shard), "-inf", now_ms, "LIMIT", 0, limit] for shard in range(self._shards)]
        )
        calls = []
        for shard, reply in enumerate(replies):
            texts = [member.decode(errors="replace") for member in cast("list[bytes]", reply)]
            members = [text for text in texts if ":" in text]
            if members:
                # An account's name has no colon; a SessionNo may.
                named = [keys.session(shard, *member.split(":", 1)) for member in members]
                calls.append(Call("expire_sessions", [keys.expiry(shard), *named], members))
        return sum(cast("list[int]", self._client.run(calls)))


def unpack(value: bytes | None) -> Stored:
    """A stored value as its version and state; one that cannot be read is damaged, and takes no other with it."""
    if value is None:
        return Stored(ABSENT, None)
    version = value[:_VERSION_BYTES]
    try:
        return Stored(version, _unpacker.decode(memoryview(value)[_VERSION_BYTES:]))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Stored(version, None, damaged=True)


def _expiry(expires_ms: int | Due | None) -> Argument:
    if expires_ms is None:
        return ""
    return expires_ms.value if isinstance(expires_ms, Due) else expires_ms


def _split(writes: list[Write], most: int) -> Iterator[list[Write]]:
    """The writes in parts of no more than so many routes; one that has more is a part of its own."""
    # An event that nobody hears of is a record all the same.
    routes = [sum([len(entry.routes) or 1 for entry in write.events]) for write in writes]
    if sum(routes) <= most:
        yield writes
        return
    part: list[Write] = []
    held = 0
    for write, count in zip(writes, routes, strict=True):
        if part and held + count > most:
            yield part
            part, held = [], 0
        part.append(write)
        held += count
    yield part


def _next_versions(writes: Sequence[Write]) -> Iterator[bytes]:
    """The version that each write leaves."""
    # A random start: a session that was removed and tracked again must not match an old reader's version. All of them
    # are drawn at once: a call to the system for each took 2 µs, a third of what else is done for a session here.
    drawn = secrets.token_bytes(_VERSION_BYTES * len(writes))
    for at, write in enumerate(writes):
        if write.version == ABSENT:
            yield drawn[_VERSION_BYTES * at :][:_VERSION_BYTES]
        else:
            yield (int.from_bytes(write.version) + 1 & 0xFFFFFFFF).to_bytes(_VERSION_BYTES)


def _commit_call(shard: int, account: str, writes: Sequence[Write], registry_version: bytes, limits: Limits) -> Call:
    names = [
        keys.index(shard),
        keys.registry(shard),
        keys.expiry(shard),
        keys.due(shard, account),
        keys.log(shard, account),
        keys.watches(shard),
    ]
    places: dict[str, int] = {}

    def place(key: str) -> int:
        known = places.get(key)
        if known is None:
            names.append(key)
            known = places[key] = len(names)
        return known

    names_of = {route.subscription for write in writes for entry in write.events for route in entry.routes}
    audience = {name: number for number, name in enumerate(sorted(names_of), start=1)}
    args: list[Argument] = [keys.poll_member(account), registry_version, limits.backlog, limits.dead, len(audience)]
    for name in audience:
        args += [place(make(shard, name)) for make in (keys.queue, keys.counts, keys.dead, keys.state)]
        args.append(keys.queue_member(name))
    args.append(len(writes))
    for write, version in zip(writes, _next_versions(writes), strict=True):
        args += (
            place(keys.session(shard, account, write.session_no)),
            write.session_no,
            f"{account}:{write.session_no}",
            write.version,
            version + _packer.encode(write.state),
            write.due.value if isinstance(write.due, Due) else write.due,
            "1" if write.leased else "",
            _expiry(write.expires_ms),
        )
        if write.watch_ms is None:
            args.append("")
        else:
            args += (place(keys.watch(shard, account, write.watch_ms)), f"{account}:{write.watch_ms}", write.watch_ms)
        args.append(len(write.events))
        for entry in write.events:
            args += (entry.record, len(entry.routes))
            for route in entry.routes:
                args += (
                    audience[route.subscription],
                    place(keys.lanes(shard, route.subscription, route.lane)),
                    route.lane,
                )
    return Call("commit", names, args)


def _batches(values: Iterator[bytes], size: int) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for value in values:
        batch.append(value)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
