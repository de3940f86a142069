from __future__ import annotations

import numpy as np
import pytest

from esper.simic.fixed_search import FixedPlanSearch, Germination, Plan

BLUEPRINTS = (3, 7, 11, 20)


def make_search(seed: int = 0) -> FixedPlanSearch:
    return FixedPlanSearch(np.random.default_rng(seed), num_slots=3, blueprints=BLUEPRINTS, num_epochs=12)


def worth(plan: Plan) -> float:
    """Best is blueprint 7 in slot 1 early and blueprint 20 in slot 2; everything else costs."""
    value = 30.0
    for germination in plan:
        match (germination.slot, germination.blueprint_place):
            case (1, 7):
                value += 30.0 - germination.epoch
            case (2, 20):
                value += 15.0
            case _:
                value -= 10.0
    return value


def run(search: FixedPlanSearch, budget: int, rng: np.random.Generator, noise: float) -> Plan:
    while search.num_episodes < budget:
        plans = search.ask(20)
        search.tell([worth(plan) + rng.normal(0.0, noise) for plan in plans])
    return search.best()


@pytest.mark.parametrize("seed", range(3))
def test_it_finds_a_good_plan_under_noise(seed: int) -> None:
    search = make_search(seed)
    plan = run(search, 500, np.random.default_rng(seed), noise=6.0)
    assert worth(plan) > 65.0
    assert search.num_episodes == 500


def test_it_learns_that_never_growing_can_be_best() -> None:
    search = make_search()
    while search.num_episodes < 300:
        plans = search.ask(20)
        search.tell([-5.0 * len(plan) for plan in plans])
    assert search.best() == ()


def test_plans_are_ordered_and_name_a_slot_once() -> None:
    for plan in make_search().ask(300):
        assert list(plan) == sorted(plan)
        assert len({germination.slot for germination in plan}) == len(plan) <= 2
        assert all(g.blueprint_place in BLUEPRINTS and 0 <= g.epoch < 12 and 0 <= g.slot < 3 for g in plan)


def test_the_generator_decides_everything() -> None:
    plans = [run(make_search(5), 100, np.random.default_rng(1), noise=3.0) for _ in range(2)]
    assert plans[0] == plans[1]
    assert make_search(1).ask(30) != make_search(2).ask(30)


def test_one_lucky_episode_does_not_beat_many_good_ones() -> None:
    search = FixedPlanSearch(np.random.default_rng(0), num_slots=1, blueprints=(1,), num_epochs=1, max_germinations=1)
    grow: Plan = (Germination(0, 0, 1),)
    for _ in range(10):
        plans = search.ask(10)
        search.tell([60.0 if plan == grow else 50.0 for plan in plans])
    lucky = search.ask(1)
    while lucky[0] != ():
        search.tell([60.0])
        lucky = search.ask(1)
    search.tell([90.0])
    assert search.best() == grow
    assert 55.0 < search.value_of(grow) <= 60.0


def test_scores_have_to_match_what_was_asked() -> None:
    search = make_search()
    with pytest.raises(ValueError, match="ask and tell"):
        search.best()
    search.ask(3)
    with pytest.raises(ValueError, match="3 plans"):
        search.tell([1.0])
    with pytest.raises(ValueError, match="finite"):
        search.tell([1.0, 2.0, float("nan")])
