"""Plans of runs: what a seed stands for, and the few that are played each time the tests are."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import msgspec

from tests.faults.failovers import OF_CLUSTER, OF_SENTINEL
from tests.faults.mischief import CATALOGUE, ONE_SERVERS
from tests.faults.outages import impossible
from tests.faults.world import KEEPS_WHAT_IT_TAKES

STOPS = (
    "claim_sessions:after",
    "provider:before",
    "provider:after",
    "commit:before",
    "commit:after",
    "claim_lanes:after",
    "post:before",
    "post:after",
    "settle_lanes:before",
    "settle_lanes:after",
)
"""Where a worker can be made to die; before and after what, ``inside/sitecustomize.py`` says."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is to be. ``faults`` are names of ``mischief.CATALOGUE``, one after another, ``pause_s`` between.

    ``sessions`` is how many SMS there are at least, ``per_s`` how many a second. ``stops``: one worker dies at each of
    these points, one after another. ``bugs`` are mistakes to make in every worker, and ``applications`` of which kinds
    there is one (``Run._subscribe``). ``neighbours``: at the end, receivers that hang stand beside a well one.
    ``held_back``: the subscription of the well one is paused until all is known, and then hears it all at once.
    """

    seed: int = 1
    sessions: int = 40
    per_s: float = 8.0
    words_over_s: float = 2.0
    workers: int = 2
    own_broker: bool = False
    store: str = "one"
    faults: tuple[str, ...] = ()
    pause_s: float = 0.5
    stops: tuple[str, ...] = ()
    bugs: tuple[str, ...] = ()
    applications: tuple[str, ...] = ("well", "moody", "batches", "failures", "by session", "secure", "forbidden")
    web: bool = True
    neighbours: bool = False
    held_back: bool = False
    patience_s: float = 150.0


ALL_STOPS = (*STOPS, *(("take_message:before", "take_message:after") if KEEPS_WHAT_IT_TAKES else ()))

SCENARIOS: Mapping[str, Plan] = {
    "workers die at every point": Plan(seed=11, stops=ALL_STOPS, per_s=10, workers=3),
    "processes are killed, stopped and frozen": Plan(
        seed=12,
        faults=(
            "kill -9 of everything",
            "kill -9 of a worker",
            "SIGTERM of a worker",
            "SIGSTOP of a worker",
            "a second beat",
            "a worker's clock an hour off",
        ),
    ),
    "the network and the servers fail": Plan(
        seed=13,
        faults=(
            "store's replies cut",
            "store slow",
            "receivers' replies cut",
            "provider's replies cut",
            "SCRIPT FLUSH",
            "CLIENT KILL",
            "maxmemory reached",
            "provider errs",
            "store loses its last second",
            "provider lies",
            "provider's certificate wrong",
            "receivers' certificate wrong",
        ),
    ),
    "Sentinels give the master's place away": Plan(
        seed=16,
        store="sentinel",
        faults=("kill -9 of all workers", "kill -9 of Sentinel's master", "kill -9 of a Sentinel"),
    ),
    "a cluster moves a slot and loses a master": Plan(
        seed=17,
        store="cluster",
        faults=("slot moved", "kill -9 of a cluster's master", "CLUSTER FAILOVER", "a worker without descriptors"),
    ),
    "an operator is at work": Plan(
        seed=14,
        per_s=4,
        applications=(
            *("well", "moody", "batches", "failures", "by session", "removed"),
            *("pushed", "masked", "hashed", "sessions"),
        ),
        faults=(
            "secret rotated",
            "phone erased",
            "subscription edited",
            "paused and resumed",
            "disabled by its receiver",
            "subscription removed",
            "messages doubled",
            *(["malformed messages"] if KEEPS_WHAT_IT_TAKES else []),
        ),
    ),
}
"""What is played each time."""


STORES = ("one", "one", "sentinel", "one", "cluster")
"""What the runs of a soak work on, in turns."""

KILLS = (
    "kill -9 of a worker",
    "kill -9 of all workers",
    "kill -9 of beat",
    "kill -9 of everything",
    "kill -9 of everything",
    "store restarted",
    *(name for name in (*OF_SENTINEL, *OF_CLUSTER) if name.startswith("kill -9")),
)
"""What is made between other faults, where the store allows it."""
_KILLED_BETWEEN = 0.7


def possible(store: str = "one") -> list[str]:
    """The faults that this machine, a kind of store, and the bridge's present channel allow."""
    names = set(CATALOGUE) - set(impossible())
    if store != "sentinel":
        names -= set(OF_SENTINEL)
    if store != "cluster":
        names -= set(OF_CLUSTER)
    if store != "one":
        names -= ONE_SERVERS
    if not KEEPS_WHAT_IT_TAKES:
        names -= {"malformed messages", "broker's replies cut"}
    return sorted(names)


def by_chance(seed: int, *, faults: int = 12, sessions: int = 150, store: str | None = None) -> Plan:
    """What a seed stands for: so many faults, and kills between them. ``store`` is for all seeds the same, if given.

    Seeds that follow one another deal out all faults before any comes again.
    """
    chance = random.Random(seed)
    turn, place = divmod(seed, len(STORES))
    its = store or STORES[place]
    number = seed if store else turn * STORES.count(its) + STORES[:place].count(its)
    names = possible(its)
    # What only such a store can suffer is what it is there for: all of it, each time.
    own = [name for name in names if name in {**OF_SENTINEL, **OF_CLUSTER}][:faults]
    dealt = own + _dealt([name for name in names if name not in own], its, number, faults - len(own))
    chance.shuffle(dealt)
    kills = [name for name in KILLS if name in names]
    made: list[str] = []
    for name in dealt:
        made += [name, *([chance.choice(kills)] if chance.random() < _KILLED_BETWEEN else [])]
    # What another broker has handed out is not in it any more, and what it led to goes with the store's last second.
    own_broker = "store loses its last second" not in made and chance.random() < 0.3
    return Plan(
        seed=seed,
        sessions=sessions,
        words_over_s=chance.choice([2.0, 6.0]),
        workers=chance.choice([1, 2, 3]),
        own_broker=own_broker,
        store=its,
        faults=tuple(made),
        stops=tuple(chance.sample(ALL_STOPS, chance.choice([0, 0, 2]))),
        applications=(
            *("well", "moody", "batches", "failures", "by session", "secure", "forbidden", "removed"),
            *("pushed", "masked", "hashed", "sessions"),
        ),
    )


def _dealt(names: Sequence[str], store: str, number: int, count: int) -> list[str]:
    """The hand of a run: the deck of all faults is shuffled again when it has been dealt; the last hand of one is
    filled up by chance."""
    if not count:
        return []
    hands = -(-len(names) // count)
    deck, hand = divmod(number, hands)
    chance = random.Random(f"{store} {deck}")
    dealt = chance.sample(names, len(names))[hand * count : (hand + 1) * count]
    return dealt + random.Random(f"{store} {number}").choices(names, k=count - len(dealt))
