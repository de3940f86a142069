"""How good an action was: advantages and returns from rewards and values. Pure functions of tensors."""

from __future__ import annotations

import torch
from jaxtyping import Float  # noqa: TC002
from torch import Tensor


def gae(
    reward_t: Float[Tensor, "T B"],  # noqa: F722
    discount_t: Float[Tensor, "T B"],  # noqa: F722
    value_t: Float[Tensor, "T B"],  # noqa: F722
    value_tp1: Float[Tensor, "T B"],  # noqa: F722
    *,
    lambda_: float,
) -> Float[Tensor, "T B"]:  # noqa: F722
    """Generalised advantage estimates (Schulman et al. 2016, eq. 16).

    A_t = δ_t + γ_t λ A_{t+1},   δ_t = r_t + γ_t v_{t+1} − v_t

    Nothing behind a zero discount is read, so cells after a trial's end may hold anything, NaN included.

    Args:
        reward_t: [T, B] reward for the step taken at t.
        discount_t: [T, B] γ in 0…1; 0 where the trial ended *at* t, γ where it was cut off by time.
        value_t: [T, B] value before the step.
        value_tp1: [T, B] value after the step. At a cut-off this is the value of the last observation, not of the next
            trial's first; the trace must then be cut by the caller, since λ would carry it on.
        lambda_: mixing in 0…1.

    Returns:
        [T, B] advantages; no gradient flows to the values.
    """
    with torch.no_grad():
        continues = discount_t > 0
        zero = torch.zeros_like(reward_t)
        delta_t = reward_t + torch.where(continues, discount_t * value_tp1, zero) - value_t
        decay_t = discount_t * lambda_
        advantage_t = torch.empty_like(delta_t)
        following = zero[0] if len(zero) else zero
        for t in range(len(delta_t) - 1, -1, -1):
            following = delta_t[t] + torch.where(decay_t[t] > 0, decay_t[t] * following, zero[t])
            advantage_t[t] = following
        return advantage_t
