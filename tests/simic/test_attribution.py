from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.leyline.reports import Counterfactuals
from esper.simic.attribution import (
    Players,
    all_configurations,
    antithetic_orders,
    configurations_of,
    pair_interactions,
    sampled_orders,
    shapley_exact,
    shapley_sampled,
    shapley_values,
)


def random_table(slots: tuple[int, ...], seed: int) -> Counterfactuals:
    rng = np.random.default_rng(seed)
    configurations = all_configurations(slots)
    return Counterfactuals(configurations, tuple(rng.uniform(0, 100, len(configurations)).tolist()))


def average_over_all_orders(table: Counterfactuals, slots: Players) -> dict[int, float]:
    orders = list(permutations(slots))
    total = dict.fromkeys(slots, 0.0)
    for order in orders:
        for position, slot in enumerate(order):
            before, after = tuple(sorted(order[:position])), tuple(sorted(order[: position + 1]))
            total[slot] += table.accuracy_of(after) - table.accuracy_of(before)
    return {slot: value / len(orders) for slot, value in total.items()}


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 8), min_size=1, max_size=4), st.integers(0, 2**31))
def test_exact_values_are_the_average_over_all_orders_and_add_up(slots: set[int], seed: int) -> None:
    players = tuple(sorted(slots))
    table = random_table(players, seed)
    found = shapley_exact(table, players)
    assert {v.slot: v.value for v in found} == pytest.approx(average_over_all_orders(table, players))
    assert sum(v.value for v in found) == pytest.approx(table.accuracy_of(players) - table.accuracy_of(()))


def test_a_seed_that_adds_nothing_has_no_share_and_equals_share_alike() -> None:
    configurations = all_configurations((0, 1, 2))
    worth = [10.0 * (0 in c) + 10.0 * (2 in c) + 4.0 * (0 in c and 2 in c) for c in configurations]
    values = {v.slot: v.value for v in shapley_exact(Counterfactuals(configurations, tuple(worth)), (0, 1, 2))}
    assert values == pytest.approx({0: 12.0, 1: 0.0, 2: 12.0})


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6))
def test_sampled_values_add_up_whatever_the_orders(seed: int, num_pairs: int) -> None:
    slots = (0, 2, 3, 5, 7)
    orders = antithetic_orders(slots, np.random.default_rng(seed), num_pairs=num_pairs)
    full = random_table(slots, seed)
    needed = configurations_of(orders)
    table = Counterfactuals(needed, tuple(full.accuracy_of(c) for c in needed))
    found = shapley_sampled(table, orders)
    assert sum(v.value for v in found) == pytest.approx(full.accuracy_of(slots) - full.accuracy_of(()))
    assert all((v.standard_error is None) == (num_pairs == 1) for v in found)


def test_sampled_values_approach_the_exact_ones_within_their_errors() -> None:
    slots = (0, 1, 2, 3, 4)
    table = random_table(slots, 3)
    exact = {v.slot: v.value for v in shapley_exact(table, slots)}
    found = shapley_sampled(table, antithetic_orders(slots, np.random.default_rng(0), num_pairs=300))
    for value in found:
        assert value.standard_error is not None
        assert 0.0 < value.standard_error < 3.0
        assert abs(value.value - exact[value.slot]) < 4.0 * value.standard_error


def test_additive_seeds_are_exact_from_one_pair() -> None:
    slots = (0, 1, 2, 3, 4, 5)
    configurations = all_configurations(slots)
    table = Counterfactuals(configurations, tuple(float(sum(2**slot for slot in c)) for c in configurations))
    found = shapley_sampled(table, antithetic_orders(slots, np.random.default_rng(0), num_pairs=1))
    assert [v.value for v in found] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]


def test_orders_that_are_not_antithetic_are_refused() -> None:
    table = random_table((0, 1), 0)
    with pytest.raises(ValueError, match="reverse"):
        shapley_sampled(table, ((0, 1), (0, 1)))
    with pytest.raises(ValueError, match="reverse"):
        shapley_sampled(table, ())


def test_an_unmeasured_configuration_is_named() -> None:
    with pytest.raises(KeyError, match=r"\(0, 1\)"):
        shapley_exact(Counterfactuals(((), (0,), (1,)), (1.0, 2.0, 3.0)), (0, 1))


def test_interactions_use_solo_accuracies_and_skip_what_was_not_measured() -> None:
    table = Counterfactuals(((), (0,), (1,), (0, 1), (2,)), (10.0, 20.0, 25.0, 50.0, 11.0))
    assert pair_interactions(table, (0, 1, 2)) == {(0, 1): 15.0}


@pytest.mark.parametrize("num_slots", [1, 4, 5, 7])
def test_values_are_exact_for_few_seeds_and_sampled_for_many(num_slots: int) -> None:
    slots = tuple(range(num_slots))
    full = random_table(slots, 1)
    needed = configurations_of(sampled_orders(slots, np.random.default_rng(5))) if num_slots > 4 else all_configurations(slots)
    ordered = tuple(sorted(needed, key=len, reverse=True))
    table = Counterfactuals(ordered, tuple(full.accuracy_of(c) for c in ordered))
    found = shapley_values(table, np.random.default_rng(5))
    assert sum(v.value for v in found) == pytest.approx(full.accuracy_of(slots) - full.accuracy_of(()))
    assert all((v.standard_error == 0.0) == (num_slots <= 4) for v in found)


@pytest.mark.parametrize(("num_slots", "most"), [(5, 2**5), (8, 2 * 10 * 9), (30, 300), (100, 210)])
def test_a_sample_stays_affordable(num_slots: int, most: int) -> None:
    orders = sampled_orders(range(num_slots), np.random.default_rng(0))
    assert 1 <= len(configurations_of(orders)) <= most
