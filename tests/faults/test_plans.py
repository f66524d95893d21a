"""What a soak's seeds stand for, and what the report says of it."""

from __future__ import annotations

import pytest

from tests.faults.mischief import CATALOGUE
from tests.faults.outages import impossible
from tests.faults.plans import STORES, by_chance, possible

_RUNS = 12
"""As many runs as a soak of an hour plays on a machine with much else to do."""


@pytest.mark.parametrize("seed", range(0, 60, 7))
def test_a_soak_of_an_hour_makes_every_fault(seed: int) -> None:
    made = {name for each in range(seed, seed + _RUNS) for name in by_chance(each).faults}
    assert made == set(CATALOGUE) - set(impossible())


@pytest.mark.parametrize("store", sorted(set(STORES)))
def test_a_soak_on_one_kind_of_store_makes_what_is_possible_there(store: str) -> None:
    plans = [by_chance(seed, store=store) for seed in range(8, 8 + _RUNS)]
    assert {plan.store for plan in plans} == {store}
    assert {name for plan in plans for name in plan.faults} == set(possible(store))


def test_a_seed_stands_for_one_plan() -> None:
    assert by_chance(7) == by_chance(7) != by_chance(12)
