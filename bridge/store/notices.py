"""Recording events of the bridge's own, and what of a subscription was told already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec

from bridge.domain.deliveries import Part
from bridge.domain.events import Record, lane_id, pack
from bridge.domain.notices import KINDS, Notice, Said
from bridge.domain.policy import DEFAULT_LIMITS, Limits
from bridge.domain.subscriptions import Subscription
from bridge.store import keys
from bridge.store.client import Argument, Call, Client

_packer = msgspec.msgpack.Encoder()
_said_of = msgspec.msgpack.Decoder(Said).decode
_STALE = -1


class NoticeStore:
    """Events of the bridge's own: of an account, and with what is told of a subscription in its home shard."""

    def __init__(self, client: Client, shards: int, limits: Limits = DEFAULT_LIMITS) -> None:
        self._client = client
        self._shards = shards
        self._limits = limits.share(shards)

    def record(self, account: str, event: Record, subscription: str) -> None:
        """Record an event for one subscription alone, whatever it asked for."""
        shard = keys.shard_of(event.session_no, self._shards)
        self._client.run([self._call(shard, account, event, [subscription], subscription, [b"", "", "", ""])])

    def said(self, subscriptions: Sequence[str]) -> dict[str, dict[int, Said | None]]:
        """What was told last of each subscription, by kind."""
        fields = [f"said{kind}" for kind in KINDS]
        replies = self._client.commands(
            [["HMGET", keys.counts(Part(name).home(self._shards), name), *fields] for name in subscriptions]
        )
        return {
            name: {kind: _said_of(value) if value else None for kind, value in zip(KINDS, values, strict=True)}
            for name, values in zip(subscriptions, cast("list[list[bytes | None]]", replies), strict=True)
        }

    def tell(
        self, about: Subscription, notice: Notice, event: Record, to: Sequence[str], version: bytes
    ) -> bool | None:
        """Record what happened to a subscription, queue it for others, and note it as told: all of it, or nothing.

        ``version`` is the registry's (in the home shard) when ``to`` was decided. Returns False where somebody else
        told of it meanwhile, None where the registry is another by now.
        """
        home = Part(about.id).home(self._shards)
        before = _packer.encode(notice.before) if notice.before else b""
        fence: list[Argument] = [version, f"said{notice.kind}", before, _packer.encode(notice.said)]
        (reply,) = self._client.run([self._call(home, about.account, event, to, about.id, fence)])
        return None if reply == _STALE else bool(reply)

    def _call(  # noqa: PLR0917 - the parts of one script call, in its order
        self, shard: int, account: str, event: Record, to: Sequence[str], about: str, fence: Sequence[Argument]
    ) -> Call:
        lane = lane_id(event.session_no, event.phone)
        names = [
            keys.index(shard),
            keys.log(shard, account),
            keys.registry(shard),
            keys.counts(shard, about),
        ]
        version, *told = fence
        args: list[Argument] = [pack(event), lane, version, self._limits.backlog, self._limits.dead, *told]
        for name in to:
            names += [
                keys.queue(shard, name),
                keys.lanes(shard, name, lane),
                keys.counts(shard, name),
                keys.dead(shard, name),
                keys.state(shard, name),
            ]
            args.append(keys.queue_member(name))
        return Call("announce", names, args)
