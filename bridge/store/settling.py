"""The call that settles deliveries of one queue: accepted, retrying, dead, or given back."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.domain.deliveries import Settlement
from bridge.domain.outcome import Verdict
from bridge.domain.policy import Limits
from bridge.store import keys
from bridge.store.client import Argument, Call
from bridge.store.reading import is_ours


def settle_call(part: tuple[str, int], token: bytes, settled: Sequence[Settlement], limits: Limits, hour: int) -> Call:
    """One script call for the deliveries that a holder settles of a queue (subscription, shard) in an hour (Unix)."""
    name, shard = part
    names = [
        keys.index(shard),
        keys.hold(shard, name),
        keys.queue(shard, name),
        keys.dead(shard, name),
        keys.kept(shard, name),
        keys.counts(shard, name),
        keys.told(shard, name, hour),
        keys.state(shard, name),
    ]
    args: list[Argument] = []
    others: list[Settlement] = []
    codes = bytearray()
    accepted: list[bytes] = []
    for one in settled:
        if one.verdict is Verdict.ACCEPTED:
            lane = one.lane
            names.append(lane.bucket)
            accepted += (lane.lane, lane.position)
            codes.append(one.status - 200)
        else:
            others.append(one)
    args += (keys.queue_member(name), token, limits.dead, limits.outcomes_ms, bytes(codes), b"".join(accepted))
    for one in others:
        names.append(one.lane.bucket)
        args += (one.lane.lane, one.lane.position)
        if one.verdict is None:
            args += ("back", "", one.due_ms, "")
        elif one.verdict is Verdict.RETRY:
            args += ("retrying", one.attempts, one.due_ms, "")
        else:
            args += ("unsaid" if is_ours(one.record) else "dead", one.attempts, one.record, one.error)
    return Call("settle_lanes", names, args)
