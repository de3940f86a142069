from __future__ import annotations

import itertools
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.leyline.actions import WAIT, FactoredAction, LifecycleOp
from esper.leyline.load import ConfigError, dump, load
from esper.leyline.reports import Counterfactuals, TrialReport
from esper.leyline.reward import PARTS
from esper.leyline.schemas import GovernorVerdict, PanicReason
from esper.leyline.stages import SeedStage
from esper.simic.config import PPOConfig, RewardConfig
from esper.simic.rewards import compute_reward, utility, utility_change
from esper.simic.rewards.contribution import bounded_contribution, improvement_discount, is_ransomware, ratio_penalty, timing_discount
from esper.simic.rewards.rent import rent
from esper.simic.rewards.shaping import STAGE_POTENTIALS, potential_difference, stage_potential
from esper.simic.rewards.terminal import fossilize_bonus, prune_bonus
from tests.simic.reports import make_report, make_seed, random_report

SHAPED = RewardConfig(mode="shaped")


def act(op: LifecycleOp, slot: int = 0) -> FactoredAction:
    return FactoredAction(slot=slot, op=op)


def test_utility_of_a_running_trial_counts_every_seed_and_of_an_ended_one_what_is_kept() -> None:
    report = make_report(val_accuracy=70.0, committed_accuracy=60.0, host_params=200, seed_params=400, fossil_params=100)
    assert utility(report, RewardConfig()) == pytest.approx(70.0 - 5.0 * 2.0)
    assert utility(replace(report, done=True), RewardConfig()) == pytest.approx(60.0 - 5.0 * 0.5)


def test_rent_forms() -> None:
    assert rent(300, 100, "linear") == 3.0
    assert rent(300, 100, "log2") == 2.0
    assert rent(0, 100, "log2") == rent(0, 100, "linear") == 0.0
    with pytest.raises(ValueError, match="host"):
        rent(1, 0, "linear")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.floats(0.5, 1.0))
def test_discounted_utility_changes_telescope(seed: int, length: int, gamma: float) -> None:
    rng = np.random.default_rng(seed)
    reports = [random_report(rng, done=t == length) for t in range(length + 1)]
    config = RewardConfig()
    rewards = [compute_reward(config, a, b, WAIT, gamma=gamma).total_reward for a, b in itertools.pairwise(reports)]
    total = sum(gamma**t * r for t, r in enumerate(rewards))
    assert total == pytest.approx(gamma**length * utility(reports[-1], config) - utility(reports[0], config), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(list(STAGE_POTENTIALS)), st.integers(0, 20)), min_size=2, max_size=10), st.floats(0.5, 1.0))
def test_stage_shaping_pays_nothing_over_an_episode(states: list[tuple[SeedStage, int]], gamma: float) -> None:
    lives = [make_report()] + [make_report(make_seed(stage=stage, epochs_in_stage=age)) for stage, age in states]
    lives.append(make_report(make_seed(stage=SeedStage.FOSSILIZED), done=True))
    shaping = [potential_difference(a, b, gamma, SHAPED) for a, b in itertools.pairwise(lives)]
    assert sum(gamma**t * f for t, f in enumerate(shaping)) == pytest.approx(0.0, abs=1e-9)


def test_pruning_gives_back_all_potential() -> None:
    grown, gone = make_report(make_seed(stage=SeedStage.TRAINING)), make_report(make_seed(stage=SeedStage.PRUNED))
    gained = potential_difference(make_report(), grown, 1.0, SHAPED)
    assert gained > 0.0
    assert potential_difference(grown, gone, 1.0, SHAPED) == pytest.approx(-gained)


def test_progress_within_a_stage_is_capped() -> None:
    assert stage_potential(SeedStage.TRAINING, 100, per_epoch=0.3, cap=2.0) == 4.0
    assert stage_potential(SeedStage.DORMANT, 100, per_epoch=0.3, cap=2.0) == 0.0


@pytest.mark.parametrize("config", [RewardConfig(), RewardConfig(epoch_rent=0.05, rent_form="log2"), SHAPED])
@pytest.mark.parametrize("op", list(LifecycleOp))
def test_parts_add_up_to_the_total(config: RewardConfig, op: LifecycleOp) -> None:
    table = Counterfactuals(((), (0,), (1,), (0, 1)), (40.0, 44.0, 45.0, 52.0))
    seeds = [make_seed(0, contribution=4.0, alpha=0.2), make_seed(1, contribution=-1.0, stage=SeedStage.HOLDING, epochs_in_stage=4)]
    before = make_report(*seeds, counterfactuals=table)
    after = make_report(replace(seeds[0], alpha=0.8), seeds[1], counterfactuals=table, val_accuracy=52.0)
    components = compute_reward(config, before, after, act(op), gamma=0.99)
    assert components.total_reward == pytest.approx(sum(getattr(components, part) for part in PARTS))
    assert math.isfinite(components.total_reward)
    assert components.action_name == op.name
    assert components.growth_ratio == 1.0
    assert components.utility == utility(after, config)


def test_epoch_rent_charges_living_parameters() -> None:
    report = make_report(make_seed(), host_params=200, max_epochs=10)
    free = compute_reward(RewardConfig(), report, report, WAIT, gamma=1.0)
    charged = compute_reward(RewardConfig(epoch_rent=0.05), report, report, WAIT, gamma=1.0)
    assert free.total_reward == 0.0
    assert charged.total_reward == pytest.approx(-100 * 0.05 * 0.5 / 10)


@pytest.mark.parametrize("mode", ["utility", "shaped"])
def test_rollback_pays_the_penalty_and_leaves_no_transient_gain(mode: str) -> None:
    config = load(RewardConfig, {"mode": mode})
    panic = GovernorVerdict(PanicReason.NAN, math.nan, None, 1)
    start = make_report(val_accuracy=30.0)
    peak = make_report(make_seed(stage=SeedStage.HOLDING), val_accuracy=90.0)
    end = make_report(val_accuracy=math.nan, committed_accuracy=30.0, verdict=panic, done=True)
    rewards = [
        compute_reward(config, start, peak, WAIT, gamma=1.0).total_reward,
        compute_reward(config, peak, end, WAIT, gamma=1.0).total_reward,
    ]
    last = compute_reward(config, peak, end, WAIT, gamma=1.0)
    assert last.governor_penalty == -10.0
    assert math.isfinite(last.total_reward)
    if mode == "utility":
        assert sum(rewards) == pytest.approx(-10.0)
    else:
        assert last.pbrs_bonus < 0.0


def test_a_network_without_a_finite_accuracy_is_worth_no_accuracy() -> None:
    report = make_report(val_accuracy=math.nan, seed_params=0)
    assert utility(report, RewardConfig()) == 0.0
    assert math.isfinite(utility_change(make_report(), report, 1.0, RewardConfig()))


@settings(max_examples=50, deadline=None)
@given(st.floats(-50, 50), st.floats(-50, 50))
def test_credit_never_exceeds_either_measure_twofold_nor_contribution(contribution: float, progress: float) -> None:
    credit = bounded_contribution(contribution, progress)
    assert credit <= max(contribution, 0.0) + 1e-9
    if contribution >= 0.0:
        assert 0.0 <= credit <= max(2.0 * progress, 0.0) + 1e-9
    else:
        assert credit == contribution


def test_credit_is_harmonic_where_contribution_leads() -> None:
    assert bounded_contribution(6.0, 3.0) == pytest.approx(4.0)
    assert bounded_contribution(2.0, 3.0) == 2.0
    assert bounded_contribution(5.0, -1.0) == 0.0


def test_discounts() -> None:
    assert improvement_discount(0.5, 3.0) == 1.0
    assert improvement_discount(-1.0, 3.0) == pytest.approx(1.0 / (1.0 + math.exp(3.0)))
    assert improvement_discount(None, 3.0) == 1.0
    assert timing_discount(0, floor=0.4, full_epoch=10) == pytest.approx(0.4)
    assert timing_discount(5, floor=0.4, full_epoch=10) == pytest.approx(0.7)
    assert timing_discount(3, floor=0.4, full_epoch=0) == 1.0


def test_suspicious_ratio_is_punished_and_bounded() -> None:
    assert ratio_penalty(10.0, 1.0, 1.0) == pytest.approx(-0.1)
    assert ratio_penalty(1000.0, 1.0, 1.0) == -0.3
    assert ratio_penalty(5.0, 0.0, 1.0) == pytest.approx(-0.15)
    assert ratio_penalty(5.0, None, 1.0) == 0.0
    assert ratio_penalty(4.0, 1.0, 1.0) == 0.0


def test_ransomware_is_never_worth_fossilizing() -> None:
    assert is_ransomware(2.0, -1.0)
    assert not is_ransomware(None, -1.0)
    assert (
        fossilize_bonus(2.0, -1.0, 9) < fossilize_bonus(0.05, -1.0, 9) < fossilize_bonus(0.5, 1.0, 9) < 0.0 < fossilize_bonus(2.0, 1.0, 9)
    )


def test_unmeasured_contribution_pays_nothing() -> None:
    seed = make_seed(contribution=None, accuracy_at_germination=0.0)
    after = make_report(seed, val_accuracy=99.0)
    components = compute_reward(SHAPED, make_report(seed), after, WAIT, gamma=1.0)
    assert components.bounded_attribution == 0.0
    assert components.seed_contribution is None
    assert components.attribution_discount is None
    assert fossilize_bonus(None, None, 9) == 0.0


def test_pruning_a_harmful_seed_pays_and_a_useful_one_costs() -> None:
    assert prune_bonus(-2.0, 8) == pytest.approx(0.15)
    assert prune_bonus(3.0, 8) == pytest.approx(-0.45)
    assert prune_bonus(100.0, 8) == -0.9
    assert prune_bonus(-2.0, 4) == pytest.approx(0.15 - 0.3)


def test_pruning_flips_the_sign_of_what_the_seed_earned() -> None:
    seed = make_seed(contribution=4.0, accuracy_at_germination=40.0)
    before, after = make_report(seed), make_report(replace(seed, stage=SeedStage.PRUNED, alpha=0.0))
    kept = compute_reward(SHAPED, before, before, WAIT, gamma=1.0).bounded_attribution
    assert kept > 0.0
    assert compute_reward(SHAPED, before, after, act(LifecycleOp.PRUNE), gamma=1.0).bounded_attribution == pytest.approx(-kept)


def test_waiting_on_a_paying_seed_in_holding_is_warned_whatever_the_dodge() -> None:
    seed = make_seed(stage=SeedStage.HOLDING, epochs_in_stage=3, contribution=4.0)
    report = make_report(seed)
    for op in (LifecycleOp.WAIT, LifecycleOp.SET_ALPHA_TARGET):
        assert compute_reward(SHAPED, report, report, act(op), gamma=1.0).holding_warning == pytest.approx(-0.15)
    assert compute_reward(SHAPED, report, report, act(LifecycleOp.FOSSILIZE), gamma=1.0).holding_warning == 0.0


def test_fossils_earn_nothing_more() -> None:
    report = make_report(make_seed(stage=SeedStage.FOSSILIZED, contribution=9.0))
    assert compute_reward(SHAPED, report, report, WAIT, gamma=1.0).bounded_attribution == 0.0


def test_costs_are_never_positive() -> None:
    report: TrialReport = make_report(make_seed(contribution=1.0), make_seed(1, contribution=1.0))
    jumped = make_report(make_seed(alpha=1.0), make_seed(1, alpha=0.0))
    components = compute_reward(SHAPED, report, jumped, WAIT, gamma=1.0)
    assert components.alpha_shock == pytest.approx(-0.1958 * 0.5)
    assert components.occupancy_rent == pytest.approx(-0.01)
    assert components.compute_rent == pytest.approx(-0.5 * math.log(2.0))


def test_settings_survive_a_round_trip_and_refuse_nonsense() -> None:
    assert load(RewardConfig, dump(RewardConfig())) == RewardConfig()
    assert load(PPOConfig, dump(PPOConfig())) == PPOConfig()
    with pytest.raises(ConfigError, match="gamma"):
        load(RewardConfig, {"gamma": 0.9})
    with pytest.raises(ConfigError, match="entropy_head_weights"):
        load(PPOConfig, {"entropy_head_weights": [1.0]})
    assert pickle.loads(pickle.dumps(SHAPED)) == SHAPED
