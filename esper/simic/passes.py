"""One pass of PPO over a round: minibatches, losses, clipped steps, and the early stop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from esper.leyline.actions import CAUSAL_MASK, Head
from esper.leyline.graph import GraphBatch
from esper.simic.diagnostics import PolicyDiagnostics, policy_diagnostics
from esper.simic.gradients import GradientDiagnostics, LayerGradients, StepGradient, gradient_diagnostics, layer_gradients
from esper.simic.losses import entropy_bonus, kl_forward, log_ratio, policy_loss, value_loss

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from esper.simic.config import PPOConfig


class LearnablePolicy(Protocol):
    """What a learner needs of a policy: a `TrainablePolicy` that is a torch module."""

    def act(self, batch: GraphBatch, noise: np.ndarray | None) -> Any:
        """Actions, log_prob, head_log_prob and value in normalised units."""
        ...

    def evaluate(self, batch: GraphBatch, actions: np.ndarray) -> Any:
        """log_prob, head_log_prob, entropy, num_legal and value as tensors with gradients."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Trainable parameters by name."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and buffers by name."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> Any:
        """Restore parameters and buffers."""
        ...

    def eval(self) -> Any:
        """Switch off dropout."""
        ...


@dataclass(frozen=True, slots=True)
class TrainingData:
    """N transitions as PPO reads them; tensors on the policy's device."""

    observations: GraphBatch
    actions: np.ndarray
    """[N, 8] int64"""
    log_prob: Tensor
    """[N] when acting"""
    head_log_prob: Tensor
    """[N, 8] when acting"""
    advantage: Tensor
    """[N] standardised; 0 for forced steps"""
    target: Tensor
    """[N] return in normalised units"""
    actor_weight: Tensor
    """[N] 1, or 0 for forced steps"""


@dataclass(frozen=True, slots=True)
class PassSettings:
    """What moves from one update to the next."""

    learning_rate: float
    entropy_coef: float


@dataclass(frozen=True, slots=True)
class PassReport:
    """One pass over a round."""

    policy_loss: float
    value_loss: float
    entropy_loss: float
    """Minus the weighted entropy bonus, before its coefficient."""
    policy: PolicyDiagnostics
    gradients: GradientDiagnostics
    policy_update_magnitude: float
    """L2 norm of the weights' change."""
    num_steps: int
    """Optimizer steps, skipped ones included."""
    is_stopped: bool
    """KL exceeded its target, so the pass ended early."""


@dataclass(frozen=True, slots=True)
class _Minibatch:
    losses: tuple[float, float, float]
    log_prob: Tensor
    old_log_prob: Tensor
    entropy: Tensor
    is_available: Tensor
    is_active: Tensor
    is_free: Tensor


def run_pass(
    policy: LearnablePolicy,
    optimizer: torch.optim.Optimizer,
    data: TrainingData,
    order: np.ndarray,
    *,
    config: PPOConfig,
    settings: PassSettings,
) -> PassReport:
    """Take one optimizer step per minibatch of `order` [N], until KL exceeds its target.

    The gradient that is clipped belongs to policy loss + value_coef·value loss − entropy_coef·entropy. A step whose gradient
    is not finite is skipped and counted.
    """
    parameters = [p for _, p in policy.named_parameters()]
    start = [p.detach().clone() for p in parameters]
    seen: list[_Minibatch] = []
    steps: list[StepGradient] = []
    layers = LayerGradients({}, 0, 0, None)
    num_nan = num_inf = 0
    is_stopped = False
    for rows in np.array_split(order, -(-len(order) // config.minibatch_size)):
        loss, minibatch = _evaluate(policy, data, rows, config=config, entropy_coef=settings.entropy_coef)
        seen.append(minibatch)
        if config.target_kl is not None and _mean_kl(minibatch) > config.target_kl:
            is_stopped = True
            break
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        layers = layer_gradients(policy.named_parameters())
        num_nan += layers.num_nan
        num_inf += layers.num_inf
        step = StepGradient(float(nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)), config.max_grad_norm)
        steps.append(step)
        if step.is_finite:
            optimizer.step()
    losses = np.average([m.losses for m in seen], axis=0, weights=[len(m.log_prob) for m in seen])
    return PassReport(
        policy_loss=float(losses[0]),
        value_loss=float(losses[1]),
        entropy_loss=float(losses[2]),
        policy=_diagnose(seen, config.clip),
        gradients=gradient_diagnostics(steps, layers, num_nan, num_inf),
        policy_update_magnitude=_distance(start, parameters),
        num_steps=len(steps),
        is_stopped=is_stopped,
    )


def _evaluate(
    policy: LearnablePolicy, data: TrainingData, rows: np.ndarray, *, config: PPOConfig, entropy_coef: float
) -> tuple[Tensor, _Minibatch]:
    index = torch.from_numpy(rows).to(data.log_prob.device)
    actions = data.actions[rows]
    found = policy.evaluate(data.observations.select(rows), actions)
    weight = data.actor_weight[index]
    is_available = found.num_legal > 1
    actor = policy_loss(found.log_prob, data.log_prob[index], data.advantage[index], weight=weight, clip=config.clip)
    critic = value_loss(found.value, data.target[index], weight=torch.ones_like(weight), huber_delta=config.value_huber_delta)
    head_weight = torch.tensor(config.entropy_head_weights, dtype=found.entropy.dtype, device=found.entropy.device)
    bonus = entropy_bonus(found.entropy, is_available, head_weight=head_weight, weight=weight)
    total = actor + config.value_coef * critic - entropy_coef * bonus
    minibatch = _Minibatch(
        losses=(float(actor.detach()), float(critic.detach()), -float(bonus.detach())),
        log_prob=found.head_log_prob.detach(),
        old_log_prob=data.head_log_prob[index],
        entropy=found.entropy.detach(),
        is_available=is_available,
        is_active=torch.from_numpy(CAUSAL_MASK[actions[:, Head.OP]]).to(is_available.device),
        is_free=weight > 0,
    )
    return total, minibatch


def _mean_kl(minibatch: _Minibatch) -> float:
    delta = log_ratio(minibatch.log_prob.sum(dim=1), minibatch.old_log_prob.sum(dim=1))[minibatch.is_free]
    return float(kl_forward(delta).mean()) if len(delta) else 0.0


def _diagnose(seen: list[_Minibatch], clip: float) -> PolicyDiagnostics:
    free = torch.cat([m.is_free for m in seen])
    return policy_diagnostics(
        torch.cat([m.log_prob for m in seen])[free],
        torch.cat([m.old_log_prob for m in seen])[free],
        entropy=torch.cat([m.entropy for m in seen])[free],
        is_available=torch.cat([m.is_available for m in seen])[free],
        is_active=torch.cat([m.is_active for m in seen])[free],
        clip=clip,
    )


def _distance(start: list[Tensor], now: list[nn.Parameter]) -> float:
    squares = [(p.detach() - s).square().sum() for s, p in zip(start, now, strict=True)]
    return float(torch.stack(squares).sum().sqrt())
