"""The store's parts on one server, and what tests do with them again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import msgspec
import redis

from bridge.domain import events
from bridge.domain.accounts import Account
from bridge.domain.breaker import Health
from bridge.domain.commits import CommitResult, Due, Entry, Route, Write
from bridge.domain.deliveries import Lane
from bridge.domain.packing import Wanted
from bridge.domain.policy import DEFAULT_LIMITS, Limits
from bridge.domain.status import SessionState
from bridge.domain.subscriptions import Subscription
from bridge.store import keys, positions
from bridge.store.accounts import AccountStore
from bridge.store.attempts import AttemptLog
from bridge.store.audit import AuditTrail
from bridge.store.client import Client
from bridge.store.filling import FillStore
from bridge.store.index import Clock, Index, RateStore, Wakes
from bridge.store.limits import LimitStore
from bridge.store.log import EventLog
from bridge.store.notices import NoticeStore
from bridge.store.outcomes import OutcomeStore
from bridge.store.pushes import PushStore
from bridge.store.queues import QueueStore
from bridge.store.resending import ResendStore
from bridge.store.sessions import SessionStore
from bridge.store.subscriptions import SubscriptionStore
from bridge.store.tracking import Origins, TrackingStore

SHARDS = 4
OPEN = SessionState(sent_ms=1, tracked_ms=1)
PHONE = "18500000001"
SUB = "sub_a"


def until(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait until something is so, looking every few milliseconds; fail if it is not in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it never came to be so"
        time.sleep(0.003)


def record(session_no: str, phone: str = PHONE, sequence: int = 1) -> bytes:
    """A packed event: this phone was delivered."""
    return events.pack(
        events.Record(1, session_no, phone, "", 2, 0, sequence, False, False, "Success", "DELIVRD", "", 1, 1, 1, 0, "")
    )


def entry(session_no: str, phone: str = PHONE, *, to: Sequence[str] = (SUB,), sequence: int = 1) -> Entry:
    """An event with its ways to subscriptions."""
    lane = events.lane_id(session_no, phone)
    return Entry(record(session_no, phone, sequence), [Route(name, lane) for name in to])


def account(name: str = "shop") -> Account:
    """A credential set, whose private key is not sealed."""
    return Account(name=name, public_key="public", private_key=b"sealed", created_ms=1, changed_ms=1)


def subscription(name: str = SUB, *, account: str = "default", created_ms: int = 1) -> Subscription:
    return Subscription(id=name, account=account, url="http://127.0.0.1:9/", created_ms=created_ms, secrets=())


def older(health: Health, passed_ms: int) -> Health:
    """What is known of a receiver, some time later."""
    times = {"opened_ms": health.opened_ms, "probe_ms": health.probe_ms, "quiet_ms": health.quiet_ms}
    return msgspec.structs.replace(health, **{name: at - passed_ms for name, at in times.items() if at})


class Parts:
    """Everything of ``bridge.store``, with a connection of its own."""

    def __init__(self, url: str, shards: int = SHARDS, limits: Limits = DEFAULT_LIMITS) -> None:
        self.url = url
        self.shards = shards
        self.client = Client(url)
        self.redis: redis.Redis = self.client.redis
        self._nodes = [node for node in self.client.nodes() if node.master]
        self.sessions = SessionStore(self.client, shards, limits)
        self.queues = QueueStore(self.client, shards, limits)
        self.notices = NoticeStore(self.client, shards, limits)
        self.limits = LimitStore(self.client, shards, self.queues, limits)
        self.outcomes = OutcomeStore(self.client, self.queues)
        self.filling = FillStore(self.client, shards, limits)
        self.resending = ResendStore(self.client, shards, limits)
        self.audit = AuditTrail(self.client)
        self.attempts = AttemptLog(self.client)
        self.log = EventLog(self.client, shards)
        self.subscriptions = SubscriptionStore(self.client, shards)
        self.tracking = TrackingStore(self.client, self.shards)
        self.origins = Origins(self.client)
        self.accounts = AccountStore(self.client)
        self.pushes = PushStore(self.client, self.sessions)
        self.index = Index(self.client, shards)
        self.wakes = Wakes(self.client)
        self.rate = RateStore(self.client)
        self.clock = Clock(self.client)

    @classmethod
    def sharing(cls, other: Parts, limits: Limits) -> Parts:
        """Parts on the same server under other limits."""
        return cls(other.url, limits=limits)

    def close(self) -> None:
        self.client.close()

    def empty(self) -> None:
        """Forget everything, on every server."""
        for node in self._nodes:
            self.client.ask_node(node, [["FLUSHALL"]])

    def forget_scripts(self) -> None:
        """As a server does that was started again."""
        for node in self._nodes:
            self.client.ask_node(node, [["SCRIPT", "FLUSH"]])

    def now_ms(self) -> int:
        seconds, micros = self.redis.time()
        return seconds * 1000 + micros // 1000

    def write(
        self,
        session_no: str,
        *entries: Entry,
        due: int | Due = Due.KEEP,
        expires_ms: int | None = None,
        state: SessionState = OPEN,
        account: str = "default",
    ) -> CommitResult:
        """Commit over whatever version is there."""
        version = self.sessions.read(account, [session_no])[session_no].version
        done = self.sessions.commit(account, [Write(session_no, version, state, due, expires_ms, entries)])
        return done[session_no]

    def claim_due(self, shares: Mapping[int, int], lease_ms: int, account: str = "default") -> list[str]:
        """Lease sessions, of each shard so many of those due for longest."""
        wanted = {shard: Wanted(most, 0, 0) for shard, most in shares.items()}
        return list(self.sessions.claim(account, wanted, self.now_ms() + lease_ms, 0)[1])

    def claim(self, token: bytes, session_no: str, *, to: str = SUB, most: int = 100) -> list[bytes] | None:
        """Claim what is due of a subscription in a session's shard."""
        return self.queues.claim(token, [(to, self.shard(session_no), most)], 45_000)[1][0]

    def take(self, token: bytes, session_no: str, *, to: str = SUB) -> list[Lane]:
        """Claim, and read what was claimed."""
        lanes = self.claim(token, session_no, to=to)
        assert lanes is not None
        return self.queues.peek([(to, self.shard(session_no), lanes)])[0]

    def remove_queue(self, subscription: str) -> None:
        """Remove all that is kept for a subscription, whatever the registry says of it."""
        assert self.queues.remove(subscription, self.subscriptions.load().versions) == []

    def shard(self, session_no: str) -> int:
        return keys.shard_of(session_no, self.shards)

    def make_due(self) -> None:
        """Let every due time and lease be over, as if hours had passed."""
        for shard in range(self.shards):
            for name in self._due_sets(shard).values():
                members = cast("list[bytes]", self.redis.zrange(name, 0, -1))
                self.redis.zadd(name, dict.fromkeys(members, 1))
            for member in cast("list[bytes]", self.redis.zrange(keys.index(shard), 0, -1)):
                self.redis.zadd(keys.index(shard), {member: 1})

    def pass_ms(self, passed_ms: int) -> None:
        """Let time pass, without waiting: move every due time, gate, hold and wait that far into the past."""
        for shard in range(self.shards):
            for name in (*self._due_sets(shard).values(), keys.index(shard), keys.expiry(shard)):
                scores = cast("list[tuple[bytes, float]]", self.redis.zrange(name, 0, -1, withscores=True))
                if scores:
                    self.redis.zadd(name, {member: score - passed_ms for member, score in scores})
            for key in cast("list[bytes]", self.redis.keys(f"u{{{shard}}}:state:*")):
                gate, health = cast("list[bytes | None]", self.redis.hmget(key, ["gate", "health"]))
                if gate:
                    self.redis.hset(key, "gate", int(gate) - passed_ms)
                if health:
                    self.redis.hset(
                        key,
                        "health",
                        msgspec.msgpack.encode(older(msgspec.msgpack.decode(health, type=Health), passed_ms)),
                    )
            ending = [*self.redis.keys(f"u{{{shard}}}:hold:*"), *self.redis.keys(f"u{{{shard}}}:hinted:*")]
            for key in cast("list[bytes]", ending):
                left_ms = self.redis.pttl(key) - passed_ms
                self.redis.pexpire(key, max(0, left_ms))

    def assert_index_is_right(self, *, may_be_early: bool = False) -> None:
        """Every index names exactly its shard's due-sets, by their earliest due time; or some earlier."""
        for shard in range(self.shards):
            expected = {
                member: max(
                    cast("list[tuple[bytes, float]]", self.redis.zrange(name, 0, 0, withscores=True))[0][1],
                    float(self._gate(shard, member) or 0),
                )
                for member, name in self._due_sets(shard).items()
                if self._gate(shard, member, "parked") is None
            }
            found = cast("list[tuple[bytes, float]]", self.redis.zrange(keys.index(shard), 0, -1, withscores=True))
            places = {member.decode(): score for member, score in found}
            if may_be_early:
                places = {name: max(at, expected.get(name, at)) for name, at in places.items()}
            assert places == expected
            self._assert_lanes_are_queued(shard)

    def _gate(self, shard: int, member: str, field: str = "gate") -> bytes | None:
        return cast("bytes | None", self.redis.hget(keys.state(shard, member[2:]), field)) if member[0] == "q" else None

    def _due_sets(self, shard: int) -> dict[str, str]:
        """The due-sets of a shard, by their members in its index."""
        found: dict[str, str] = {}
        for kind, member in (("due", "p"), ("q", "q")):
            prefix = f"u{{{shard}}}:{kind}:"
            for key in self.client.scan(f"{prefix}*"):
                found[f"{member}:{key.decode().removeprefix(prefix)}"] = key.decode()
        return found

    def _assert_lanes_are_queued(self, shard: int) -> None:
        """A lane is in its queue exactly as long as something waits in it."""
        names = {name.rpartition(":")[2] for name in self._due_sets(shard).values() if ":q:" in name}
        buckets = set(self.client.scan(f"u{{{shard}}}:l:*"))
        for name in names | {key.decode().split(":")[2] for key in buckets}:
            queued = set(cast("list[bytes]", self.redis.zrange(keys.queue(shard, name), 0, -1)))
            lanes = self.lanes(shard, name)
            assert queued == set(lanes)
            counted = int(cast("bytes", self.redis.hget(keys.counts(shard, name), "w") or b"0"))
            assert counted == sum(len(places) for _, places in lanes.values())

    def lanes(self, shard: int, name: str) -> dict[bytes, tuple[int, list[bytes]]]:
        """What waits in each lane of a subscription: attempts, and positions."""
        return {
            lane: positions.split(value)
            for key in set(self.client.scan(f"u{{{shard}}}:l:{name}:*"))
            for lane, value in cast("dict[bytes, bytes]", self.redis.hgetall(key)).items()
        }
