"""Masked categorical distributions with probability floors, as functions of tensors. Always float32.

Each takes legal choices as a mask, True where legal, with at least one True in every row.
"""

# ruff: noqa: F722, TC002 (shapes in annotations, which tests check at run time)

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

MAX_FLOOR_SHARE = 0.5
"""Most of a distribution that its floors may take together."""
_SMALLEST_NOISE = 1e-12


def masked_log_probs(logits: Float[Tensor, "*B A"], legal: Bool[Tensor, "*B A"], *, floor: float | Tensor) -> Float[Tensor, "*B A"]:
    """Log-probabilities of a floored softmax over the legal choices.

    p = f + (1 − n·f)·softmax(logits over the n legal choices), with f = min(floor, ½/n)

    Args:
        logits: [..., A].
        legal: [..., A].
        floor: Least probability of a legal choice; a tensor [..., 1] for floors of their own.

    Returns:
        [..., A]; illegal choices have the least finite float, whose exponential is 0 and whose gradient is 0.
    """
    lowest = torch.finfo(torch.float32).min
    log_softmax = torch.where(legal, logits.float(), lowest).log_softmax(-1)
    if isinstance(floor, Tensor) or floor > 0.0:
        num_legal = legal.sum(-1, keepdim=True)
        shrunk = torch.clamp(MAX_FLOOR_SHARE / num_legal, max=floor)
        log_softmax = torch.logaddexp(shrunk.log(), log_softmax + torch.log1p(-num_legal * shrunk))
    return torch.where(legal, log_softmax, lowest)


def sample(log_probs: Float[Tensor, "*B A"], noise: Float[Tensor, "*B"] | None) -> Int[Tensor, "*B"]:
    """Choose by inverse CDF at `noise` uniform in (0, 1), or take the most probable choice where it is None."""
    if noise is None:
        return log_probs.argmax(-1)
    cdf = log_probs.exp().cumsum(-1)
    threshold = noise.float().clamp(min=_SMALLEST_NOISE)[..., None] * cdf[..., -1:]
    return (cdf < threshold).sum(-1)


def log_prob_of(log_probs: Float[Tensor, "*B A"], choice: Int[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """Log-probability of each row's choice."""
    return log_probs.gather(-1, choice[..., None]).squeeze(-1)


def normalised_entropy(log_probs: Float[Tensor, "*B A"], legal: Bool[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
    """Entropy over the legal choices, divided by its maximum log(n); 0 where only one is legal.

    Returns:
        [...] in 0…1.
    """
    safe = torch.where(legal, log_probs, 0.0)
    entropy = -(torch.where(legal, safe.exp(), 0.0) * safe).sum(-1)
    largest = legal.sum(-1).clamp(min=2).float().log()
    return torch.where(legal.sum(-1) > 1, entropy / largest, 0.0)
