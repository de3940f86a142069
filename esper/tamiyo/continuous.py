"""Continuous adjustments in −1…1 beside the factored action: a normal distribution squashed by tanh.

0 changes nothing. The head is off by default. When on, `TamiyoPolicy.inspect` and the annotations of a service's commands report
its medians, and nothing acts on them: what an executor is to carry out stands in the eight discrete heads, and PPO learns from these
alone. So the medians stay 0 until somebody trains the head on adjustments of their own, with `PolicyParamsHead` and `log_prob`.
"""

# ruff: noqa: F722 (shapes in annotations, which tests check at run time)

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from esper.leyline.actions import HEAD_SIZES, Head

POLICY_PARAMS = {
    "learning_rate_shift": "the learning rate is multiplied by 10^p",
    "schedule_stretch": "the epochs of the blend are multiplied by 2^p",
    "schedule_delay": "the blend's midpoint moves by p/4 of its length",
}
"""Adjustments in the order of the head, and what a value p of −1…1 means."""
FIRST_LOG_STD = -1.0
MIN_LOG_STD, MAX_LOG_STD = -5.0, 2.0
_SMALL = 1e-6
_NUM_NODES = 64


@dataclass(frozen=True, slots=True)
class TanhNormal:
    """tanh(z) with z ~ N(location, exp(log_scale)²), element by element."""

    location: Float[Tensor, "*B"]
    log_scale: Float[Tensor, "*B"]

    @property
    def median(self) -> Float[Tensor, "*B"]:
        """tanh(location): also where sampling without noise ends."""
        return self.location.tanh()

    def sample(self, noise: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """Sample with standard normal noise; gradients flow to location and scale."""
        return (self.location + self.log_scale.exp() * noise).tanh()

    def log_prob(self, value: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """Logarithm of the density at values in (−1, 1).

        log p(y) = log N(z; location, scale) − log(1 − y²), z = artanh y (Haarnoja et al. 2018, appendix C)
        """
        inside = value.clamp(-1.0 + _SMALL, 1.0 - _SMALL)
        z = inside.atanh()
        normal = -0.5 * ((z - self.location) / self.log_scale.exp()).square() - self.log_scale - 0.5 * math.log(2.0 * math.pi)
        return normal - torch.log1p(-inside.square())

    def mean(self) -> Float[Tensor, "*B"]:
        """Mean by Gauss–Hermite quadrature, since there is no closed form."""
        return self._expectation(1)

    def std(self) -> Float[Tensor, "*B"]:
        """Standard deviation by the same quadrature."""
        return (self._expectation(2) - self._expectation(1).square()).clamp_min(0.0).sqrt()

    def _expectation(self, power: int) -> Tensor:
        nodes, weights = np.polynomial.hermite_e.hermegauss(_NUM_NODES)
        noise, weight = (torch.as_tensor(a, dtype=self.location.dtype, device=self.location.device) for a in (nodes, weights))
        values = (self.location[..., None] + self.log_scale.exp()[..., None] * noise).tanh().pow(power)
        return (values * weight).sum(-1) / math.sqrt(2.0 * math.pi)


class PolicyParamsHead(nn.Module):
    """Distribution of the adjustments, given graph, seed node and operation; the first one is centred on no change."""

    def __init__(self, embedding_dim: int, op_dim: int):
        """Build the head for embeddings of one width."""
        super().__init__()
        self.op_embedding = nn.Embedding(HEAD_SIZES[Head.OP], op_dim)
        self.hidden = nn.Linear(2 * embedding_dim + op_dim, embedding_dim)
        self.out = nn.Linear(embedding_dim, 2 * len(POLICY_PARAMS))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, graph: Float[Tensor, "B D"], seed: Float[Tensor, "B D"], op: Tensor) -> TanhNormal:
        """[B, P] adjustments, one column for each of `POLICY_PARAMS`."""
        hidden = functional.gelu(self.hidden(torch.cat([graph, seed, self.op_embedding(op)], dim=1)))
        location, log_scale = self.out(hidden).chunk(2, dim=1)
        return TanhNormal(location, (log_scale + FIRST_LOG_STD).clamp(MIN_LOG_STD, MAX_LOG_STD))
