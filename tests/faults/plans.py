"""Plans of runs: what a seed stands for, and the few that are played each time the tests are."""

from __future__ import annotations

import random
from collections.abc import Mapping

import msgspec

from tests.faults.mischief import CATALOGUE
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
    there is one (``_subscribe``). ``neighbours``: at the end, receivers that hang stand beside a well one.
    ``held_back``: the subscription of the well one is paused until all is known, and then hears it all at once.
    """

    seed: int = 1
    sessions: int = 40
    per_s: float = 8.0
    words_over_s: float = 4.0
    workers: int = 2
    own_broker: bool = False
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
    "workers die at every point": Plan(seed=11, stops=ALL_STOPS, per_s=10),
    "processes are killed, stopped and frozen": Plan(
        seed=12,
        faults=(
            "kill -9 of a worker",
            "SIGTERM of a worker",
            "SIGSTOP of a worker",
            "a second beat",
            "a worker's clock an hour off",
            "a worker without descriptors",
            "kill -9 of all workers",
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
        ),
    ),
    "an operator is at work": Plan(
        seed=14,
        applications=("well", "moody", "batches", "failures", "by session", "removed"),
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


def possible() -> set[str]:
    """The faults that the bridge's present channel can survive."""
    names = set(CATALOGUE)
    if not KEEPS_WHAT_IT_TAKES:
        names -= {"malformed messages", "broker's replies cut"}
    return names


def by_chance(seed: int, *, faults: int = 12, sessions: int = 150) -> Plan:
    """What a seed stands for."""
    chance = random.Random(seed)
    own_broker = chance.random() < 0.3
    names = sorted(possible())
    if own_broker:
        # What the broker has handed out is not in it any more, and what it led to goes with the store's last second.
        names.remove("store loses its last second")
    return Plan(
        seed=seed,
        sessions=sessions,
        words_over_s=chance.choice([2.0, 6.0]),
        workers=chance.choice([1, 2, 3]),
        own_broker=own_broker,
        faults=tuple(chance.choices(names, k=faults)),
        stops=tuple(chance.sample(ALL_STOPS, chance.choice([0, 0, 2]))),
        applications=("well", "moody", "batches", "failures", "by session", "forbidden", "removed"),
    )
