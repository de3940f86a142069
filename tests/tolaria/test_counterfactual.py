from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.leyline.reports import Counterfactuals
from esper.tolaria.counterfactual import MAX_FACTORIAL_SEEDS, leave_one_out, plan_configurations, solo

Slots = tuple[int, ...]


@st.composite
def seeds(draw: st.DrawFn) -> tuple[Slots, Slots]:
    """Live slots and fossils, apart from one another, in any order."""
    chosen = draw(st.lists(st.integers(0, 8), max_size=6, unique=True))
    cut = draw(st.integers(0, len(chosen)))
    return tuple(chosen[:cut]), tuple(chosen[cut:])


def additive_table(live: Slots, fossils: Slots, *, is_last: bool) -> Counterfactuals:
    """Accuracies of a world in which slot i is worth i + 1 points on top of 40."""
    configurations = plan_configurations(live, fossils, is_last=is_last)
    return Counterfactuals(configurations, tuple(40.0 + sum(slot + 1 for slot in slots) for slots in configurations))


@settings(max_examples=50, deadline=None)
@given(seeds(), st.booleans())
def test_every_plan_holds_the_full_the_committed_and_the_empty_network(slots: tuple[Slots, Slots], is_last: bool) -> None:
    live, fossils = slots
    plan = plan_configurations(live, fossils, is_last=is_last)
    assert plan[0] == tuple(sorted(live + fossils))
    assert tuple(sorted(fossils)) in plan
    assert () in plan
    assert len(set(plan)) == len(plan)
    assert all(slots_on == tuple(sorted(set(slots_on))) for slots_on in plan)


@settings(max_examples=50, deadline=None)
@given(seeds())
def test_an_epoch_before_the_last_costs_two_evaluations_a_live_seed(slots: tuple[Slots, Slots]) -> None:
    live, fossils = slots
    assert len(plan_configurations(live, fossils, is_last=False)) <= 3 + 2 * len(live)


@settings(max_examples=50, deadline=None)
@given(seeds())
def test_the_last_epoch_evaluates_every_subset_of_few_seeds(slots: tuple[Slots, Slots]) -> None:
    live, fossils = slots
    everything = sorted(live + fossils)
    subsets = {subset for size in range(len(everything) + 1) for subset in combinations(everything, size)}
    plan = set(plan_configurations(live, fossils, is_last=True))
    assert plan <= subsets
    assert (plan == subsets) or len(everything) > MAX_FACTORIAL_SEEDS


def test_many_seeds_are_not_multiplied_out() -> None:
    live = tuple(range(MAX_FACTORIAL_SEEDS + 1))
    assert plan_configurations(live, (), is_last=True) == plan_configurations(live, (), is_last=False)


def test_without_seeds_there_is_one_network() -> None:
    assert plan_configurations((), (), is_last=True) == ((),)


@settings(max_examples=50, deadline=None)
@given(seeds(), st.booleans())
def test_in_an_additive_world_both_contributions_are_a_seeds_worth(slots: tuple[Slots, Slots], is_last: bool) -> None:
    live, fossils = slots
    table = additive_table(live, fossils, is_last=is_last)
    left_out = leave_one_out(table)
    assert set(live) <= set(left_out) <= {*live, *fossils}
    assert all(value == pytest.approx(slot + 1) for slot, value in left_out.items())
    assert solo(table, live, fossils) == pytest.approx({slot: slot + 1 for slot in live})


def test_in_the_last_epoch_fossils_are_measured_too() -> None:
    assert set(leave_one_out(additive_table((0,), (2, 5), is_last=True))) == {0, 2, 5}
    assert set(leave_one_out(additive_table((0,), (2, 5), is_last=False))) == {0}


def test_seeds_that_only_help_each_other_differ_in_the_two_measures() -> None:
    accuracies = {(): 50.0, (0,): 50.0, (1,): 50.0, (0, 1): 60.0}
    plan = plan_configurations((0, 1), (), is_last=False)
    table = Counterfactuals(plan, tuple(accuracies[slots] for slots in plan))
    assert leave_one_out(table) == {0: 10.0, 1: 10.0}
    assert solo(table, (0, 1), ()) == {0: 0.0, 1: 0.0}


@pytest.mark.parametrize("is_last", [True, False])
def test_of_many_seeds_the_last_epoch_evaluates_what_is_sampled(is_last: bool) -> None:
    live = tuple(range(MAX_FACTORIAL_SEEDS + 1))
    asked: list[Slots] = []

    def sample(slots: Slots) -> tuple[Slots, ...]:
        asked.append(slots)
        return ((1, 2), (0,))

    plan = plan_configurations(live, (), is_last=is_last, sample=sample)
    assert ((1, 2) in plan) is is_last
    assert asked == ([live] if is_last else [])
    assert plan[0] == live


def test_few_seeds_are_not_sampled() -> None:
    def refuse(slots: Slots) -> tuple[Slots, ...]:
        raise AssertionError(slots)

    assert len(plan_configurations((0, 1), (2,), is_last=True, sample=refuse)) == 8
