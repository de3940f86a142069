"""PPO's losses and estimators. Pure functions of tensors; M samples, H action heads.

A sample with weight 0 is not read: whatever it holds, NaN included, it changes neither a value nor a gradient.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float  # noqa: TC002
from torch import Tensor

MIN_LOG_PROB = -100.0
"""Log-probabilities are clamped here, so that an underflow does not become an infinite ratio."""
MAX_LOG_RATIO = 20.0


def log_ratio(
    log_prob: Float[Tensor, "*S"],  # noqa: F722
    old_log_prob: Float[Tensor, "*S"],  # noqa: F722
) -> Float[Tensor, "*S"]:  # noqa: F722
    """Logarithm of π(a|s)/π_old(a|s); each term is clamped from below, the difference to ±20."""
    difference = log_prob.clamp(min=MIN_LOG_PROB) - old_log_prob.clamp(min=MIN_LOG_PROB)
    return difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def policy_loss(
    log_prob: Float[Tensor, " M"],  # noqa: F722
    old_log_prob: Float[Tensor, " M"],  # noqa: F722
    advantage: Float[Tensor, " M"],  # noqa: F722
    *,
    weight: Float[Tensor, " M"],  # noqa: F722
    clip: float,
) -> Float[Tensor, ""]:  # noqa: F722
    """Clipped surrogate over the joint action (Schulman et al. 2017, eq. 7), to be minimised.

    L = −mean_w min(r·A, clip(r, 1 − ε, 1 + ε)·A),   r = π(a|s)/π_old(a|s)

    Args:
        log_prob: [M] joint log-probability over the heads that matter to the operation taken; gradient flows here alone.
        old_log_prob: [M] the same at the time of acting.
        advantage: [M] standardised advantage.
        weight: [M] ≥ 0; 0 for forced and invalid samples.
        clip: ε, half-width of the trust region.

    Returns:
        Scalar; 0 where every weight is 0.
    """
    is_used = weight > 0
    ratio = log_ratio(_only(log_prob, is_used), _only(old_log_prob.detach(), is_used)).exp()
    gain = _only(advantage.detach(), is_used)
    surrogate = torch.minimum(ratio * gain, ratio.clamp(1.0 - clip, 1.0 + clip) * gain)
    return -_weighted_mean(surrogate, weight)


def value_loss(
    value: Float[Tensor, " M"],  # noqa: F722
    target: Float[Tensor, " M"],  # noqa: F722
    *,
    weight: Float[Tensor, " M"],  # noqa: F722
    huber_delta: float | None = None,
) -> Float[Tensor, ""]:  # noqa: F722
    """½·(v − target)², or its linear continuation beyond `huber_delta`; weighted mean.

    Args:
        value: [M] value in normalised units; gradient flows here alone.
        target: [M] normalised return.
        weight: [M] ≥ 0; forced samples belong here, since their states have a value.
        huber_delta: Error from which the loss is linear; None is squared error throughout.
    """
    is_used = weight > 0
    error = _only(value, is_used) - _only(target.detach(), is_used)
    loss = 0.5 * error.square()
    if huber_delta is not None:
        loss = torch.where(error.abs() <= huber_delta, loss, huber_delta * (error.abs() - 0.5 * huber_delta))
    return _weighted_mean(loss, weight)


def entropy_bonus(
    entropy: Float[Tensor, "M H"],  # noqa: F722
    is_available: Bool[Tensor, "M H"],  # noqa: F722
    *,
    head_weight: Float[Tensor, " H"],  # noqa: F722
    weight: Float[Tensor, " M"],  # noqa: F722
) -> Float[Tensor, ""]:  # noqa: F722
    """Σ_h w_h · (mean entropy of head h over the samples where it had a choice), to be maximised.

    A head is averaged over its own samples, so one that is seldom available is held open as firmly as any other.

    Args:
        entropy: [M, H] entropy of each head, normalised by the log of its number of legal choices.
        is_available: [M, H] more than one choice was legal, whatever operation was taken.
        head_weight: [H] ≥ 0.
        weight: [M] ≥ 0; 0 for forced and invalid samples.
    """
    cell_weight = weight[:, None] * is_available
    total = (cell_weight * _only(entropy, cell_weight > 0)).sum(dim=0)
    norm = cell_weight.sum(dim=0)
    return (head_weight * total / norm.clamp(min=torch.finfo(norm.dtype).tiny)).sum()


def kl_forward(log_ratio_: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:  # noqa: F722
    """Per-sample estimate of KL(old‖new), unbiased and never negative: (r − 1) − ln r (Schulman 2020, k3)."""
    return log_ratio_.expm1() - log_ratio_


def kl_reverse(log_ratio_: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:  # noqa: F722
    """Per-sample estimate of KL(new‖old) from the old policy's samples: r·ln r − (r − 1), never negative."""
    return log_ratio_.exp() * log_ratio_ - log_ratio_.expm1()


def standardise(
    advantage: Float[Tensor, " M"],  # noqa: F722
    is_used: Bool[Tensor, " M"],  # noqa: F722
    *,
    std_floor: float,
) -> tuple[Float[Tensor, " M"], bool]:  # noqa: F722
    """(A − mean)/max(std, floor) with mean and sample deviation over the used samples; 0 for the others.

    The floor keeps a round in which nothing happened from being blown up to unit noise.

    Returns:
        [M] standardised advantages, and whether they were divided by the floor; they were not where no sample is used.
    """
    chosen = advantage[is_used]
    if len(chosen) == 0:
        return torch.zeros_like(advantage), False
    std = chosen.std(correction=1) if len(chosen) > 1 else chosen.new_zeros(())
    return _only(advantage - chosen.mean(), is_used) / std.clamp(min=std_floor), bool(std < std_floor)


def _only(x: Tensor, is_used: Tensor) -> Tensor:
    return torch.where(is_used, x, torch.zeros_like(x))


def _weighted_mean(x: Tensor, weight: Tensor) -> Tensor:
    return (weight * x).sum() / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)
