"""Records of a run in which all went well, altered: something came again, and what is known of why."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tests.faults.evidence import Evidence
from tests.faults.records import Asked, Attempt, Ended, Fault, Harm, Kind, Post, Records

replace = msgspec.structs.replace


def one_accepted(records: Records) -> Post:
    """A POST that was accepted, of one event and no batch."""
    return next(post for post in records.posts if post.accepted and b'"bridge.batch"' not in post.body)


def with_posts(records: Records, change: Callable[[Post], Post]) -> Records:
    return replace(records, posts=tuple(map(change, records.posts)))


def first_of(records: Records) -> tuple[Post, Attempt]:
    post = one_accepted(records)
    return post, records.journal.attempts[post.attempt]


def again_of(records: Records, **fields: object) -> Records:
    """One accepted POST came again two seconds later, as another attempt; ``fields`` alter what is known of the first.
    All the while workers are killed and the network fails, but others than those that this concerns; nor did this
    machine keep any of them from its work."""
    chosen = one_accepted(records)
    first = records.journal.attempts[chosen.attempt]
    second = replace(first, name="1-1", pid=1, sent_ms=first.sent_ms + 2_000, heard_ms=first.heard_ms + 2_000)
    attempts = {**records.journal.attempts, first.name: replace(first, **fields), "1-1": second}
    later = {"at_ms": chosen.at_ms + 2_000, "decided_ms": chosen.decided_ms + 2_000, "attempt": "1-1"}
    names = ("kill -9 of a worker", "receivers' replies cut", "store stalled", "SIGSTOP of a worker")
    return replace(
        records,
        posts=(*records.posts, replace(chosen, **later)),
        journal=replace(records.journal, attempts=attempts, hindrances=()),
        faults=tuple(
            Fault(name=name, kind=Kind.LOSES_OUTCOMES, at_ms=at_ms, until_ms=at_ms + 1_000)
            for name in names
            for at_ms in range(first.sent_ms - 3_000, first.sent_ms + 5_000, 1_000)
        ),
        ended=(Ended(pid=2, kind="worker", at_ms=first.heard_ms, how="killed"),),
        harms=(Harm(link="receivers", port=0, at_ms=first.heard_ms, how="cut"),),
    )


def unwritten(records: Records) -> Records:
    """Nobody told the store of any outcome."""
    asked = tuple(replace(call, accepted=()) for call in records.journal.asked)
    return replace(records, journal=replace(records.journal, asked=asked))


def sent_again(records: Records, harm: Harm) -> Records:
    """libcurl sent it once more, was refused, and tells of that; it came a third time by another attempt."""
    chosen = one_accepted(records)
    refused = replace(
        chosen, at_ms=chosen.at_ms + 20, decided_ms=chosen.decided_ms + 20, status=503, accepted=False, port=1
    )
    again = again_of(records, status=503)
    return replace(again, posts=(*again.posts, refused), harms=(harm,))


def leased_anew(records: Records, apart: int) -> Records:
    """While a master is replaced it comes again, from a lease by a server so far from the one that was told."""
    again = again_of(records)
    first = records.journal.attempts[one_accepted(records).attempt]
    told, lane = told_of(records)
    lease = replace(
        told, pid=1, script="claim_lanes", asked_ms=first.sent_ms + 1_990, accepted=(), lanes=(lane,), reply=1
    )
    lease = replace(lease, server=told.server + apart, answered_ms=first.sent_ms + 1_995)
    over = Fault(
        name="SENTINEL FAILOVER", kind=Kind.HARMLESS, at_ms=first.sent_ms - 100, until_ms=first.sent_ms + 3_000
    )
    return replace(again, journal=replace(again.journal, asked=(*again.journal.asked, lease)), faults=(over,))


def told_of(records: Records) -> tuple[Asked, str]:
    """The call that wrote down the outcome of the one accepted POST, and that event's lane."""
    evidence, chosen = Evidence(records), one_accepted(records)
    ((shard, position),) = next(
        evidence.places_of(one) for one in evidence.heard[chosen.subscription] if one.post is chosen
    )
    call = next(
        call
        for call in records.journal.asked
        if position in call.accepted
        and call.reply is not None  # but that the server lacked the script
        and (call.subscription, call.shard) == (chosen.subscription, shard)
    )
    return call, call.lanes[call.accepted.index(position)]
