"""One pass of PPO over a round: minibatches, losses, clipped steps, and the early stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from esper.leyline.actions import CAUSAL_MASK, Head
from esper.leyline.graph import GraphBatch
from esper.simic.diagnostics import PolicyDiagnostics, policy_diagnostics
from esper.simic.gradients import GradientDiagnostics, LayerGradients, StepGradient, gradient_diagnostics, layer_gradients
from esper.simic.losses import entropy_bonus, kl_forward, log_ratio, policy_loss, value_loss
from esper.simic.risk import RiskDiagnostics, risk_diagnostics, risk_loss

if TYPE_CHECKING:
    from collections.abc import Iterator

    from esper.simic.config import PPOConfig

RISK_WORD = "risk"
"""Parameters with this in their name belong to the risk head alone."""


class LearnablePolicy(Protocol):
    """What a learner needs of a policy: a `TrainablePolicy` that is a torch module."""

    def act(self, batch: GraphBatch, noise: np.ndarray | None) -> Any:
        """Actions, log_prob, head_log_prob and value in normalised units."""
        ...

    def evaluate(self, batch: GraphBatch, actions: np.ndarray) -> Any:
        """log_prob, head_log_prob, entropy, num_legal, value and risk_logits as tensors with gradients."""
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


@runtime_checkable
class NormalisingPolicy(Protocol):
    """A policy whose inputs are normalised by statistics that move between rounds."""

    def update_norms(self, observations: GraphBatch) -> None:
        """Take a round's observations into account; until the next call every pass sees one normalisation."""
        ...


@runtime_checkable
class HeadedPolicy(Protocol):
    """A policy that can tell its action heads' parameters apart."""

    def head_gradient_norms(self) -> Mapping[str, float]:
        """L2 norm of the last gradient over each head's own parameters."""
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
    risk_label: Tensor
    """[N] int64 class of what followed, mildest first"""


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
    risk_loss: float
    """Cross-entropy of the risk head, before its coefficient."""
    risk: RiskDiagnostics
    policy: PolicyDiagnostics
    gradients: GradientDiagnostics
    policy_update_magnitude: float
    """L2 norm of the weights' change."""
    head_grad_norms: Mapping[str, float]
    """Head → L2 norm of its gradient at the last step, before clipping; empty where the policy cannot tell."""
    num_steps: int
    """Optimizer steps, skipped ones included."""
    is_stopped: bool
    """KL exceeded its target, so the pass ended early."""


@dataclass(frozen=True, slots=True)
class _Minibatch:
    losses: tuple[float, float, float, float]
    risk_logits: Tensor
    risk_label: Tensor
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

    The gradient that is clipped belongs to policy loss + value_coef·value loss − entropy_coef·entropy. The risk head's is
    clipped apart from it, so that learning risk leaves the policy's steps as they are. A step whose gradient is not finite is
    skipped and counted.
    """
    parameters = [p for name, p in policy.named_parameters() if RISK_WORD not in name]
    risk_parameters = [p for name, p in policy.named_parameters() if RISK_WORD in name]
    start = [p.detach().clone() for p in parameters]
    seen: list[_Minibatch] = []
    steps: list[StepGradient] = []
    layers = LayerGradients({}, 0, 0, None)
    head_norms: Mapping[str, float] = {}
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
        head_norms = policy.head_gradient_norms() if isinstance(policy, HeadedPolicy) else {}
        num_nan += layers.num_nan
        num_inf += layers.num_inf
        step = StepGradient(float(nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)), config.max_grad_norm)
        steps.append(step)
        if not nn.utils.clip_grad_norm_(risk_parameters, config.max_grad_norm).isfinite():
            for parameter in risk_parameters:
                parameter.grad = None
        if step.is_finite:
            optimizer.step()
    losses = np.average([m.losses for m in seen], axis=0, weights=[len(m.log_prob) for m in seen])
    return PassReport(
        policy_loss=float(losses[0]),
        value_loss=float(losses[1]),
        entropy_loss=float(losses[2]),
        risk_loss=float(losses[3]),
        risk=risk_diagnostics(torch.cat([m.risk_logits for m in seen]), torch.cat([m.risk_label for m in seen])),
        policy=_diagnose(seen, config.clip),
        gradients=gradient_diagnostics(steps, layers, num_nan, num_inf),
        head_grad_norms=head_norms,
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
    foreseen = risk_loss(found.risk_logits, data.risk_label[index])
    total = actor + config.value_coef * critic - entropy_coef * bonus
    if config.risk_coef > 0.0:
        total = total + config.risk_coef * foreseen
    minibatch = _Minibatch(
        losses=(float(actor.detach()), float(critic.detach()), -float(bonus.detach()), float(foreseen.detach())),
        risk_logits=found.risk_logits.detach(),
        risk_label=data.risk_label[index],
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
