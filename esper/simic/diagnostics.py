"""How healthy an update is: numbers about values, trust region, heads and choices. Pure functions.

What cannot be measured, because no sample speaks for it, is None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float  # noqa: TC002
from torch import Tensor

from esper.leyline.actions import CAUSAL_MASK, HEAD_NAMES, Head, LifecycleOp
from esper.simic.losses import MAX_LOG_RATIO, kl_forward, kl_reverse, log_ratio

MIN_VARIANCE = 1e-8
"""Returns that vary less explain nothing, and dividing by their variance would explode."""
UNDERFLOW_LOG_PROB = -50.0
COLLAPSED_ENTROPY = 0.1


@dataclass(frozen=True, slots=True)
class ValueDiagnostics:
    """Values at the time of acting against what then happened, in scaled reward units."""

    explained_variance: float | None
    value_prediction_error_mean: float
    """Mean of V − return."""
    value_prediction_error_std: float
    td_error_mean: float
    return_mean: float
    return_std: float
    value_target_correlation: float | None
    value_nrmse: float | None
    """Root mean square error over the spread of the returns."""
    ev_low_return_variance: bool
    td_error_std: float
    bellman_error: float
    """Mean square of the temporal difference errors."""
    return_p10: float
    return_p50: float
    return_p90: float
    return_skew: float | None
    advantage_mean: float
    """Before standardising, as is all that follows."""
    advantage_std: float
    advantage_skew: float | None
    advantage_kurtosis: float | None
    advantage_positive_ratio: float


@dataclass(frozen=True, slots=True)
class ChoiceDiagnostics:
    """What was decided in a round, over the steps with a choice."""

    valid_sample_ratio: float
    """Share of steps that enter the actor loss."""
    action_diversity: int
    """Different actions, judged by the heads that matter to their operation."""
    dominant_action_ratio: float | None
    op_distribution: Mapping[str, float]
    causal_mask_coverage: Mapping[str, float]
    log_prob_underflow_count: int
    log_prob_min: float | None
    log_prob_max: float | None
    forced_step_ratio: float
    usable_actor_timesteps: int
    decision_density: float | None
    """Share of the steps with a choice in which something other than WAIT was done."""


@dataclass(frozen=True, slots=True)
class OperationDiagnostics:
    """What operations were worth in a round, and how often they could be taken. Shares and means over the steps with a choice."""

    op_q_values: Mapping[str, float]
    """Operation → mean return after it was taken; operations that were not taken are absent."""
    op_valid_mask: Mapping[str, float]
    """Operation → share of steps in which it was legal."""
    q_variance: float | None
    q_spread: float | None


@dataclass(frozen=True, slots=True)
class HeadDiagnostics:
    """One head in one pass."""

    entropy: float | None
    """Mean normalised entropy where the head had a choice."""
    kl: float | None
    """KL(old‖new) where the head mattered."""
    clip_fraction: float | None
    active_ratio: float | None
    """Share of samples in which the head mattered."""
    ratio_max: float | None
    learnable_fraction: float | None
    """Share of samples in which the head had a choice."""


@dataclass(frozen=True, slots=True)
class PolicyDiagnostics:
    """The new policy against the acting one, over the samples of one pass that have a choice."""

    entropy: float | None
    kl_divergence: float | None
    approx_kl_max: float | None
    kl_reverse: float | None
    clip_fraction: float | None
    trust_region_violations: int
    ratio_mean: float | None
    ratio_min: float | None
    ratio_max: float | None
    ratio_std: float | None
    ratio_p01: float | None
    ratio_p99: float | None
    clip_fraction_positive: float | None
    clip_fraction_negative: float | None
    policy_determinism: float | None
    entropy_collapsed: bool
    numerical_stability_score: float | None
    """(1 − share of underflowing log-probabilities) · (1 − share of clamped log-ratios)."""
    head_nan_detected: Mapping[str, bool]
    head_inf_detected: Mapping[str, bool]
    heads: Mapping[str, HeadDiagnostics]


def explained_variance(value: np.ndarray, returns: np.ndarray) -> float | None:
    """1 − Var(G − V)/Var(G); 1 is perfect, 0 no better than a constant. None where returns do not vary."""
    variance = float(np.var(returns))
    if variance < MIN_VARIANCE:
        return None
    return 1.0 - float(np.var(returns - value)) / variance


def correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Pearson's correlation; None where either does not vary."""
    if np.var(x) < MIN_VARIANCE or np.var(y) < MIN_VARIANCE:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def skewness(x: np.ndarray) -> float | None:
    """Third standardised moment; None where `x` does not vary."""
    return _standardised_moment(x, 3)


def kurtosis(x: np.ndarray) -> float | None:
    """Fourth standardised moment minus 3, the excess over a normal distribution; None where `x` does not vary."""
    moment = _standardised_moment(x, 4)
    return None if moment is None else moment - 3.0


def value_diagnostics(value: np.ndarray, returns: np.ndarray, *, advantage: np.ndarray, td_error: np.ndarray) -> ValueDiagnostics:
    """Judge the critic from float64 arrays [N] over the valid steps of a round."""
    error = value - returns
    is_flat = bool(np.var(returns) < MIN_VARIANCE)
    p10, p50, p90 = np.quantile(returns, (0.1, 0.5, 0.9)).tolist()
    return ValueDiagnostics(
        explained_variance=explained_variance(value, returns),
        value_prediction_error_mean=float(error.mean()),
        value_prediction_error_std=float(error.std()),
        td_error_mean=float(td_error.mean()),
        return_mean=float(returns.mean()),
        return_std=float(returns.std()),
        value_target_correlation=correlation(value, returns),
        value_nrmse=None if is_flat else float(np.sqrt(np.mean(error**2)) / returns.std()),
        ev_low_return_variance=is_flat,
        td_error_std=float(td_error.std()),
        bellman_error=float(np.mean(td_error**2)),
        return_p10=p10,
        return_p50=p50,
        return_p90=p90,
        return_skew=skewness(returns),
        advantage_mean=float(advantage.mean()),
        advantage_std=float(advantage.std()),
        advantage_skew=skewness(advantage),
        advantage_kurtosis=kurtosis(advantage),
        advantage_positive_ratio=float(np.mean(advantage > 0.0)),
    )


def choice_diagnostics(actions: np.ndarray, log_prob: np.ndarray, is_forced: np.ndarray) -> ChoiceDiagnostics:
    """Describe the decisions of a round.

    Args:
        actions: [N, 8] in the order of `Head`.
        log_prob: [N] joint log-probability when acting.
        is_forced: [N] bool; forced steps count only in `valid_sample_ratio`.
    """
    free = actions[~is_forced]
    ops = free[:, Head.OP]
    matters = CAUSAL_MASK[ops]
    counts = Counter(map(tuple, np.where(matters, free, -1).tolist()))
    return ChoiceDiagnostics(
        valid_sample_ratio=float(np.mean(~is_forced)),
        action_diversity=len(counts),
        dominant_action_ratio=max(counts.values()) / len(free) if counts else None,
        op_distribution={op.name: float(np.mean(ops == op)) for op in LifecycleOp} if len(free) else {},
        causal_mask_coverage=dict(zip(HEAD_NAMES, matters.mean(axis=0).tolist(), strict=True)) if len(free) else {},
        log_prob_underflow_count=int(np.sum(log_prob < UNDERFLOW_LOG_PROB)),
        log_prob_min=float(log_prob[~is_forced].min()) if len(free) else None,
        log_prob_max=float(log_prob[~is_forced].max()) if len(free) else None,
        forced_step_ratio=float(np.mean(is_forced)),
        usable_actor_timesteps=len(free),
        decision_density=float(np.mean(ops != LifecycleOp.WAIT)) if len(free) else None,
    )


def operation_diagnostics(ops: np.ndarray, returns: np.ndarray, *, is_legal: np.ndarray, is_forced: np.ndarray) -> OperationDiagnostics:
    """Value of each operation as the round showed it.

    Args:
        ops: [N] operation taken.
        returns: [N] estimated return after it, in scaled reward units.
        is_legal: [N, 6] bool.
        is_forced: [N] bool; forced steps are left out.
    """
    taken, worth, legal = ops[~is_forced], returns[~is_forced], is_legal[~is_forced]
    values = {op.name: float(worth[taken == op].mean()) for op in LifecycleOp if np.any(taken == op)}
    several = list(values.values()) if len(values) > 1 else []
    return OperationDiagnostics(
        op_q_values=values,
        op_valid_mask=dict(zip([op.name for op in LifecycleOp], legal.mean(axis=0).tolist(), strict=True)) if len(legal) else {},
        q_variance=float(np.var(several)) if several else None,
        q_spread=max(several) - min(several) if several else None,
    )


def policy_diagnostics(
    head_log_prob: Float[Tensor, "M H"],  # noqa: F722
    old_head_log_prob: Float[Tensor, "M H"],  # noqa: F722
    *,
    entropy: Float[Tensor, "M H"],  # noqa: F722
    is_available: Bool[Tensor, "M H"],  # noqa: F722
    is_active: Bool[Tensor, "M H"],  # noqa: F722
    clip: float,
) -> PolicyDiagnostics:
    """Compare two policies on the same M samples, all of which had a choice.

    Args:
        head_log_prob: [M, H] of the new policy; 0 where a head does not matter.
        old_head_log_prob: [M, H] of the acting policy.
        entropy: [M, H] of the new policy, normalised.
        is_available: [M, H] more than one choice was legal.
        is_active: [M, H] the head matters to the operation taken.
        clip: Half-width of the trust region.
    """
    joint = head_log_prob.sum(dim=1)
    delta = log_ratio(joint, old_head_log_prob.sum(dim=1))
    ratio = delta.exp()
    outside = (ratio - 1.0).abs() > clip
    mean_entropy = _mean(entropy[is_available])
    head_delta = log_ratio(head_log_prob, old_head_log_prob)
    heads = {
        name: HeadDiagnostics(
            entropy=_mean(entropy[:, h][is_available[:, h]]),
            kl=_mean(kl_forward(head_delta[:, h][is_active[:, h]])),
            clip_fraction=_mean(((head_delta[:, h].exp() - 1.0).abs() > clip)[is_active[:, h]].to(ratio.dtype)),
            active_ratio=_mean(is_active[:, h].to(ratio.dtype)),
            ratio_max=_max(head_delta[:, h][is_active[:, h]].exp()),
            learnable_fraction=_mean(is_available[:, h].to(ratio.dtype)),
        )
        for h, name in enumerate(HEAD_NAMES)
    }
    forward = kl_forward(delta)
    has_samples = len(ratio) > 0
    return PolicyDiagnostics(
        entropy=mean_entropy,
        kl_divergence=_mean(forward),
        approx_kl_max=_max(forward),
        kl_reverse=_mean(kl_reverse(delta)),
        clip_fraction=_mean(outside.to(ratio.dtype)),
        trust_region_violations=int(outside.sum()),
        ratio_mean=_mean(ratio),
        ratio_min=float(ratio.min()) if has_samples else None,
        ratio_max=_max(ratio),
        ratio_std=float(ratio.std(correction=0)) if has_samples else None,
        ratio_p01=_quantile(ratio, 0.01),
        ratio_p99=_quantile(ratio, 0.99),
        clip_fraction_positive=_mean((ratio > 1.0 + clip).to(ratio.dtype)),
        clip_fraction_negative=_mean((ratio < 1.0 - clip).to(ratio.dtype)),
        policy_determinism=1.0 - mean_entropy if mean_entropy is not None else None,
        entropy_collapsed=mean_entropy is not None and mean_entropy < COLLAPSED_ENTROPY,
        numerical_stability_score=_stability(joint, delta),
        head_nan_detected=dict(zip(HEAD_NAMES, head_log_prob.isnan().any(dim=0).tolist(), strict=True)),
        head_inf_detected=dict(zip(HEAD_NAMES, head_log_prob.isinf().any(dim=0).tolist(), strict=True)),
        heads=heads,
    )


def _stability(log_prob: Tensor, delta: Tensor) -> float | None:
    if len(log_prob) == 0:
        return None
    underflow = float((log_prob < UNDERFLOW_LOG_PROB).to(torch.float64).mean())
    clamped = float((delta.abs() >= MAX_LOG_RATIO).to(torch.float64).mean())
    return (1.0 - underflow) * (1.0 - clamped)


def _mean(x: Tensor) -> float | None:
    return float(x.mean()) if x.numel() else None


def _max(x: Tensor) -> float | None:
    return float(x.max()) if x.numel() else None


def _quantile(x: Tensor, q: float) -> float | None:
    return float(x.float().quantile(q)) if x.numel() else None


def _standardised_moment(x: np.ndarray, power: int) -> float | None:
    if np.var(x) < MIN_VARIANCE:
        return None
    return float(np.mean(((x - x.mean()) / x.std()) ** power))
