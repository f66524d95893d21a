"""Every key the bridge keeps in Redis or Valkey: name, type, who writes it, and what bounds it.

A shard's keys carry its hash tag ``{i}``, so that one script call can change them together, on one server or on a
cluster. ``<a>`` is an account, ``<no>`` a SessionNo, ``<sub>`` a subscription's id.

======================== ====== ======================================= ================================================
key                      type   written by                              bounded by
======================== ====== ======================================= ================================================
u:store                  hash   the first connection                    three fields
u:subscriptions          hash   subscriptions add, rotate; rewrap       one field a subscription
u:owned{u:subscriptions} hash   subscriptions add, remove               one field an account
u:accounts               set    bridge.track                            one member an account
u:origins                hash   bridge.track                            two fields of each of 16,383 machines
u:credentials            hash   accounts add, edit, remove; rewrap      one field an account
u:account:<a>            hash   deliver, accounts secret; rewrap        two fields
u:pushes:<a>             hash   bridge web                              four fields
u:callbacks:<a>          zset   bridge.track, bridge.trim               1,000 members
u:rejected:<a>           stream bridge.track                            newest 10,000
u:wake:<what>            string whoever wakes a task                    a TTL of seconds
u:beat                   string bridge.tick                             a TTL of 10 s
u:erasure                hash   bridge erase                            one field
u:erased                 hash   bridge erase, bridge.trim               one field an erased phone, for about 3 weeks
u:audit                  stream operators' commands                     newest 10,000
u:attempts:<sub>         stream bridge.deliver                          a TTL of 30 days; newest 10,000
u:rate:<a>               hash   bridge.poll                             a TTL of an hour; nine fields
u{i}:durable             string bridge.track (BRIDGE_TRACK_DURABLE)     a TTL of a minute
u{i}:registry            string subscriptions add, rotate, remove       one word: a random version
u{i}:index               zset   every script that moves a due time      one member a due-set
u{i}:s:<a>:<no>          string bridge.track, bridge.poll               removed BRIDGE_KEEP_SETTLED after it settled
u{i}:due:<a>             zset   bridge.track, bridge.poll               one member a session that is not settled
u{i}:watches             zset   bridge.track, bridge.trim               one member a list of sessions to look at
u{i}:watch:<a>:<ms>      list   bridge.track, bridge.trim               BRIDGE_OVERDUE_AFTER; SessionNos
u{i}:damaged:<a>         set    bridge.poll, sessions list              one member a session that cannot be read
u{i}:hinted:<a>          zset   bridge web                              a TTL of 10 s; the hints of the last seconds
u{i}:expiry              zset   bridge.poll, bridge.trim                one member a settled session
u{i}:begin:<a>           string bridge.trim                             one id: from which on the log is whole
u{i}:log:<a>             stream every script that records events        BRIDGE_KEEP_EVENTS
u{i}:hold:<sub>          string bridge.deliver                          a TTL of at most 45 s
u{i}:q:<sub>             zset   every script that records events        one member a waiting lane
u{i}:l:<sub>:<bucket>    hash   every script that records events        one field a waiting lane
u{i}:state:<sub>         hash   bridge.deliver, subscriptions add       five fields
u{i}:kept:<sub>          hash   bridge.trim, bridge.deliver             100,000 of what waits for longer than the log
u{i}:dead:<sub>          stream bridge.deliver, poll, trim              BRIDGE_KEEP_DEAD and 100,000 of a subscription
u{i}:erased:<a>          zset   bridge erase, bridge.trim               BRIDGE_KEEP_DEAD
u{i}:told:<sub>:<hour>   string bridge.deliver                          a TTL of BRIDGE_KEEP_EVENTS and two hours
u{i}:count:<sub>         hash   every script that moves deliveries      twelve fields
======================== ====== ======================================= ================================================
"""

from __future__ import annotations

from zlib import crc32

STORE = "u:store"
SUBSCRIPTIONS = "u:subscriptions"
OWNED = "u:owned{u:subscriptions}"
"""How many subscriptions each account has, without those that its sessions' URLs imply: in the slot of these."""
ACCOUNTS = "u:accounts"
CREDENTIALS = "u:credentials"
ORIGINS = "u:origins"
ERASURE = "u:erasure"
TOMBSTONES = "u:erased"
BEAT = "u:beat"
AUDIT = "u:audit"

NO_REGISTRY = b"0"
"""The version of a registry that nothing was ever written to."""

LANE_BUCKETS = 1024
"""Hashes a shard's lanes of one subscription are spread over: at 1,000,000 waiting in 8 shards each holds about 122
lanes, and stays a listpack."""


def shard_of(session_no: str, shards: int) -> int:
    """The shard that a session lives in."""
    return crc32(session_no.encode()) % shards


def account(name: str) -> str:
    return f"u:account:{name}"


def pushes(account: str) -> str:
    """Counts of the provider's own pushes: ``pushes``, ``hinted``, ``unknown``; and ``at``, the last (Unix ms)."""
    return f"u:pushes:{account}"


def callbacks(account: str) -> str:
    return f"u:callbacks:{account}"


def attempts(subscription: str) -> str:
    return f"u:attempts:{subscription}"


def wake(what: str) -> str:
    return f"u:wake:{what}"


def rate(account: str) -> str:
    """An account's bucket of calls (``tokens``, ``at``), what it was slowed to, and why it is paused."""
    return f"u:rate:{account}"


def rejected(account: str) -> str:
    return f"u:rejected:{account}"


def durable(shard: int) -> str:
    """Written after a tracking, so that the wait for the disk has something of its own connection to wait for."""
    return f"u{{{shard}}}:durable"


def registry(shard: int) -> str:
    return f"u{{{shard}}}:registry"


def index(shard: int) -> str:
    return f"u{{{shard}}}:index"


def watches(shard: int) -> str:
    return f"u{{{shard}}}:watches"


def watch(shard: int, account: str, at_ms: int) -> str:
    """Sessions to look at from ``at_ms`` on, whether they are overdue."""
    return f"u{{{shard}}}:watch:{account}:{at_ms}"


def damaged(shard: int, account: str) -> str:
    return f"u{{{shard}}}:damaged:{account}"


def expiry(shard: int) -> str:
    return f"u{{{shard}}}:expiry"


def session(shard: int, account: str, session_no: str) -> str:
    return f"u{{{shard}}}:s:{account}:{session_no}"


def due(shard: int, account: str) -> str:
    return f"u{{{shard}}}:due:{account}"


def hinted(shard: int, account: str) -> str:
    """When the provider's push last made a session due (Unix ms), of the last seconds."""
    return f"u{{{shard}}}:hinted:{account}"


def log(shard: int, account: str) -> str:
    return f"u{{{shard}}}:log:{account}"


def begin(shard: int, account: str) -> str:
    return f"u{{{shard}}}:begin:{account}"


def hold(shard: int, subscription: str) -> str:
    return f"u{{{shard}}}:hold:{subscription}"


def queue(shard: int, subscription: str) -> str:
    return f"u{{{shard}}}:q:{subscription}"


def lanes(shard: int, subscription: str, lane: bytes) -> str:
    """The hash that holds a lane (8 bytes): its first two bytes choose it."""
    return f"u{{{shard}}}:l:{subscription}:{int.from_bytes(lane[:2]) % LANE_BUCKETS}"


def state(shard: int, subscription: str) -> str:
    """A queue's ``gate``, ``parked``, ``dropped`` and, while it is being filled, ``filled``.

    In its home shard the receiver's ``health`` too.
    """
    return f"u{{{shard}}}:state:{subscription}"


def kept(shard: int, subscription: str) -> str:
    return f"u{{{shard}}}:kept:{subscription}"


def dead(shard: int, subscription: str) -> str:
    return f"u{{{shard}}}:dead:{subscription}"


def erased(shard: int, account: str) -> str:
    return f"u{{{shard}}}:erased:{account}"


def told(shard: int, subscription: str, hour: int) -> str:
    """What was accepted in an hour (Unix hours)."""
    return f"u{{{shard}}}:told:{subscription}:{hour}"


def counts(shard: int, subscription: str) -> str:
    return f"u{{{shard}}}:count:{subscription}"


def poll_member(account: str) -> str:
    """An account's poll schedule, as a member of a shard's index."""
    return f"p:{account}"


def queue_member(subscription: str) -> str:
    """A subscription's queue, as a member of a shard's index."""
    return f"q:{subscription}"
