from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from esper.leyline.actions import HEAD_NAMES, NUM_HEADS, Head, LifecycleOp
from esper.simic.diagnostics import (
    choice_diagnostics,
    correlation,
    explained_variance,
    kurtosis,
    operation_diagnostics,
    policy_diagnostics,
    skewness,
    value_diagnostics,
)
from esper.simic.gradients import LayerGradients, StepGradient, gradient_diagnostics, measure_layers
from esper.simic.readings import read


def test_explained_variance_of_known_critics() -> None:
    returns = np.array([1.0, 2.0, 3.0, 4.0])
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance(returns + 7.0, returns) == pytest.approx(1.0)
    assert explained_variance(np.full(4, 2.5), returns) == 0.0
    assert explained_variance(-returns, returns) == pytest.approx(-3.0)
    assert explained_variance(returns, np.ones(4)) is None


def test_correlation_needs_variation() -> None:
    x = np.array([1.0, 2.0, 3.0])
    assert correlation(x, -2.0 * x) == pytest.approx(-1.0)
    assert correlation(x, np.ones(3)) is None


def test_value_errors_have_the_sign_of_optimism() -> None:
    found = value_diagnostics(np.array([3.0, 3.0]), np.array([1.0, 2.0]), advantage=np.zeros(2), td_error=np.array([-1.0, -3.0]))
    assert found.value_prediction_error_mean == 1.5
    assert found.value_prediction_error_std == 0.5
    assert found.td_error_mean == -2.0
    assert found.return_mean == 1.5


def test_an_unchanged_policy_has_no_divergence() -> None:
    log_prob = -torch.rand(50, NUM_HEADS, generator=torch.Generator().manual_seed(0))
    found = policy_diagnostics(
        log_prob,
        log_prob,
        entropy=torch.full((50, NUM_HEADS), 0.5),
        is_available=torch.ones(50, NUM_HEADS, dtype=torch.bool),
        is_active=torch.ones(50, NUM_HEADS, dtype=torch.bool),
        clip=0.2,
    )
    assert found.kl_divergence == found.kl_reverse == found.approx_kl_max == found.clip_fraction == 0.0
    assert found.trust_region_violations == 0
    assert found.ratio_mean == found.ratio_min == found.ratio_max == 1.0
    assert found.policy_determinism == pytest.approx(0.5)
    assert found.numerical_stability_score == 1.0
    assert not found.entropy_collapsed


def test_sampled_divergence_approaches_the_true_one() -> None:
    rng = torch.Generator().manual_seed(3)
    old, new = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.5, 0.3, 0.2])
    drawn = torch.multinomial(old, 40_000, replacement=True, generator=rng)
    heads = torch.zeros(2, len(drawn), NUM_HEADS)
    heads[0, :, Head.OP], heads[1, :, Head.OP] = new.log()[drawn], old.log()[drawn]
    active = torch.zeros(len(drawn), NUM_HEADS, dtype=torch.bool)
    active[:, Head.OP] = True
    found = policy_diagnostics(heads[0], heads[1], entropy=torch.zeros_like(heads[0]), is_available=active, is_active=active, clip=0.2)
    truth = (old * (old / new).log()).sum().item()
    assert found.kl_divergence == pytest.approx(truth, abs=0.005)
    assert found.heads["op"].kl == pytest.approx(truth, abs=0.005)
    assert found.clip_fraction == pytest.approx(0.1, abs=0.01)
    assert found.heads["slot"].kl is None
    assert found.heads["slot"].active_ratio == 0.0
    assert found.entropy_collapsed


def test_no_samples_measure_nothing() -> None:
    nothing = torch.zeros(0, NUM_HEADS)
    mask = torch.zeros(0, NUM_HEADS, dtype=torch.bool)
    found = policy_diagnostics(nothing, nothing, entropy=nothing, is_available=mask, is_active=mask, clip=0.2)
    assert found.ratio_mean is None
    assert found.policy_determinism is None
    assert found.entropy is found.kl_divergence is found.approx_kl_max is found.kl_reverse is found.clip_fraction is None
    assert found.numerical_stability_score is None
    assert (found.entropy_collapsed, found.trust_region_violations) == (False, 0)


def test_underflow_and_clamping_lower_the_stability_score() -> None:
    old = torch.zeros(4, NUM_HEADS)
    new = old.clone()
    new[0, 0] = -60.0
    mask = torch.ones(4, NUM_HEADS, dtype=torch.bool)
    found = policy_diagnostics(new, old, entropy=torch.ones(4, NUM_HEADS), is_available=mask, is_active=mask, clip=0.2)
    assert found.numerical_stability_score == pytest.approx(0.75 * 0.75)


def test_choices_are_told_apart_by_the_heads_that_matter() -> None:
    actions = np.zeros((5, NUM_HEADS), dtype=np.int64)
    actions[:, Head.BLUEPRINT] = [0, 1, 2, 3, 4]
    actions[4, Head.OP] = LifecycleOp.GERMINATE
    found = choice_diagnostics(actions, np.full(5, -1.0), np.array([False, False, False, True, False]))
    assert found.action_diversity == 2
    assert found.dominant_action_ratio == 0.75
    assert found.op_distribution["WAIT"] == 0.75
    assert found.op_distribution["GERMINATE"] == 0.25
    assert found.valid_sample_ratio == 0.8
    assert set(found.causal_mask_coverage) == set(HEAD_NAMES)
    assert found.causal_mask_coverage["blueprint"] == 0.25


def test_a_round_without_choices_has_no_dominant_action() -> None:
    found = choice_diagnostics(np.zeros((2, NUM_HEADS), dtype=np.int64), np.array([-60.0, 0.0]), np.array([True, True]))
    assert found.dominant_action_ratio is None
    assert found.op_distribution == {}
    assert found.log_prob_underflow_count == 1


def test_layer_gradients_find_the_sick_layers() -> None:
    layers = nn.ParameterDict({name: nn.Parameter(torch.ones(2)) for name in ("fine", "dead", "wild", "broken", "idle")})
    for name, gradient in (("fine", [3.0, 4.0]), ("dead", [0.0, 0.0]), ("wild", [30.0, 40.0]), ("broken", [float("nan"), float("inf")])):
        layers[name].grad = torch.tensor(gradient)
    measured = measure_layers(layers.named_parameters())
    assert measured is not None
    found = measured.told(*read(measured.figures))
    assert found.norms["fine"] == 5.0
    assert "idle" not in found.norms
    assert (found.num_nan, found.num_inf) == (1, 1)
    assert found.zero_fraction == 0.25
    told = gradient_diagnostics([StepGradient(5.0, 1.0), StepGradient(0.5, 1.0)], found, 1, 1)
    assert (told.dead_layers, told.exploding_layers, told.grad_nan_layers) == (1, 1, ("broken",))
    assert told.layer_gradient_health == pytest.approx({"fine": 1.0, "dead": 0.5, "wild": 0.2, "broken": 0.2})
    assert told.grad_norm_ratio == 10.0
    assert told.pre_clip_grad_norm == 2.75
    assert told.grad_norm == 0.75
    assert told.grad_clip_fraction == 0.5
    assert not told.update_skipped


def test_a_pass_whose_every_step_overflowed_was_skipped() -> None:
    told = gradient_diagnostics([StepGradient(float("inf"), 1.0)], LayerGradients({}, 0, 3, None), 0, 3)
    assert told.update_skipped
    assert told.grad_norm == float("inf")
    assert told.pre_clip_grad_norm is None


def test_a_pass_that_stopped_at_once_has_no_norm() -> None:
    told = gradient_diagnostics([], LayerGradients({}, 0, 0, None), 0, 0)
    assert told.grad_norm is told.pre_clip_grad_norm is told.grad_clip_fraction is None
    assert not told.update_skipped


def test_moments_of_known_distributions() -> None:
    drawn = np.random.default_rng(0).exponential(size=200_000)
    assert skewness(drawn) == pytest.approx(2.0, abs=0.1)
    assert kurtosis(drawn) == pytest.approx(6.0, abs=0.8)
    assert kurtosis(np.array([-1.0, 1.0])) == -2.0
    assert skewness(np.ones(5)) is None
    assert kurtosis(np.ones(5)) is None


def test_value_figures_have_the_units_they_claim() -> None:
    returns = np.arange(11.0)
    flat = value_diagnostics(np.full(11, 5.0), returns, advantage=returns - 7.0, td_error=np.array([3.0, -4.0] + [0.0] * 9))
    assert (flat.return_p10, flat.return_p50, flat.return_p90) == (1.0, 5.0, 9.0)
    assert flat.value_nrmse == pytest.approx(1.0)
    assert flat.bellman_error == pytest.approx(25.0 / 11.0)
    assert flat.advantage_positive_ratio == pytest.approx(3.0 / 11.0)
    assert flat.return_skew == pytest.approx(0.0)
    assert not flat.ev_low_return_variance


def test_returns_that_hardly_vary_are_flagged_instead_of_divided_by() -> None:
    found = value_diagnostics(np.zeros(4), np.full(4, 2.0), advantage=np.zeros(4), td_error=np.zeros(4))
    assert found.ev_low_return_variance
    assert found.value_nrmse is None
    assert found.explained_variance is None
    assert found.return_skew is None
    assert found.advantage_kurtosis is None


def test_operations_are_worth_the_mean_return_after_them() -> None:
    ops = np.array([LifecycleOp.WAIT, LifecycleOp.WAIT, LifecycleOp.GERMINATE, LifecycleOp.WAIT])
    legal = np.zeros((4, len(LifecycleOp)), dtype=bool)
    legal[:, LifecycleOp.WAIT] = legal[:3, LifecycleOp.GERMINATE] = True
    found = operation_diagnostics(ops, np.array([1.0, 2.0, 5.0, 99.0]), is_legal=legal, is_forced=np.array([False, False, False, True]))
    assert found.op_q_values == {"WAIT": 1.5, "GERMINATE": 5.0}
    assert found.op_valid_mask["GERMINATE"] == 1.0
    assert found.op_valid_mask["PRUNE"] == 0.0
    assert found.q_spread == 3.5
    assert found.q_variance == pytest.approx(1.75**2)


def test_one_operation_alone_has_no_spread() -> None:
    legal = np.ones((2, len(LifecycleOp)), dtype=bool)
    found = operation_diagnostics(np.zeros(2, dtype=np.int64), np.ones(2), is_legal=legal, is_forced=np.zeros(2, dtype=bool))
    assert found.q_spread is None
    forced = operation_diagnostics(np.zeros(2, dtype=np.int64), np.ones(2), is_legal=legal, is_forced=np.ones(2, dtype=bool))
    assert forced.op_q_values == forced.op_valid_mask == {}


def test_ratios_beyond_the_clip_range_are_told_by_side_and_head() -> None:
    old, new = torch.zeros(100, NUM_HEADS), torch.zeros(100, NUM_HEADS)
    new[:2, Head.OP], new[2:5, Head.SLOT] = 2.0, -2.0
    mask = torch.ones(100, NUM_HEADS, dtype=torch.bool)
    available = mask.clone()
    available[:40, Head.SLOT] = False
    found = policy_diagnostics(new, old, entropy=torch.ones(100, NUM_HEADS), is_available=available, is_active=mask, clip=0.2)
    assert found.clip_fraction_positive == pytest.approx(0.02)
    assert found.clip_fraction_negative == pytest.approx(0.03)
    assert found.clip_fraction == pytest.approx(0.05)
    assert found.heads["op"].ratio_max == pytest.approx(np.exp(2.0))
    assert found.heads["slot"].ratio_max == 1.0
    assert found.heads["slot"].learnable_fraction == pytest.approx(0.6)
    assert found.ratio_p01 is not None
    assert found.ratio_p99 is not None
    assert found.ratio_max is not None
    assert found.ratio_p01 < 1.0 < found.ratio_p99 < found.ratio_max + 1e-6
    assert not any(found.head_nan_detected.values())


def test_broken_heads_are_named() -> None:
    new = torch.zeros(3, NUM_HEADS)
    new[0, Head.TEMPO], new[1, Head.STYLE] = float("nan"), float("-inf")
    mask = torch.ones(3, NUM_HEADS, dtype=torch.bool)
    found = policy_diagnostics(new, torch.zeros_like(new), entropy=torch.ones_like(new), is_available=mask, is_active=mask, clip=0.2)
    assert [name for name, is_broken in found.head_nan_detected.items() if is_broken] == ["tempo"]
    assert [name for name, is_broken in found.head_inf_detected.items() if is_broken] == ["style"]


def test_forced_steps_are_told_apart() -> None:
    actions = np.zeros((4, NUM_HEADS), dtype=np.int64)
    actions[0, Head.OP] = LifecycleOp.GERMINATE
    found = choice_diagnostics(actions, np.array([-3.0, -1.0, 0.0, 0.0]), np.array([False, False, True, True]))
    assert (found.forced_step_ratio, found.usable_actor_timesteps, found.decision_density) == (0.5, 2, 0.5)
    assert (found.log_prob_min, found.log_prob_max) == (-3.0, -1.0)


def test_variation_of_the_steps_norms() -> None:
    none = LayerGradients({}, 0, 0, None)
    assert gradient_diagnostics([StepGradient(1.0, 5.0), StepGradient(3.0, 5.0)], none, 0, 0).gradient_cv == pytest.approx(2**0.5 / 2)
    assert gradient_diagnostics([StepGradient(1.0, 5.0)], none, 0, 0).gradient_cv is None
