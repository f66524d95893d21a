"""Mistakes that are put into the store on purpose: whoever judges a run must find each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from bridge.domain.commits import CommitResult, Write
from bridge.domain.deliveries import Settlement
from tests.simulation.queues import Line, Queue
from tests.simulation.store import Store


def _put(part: object, name: str, wrong: Callable[..., object]) -> None:
    """Let a part do something else."""
    setattr(part, name, wrong)


def lost_reschedule(store: Store) -> None:
    """What is handed back is in no schedule any more."""

    def reschedule(shard: int, account: str, group: Sequence[str], _due_ms: Mapping[str, int], _end_ms: int) -> None:
        for no in group:
            store.sessions.due_of(shard, account).pop(no, None)

    _put(store.sessions, "_reschedule", reschedule)


def lost_lease(store: Store) -> None:
    """A claimed session comes due no more, unless it is committed."""

    def lease(shard: int, account: str, session_nos: Sequence[str], _lease_end_ms: int) -> dict[str, int]:
        due = store.sessions.due_of(shard, account)
        return {no: int(due.pop(no)) for no in session_nos}

    _put(store.sessions, "lease", lease)


def settling_takes_the_next(store: Store) -> None:
    """A settled event takes the next one of its lane along."""
    right = Queue.take_first

    def settle(token: bytes, place: tuple[str, int], group: Sequence[Settlement]) -> int:
        queue = store.queues.at(*place)
        before = {lane: len(line.waiting) for lane, line in queue.lines.items()}
        applied = settled(token, place, group)
        for lane, line in list(queue.lines.items()):
            if len(line.waiting) < before.get(lane, 0):
                right(queue, lane, store.server.now_ms)
        return applied

    settled = store.queues.settle_one
    _put(store.queues, "settle_one", settle)


def unfenced_commit(store: Store) -> None:
    """Whoever writes last wins, whatever it knew."""

    def is_current(_shard: int, _account: str, _write: Write) -> bool:
        return True

    _put(store.sessions, "is_current", is_current)


def unfenced_registry(store: Store) -> None:
    """Who wants an event is what its poller last heard."""
    commit = store.sessions.commit

    def unfenced(
        account: str, writes: Iterable[Write], _versions: Mapping[int, bytes] | None = None
    ) -> dict[str, CommitResult]:
        return commit(account, writes)

    _put(store.sessions, "commit", unfenced)


def outcome_noted_twice(store: Store) -> None:
    """An outcome counts for whatever its lane begins with: of one that was noted before, for the next."""

    def is_first(_line: Line, _one: Settlement) -> bool:
        return True

    _put(store.queues, "is_first", is_first)


def two_hold_a_queue(store: Store) -> None:
    """A hold keeps nobody out, and a lease lasts for a second."""
    claim = store.queues.claim_one

    def claimed(token: bytes, place: tuple[str, int], most: int, hold_ms: int) -> list[bytes] | None:
        queue = store.queues.at(*place)
        queue.holder, queue.held_until = b"", 0
        found = claim(token, place, most, hold_ms)
        queue.lease(found or [], store.server.now_ms + 1_000)
        return found

    _put(store.queues, "claim_one", claimed)


def overtaking(store: Store) -> None:
    """An event goes before those of its phone that wait."""
    receive = store.queues.receive

    def received(queue: Queue, lane: bytes, position: bytes, record: bytes) -> None:
        receive(queue, lane, position, record)
        line = queue.lines.get(lane)
        if line is not None and line.waiting[-1] == position:
            line.waiting.insert(0, line.waiting.pop())

    _put(store.queues, "receive", received)


def trimmed_while_it_waits(store: Store) -> None:
    """The log drops what a queue still refers to."""

    def trim(shard: int, account: str, _names: Sequence[str], limit: bytes) -> int:
        log = store.sessions.shards[shard].log.get(account, {})
        old = [place for place in log if place < limit]
        for place in old:
            del log[place]
        return len(old)

    _put(store.upkeep, "_trim", trim)


MISTAKES: dict[str, tuple[Callable[[Store], None], str, int]] = {
    one.__name__: (one, invariant, seed)
    for one, invariant, seed in (
        (lost_reschedule, "I1", 0),
        (lost_lease, "I1", 0),
        (settling_takes_the_next, "I2", 0),
        (unfenced_commit, "I4", 0),
        (unfenced_registry, "I2", 1),
        (outcome_noted_twice, "I2", 12),
        (two_hold_a_queue, "I10", 2),
        (overtaking, "I6", 0),
        (trimmed_while_it_waits, "I2", 3),
    )
}
"""Each with the invariant by which it is to be found, and a seed that is known to show it: where to look first."""
