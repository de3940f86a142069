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
from esper.leyline.tf32 import tf32
from esper.simic.diagnostics import PolicyDiagnostics, policy_diagnostics
from esper.simic.gradients import GradientDiagnostics, LayerGradients, MeasuredLayers, StepGradient, gradient_diagnostics, measure_layers
from esper.simic.losses import entropy_bonus, kl_forward, log_ratio, policy_loss, value_loss
from esper.simic.readings import read
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
class RescalablePolicy(Protocol):
    """A policy whose values can be told in other units."""

    def rescale_value(self, scale: float, shift: float) -> None:
        """Make every value v into v·scale + shift."""
        ...


@runtime_checkable
class HeadedPolicy(Protocol):
    """A policy that can tell its action heads' parameters apart."""

    def head_gradient_norms(self) -> Mapping[str, Tensor]:
        """L2 norm of the last gradient over each head's own parameters, as scalars that nobody has read."""
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
    losses: Tensor
    """[4] of policy, value, entropy and risk."""
    risk_logits: Tensor
    risk_label: Tensor
    log_prob: Tensor
    old_log_prob: Tensor
    entropy: Tensor
    is_available: Tensor
    is_active: np.ndarray
    is_free: np.ndarray


@dataclass(frozen=True, slots=True)
class _Measured:
    """Gradients of a step before they were clipped."""

    layers: MeasuredLayers | None
    head_norms: Mapping[str, Tensor]


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
    skipped and counted. A GPU is waited for once a step, and once more where KL has a target; what is only told, at the end.
    """
    parameters = [p for name, p in policy.named_parameters() if RISK_WORD not in name]
    risk_parameters = [p for name, p in policy.named_parameters() if RISK_WORD in name]
    start = [p.detach().clone() for p in parameters]
    is_free = (data.actor_weight > 0).cpu().numpy()
    seen: list[_Minibatch] = []
    measured: list[_Measured] = []
    steps: list[StepGradient] = []
    is_stopped = False
    with tf32(data.log_prob.device, is_allowed=True):
        for rows in np.array_split(order, -(-len(order) // config.minibatch_size)):
            loss, minibatch = _evaluate(policy, data, rows, is_free[rows], config=config, entropy_coef=settings.entropy_coef)
            seen.append(minibatch)
            if config.target_kl is not None and _mean_kl(minibatch) > config.target_kl:
                is_stopped = True
                break
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            measured.append(_measure(policy))
            steps.append(_clip(parameters, risk_parameters, config.max_grad_norm))
            if steps[-1].is_finite:
                optimizer.step()
    told = _tell(seen, measured, steps, _distance(start, parameters))
    return PassReport(
        policy_loss=float(told.losses[0]),
        value_loss=float(told.losses[1]),
        entropy_loss=float(told.losses[2]),
        risk_loss=float(told.losses[3]),
        risk=risk_diagnostics(torch.cat([m.risk_logits for m in seen]).cpu(), torch.cat([m.risk_label for m in seen]).cpu()),
        policy=_diagnose(seen, config.clip),
        gradients=told.gradients,
        head_grad_norms=told.head_norms,
        policy_update_magnitude=told.distance,
        num_steps=len(steps),
        is_stopped=is_stopped,
    )


@dataclass(frozen=True, slots=True)
class _Told:
    """What a pass has measured, as numbers."""

    losses: np.ndarray
    """[4], averaged over samples."""
    gradients: GradientDiagnostics
    head_norms: Mapping[str, float]
    """At the last step."""
    distance: float


def _evaluate(
    policy: LearnablePolicy, data: TrainingData, rows: np.ndarray, is_free: np.ndarray, *, config: PPOConfig, entropy_coef: float
) -> tuple[Tensor, _Minibatch]:
    index = _bring(rows, data.log_prob.device)
    actions = data.actions[rows]
    found = policy.evaluate(data.observations.select(rows), actions)
    weight = data.actor_weight[index]
    is_available = found.num_legal > 1
    actor = policy_loss(found.log_prob, data.log_prob[index], data.advantage[index], weight=weight, clip=config.clip)
    critic = value_loss(found.value, data.target[index], weight=torch.ones_like(weight), huber_delta=config.value_huber_delta)
    head_weight = torch.tensor(config.entropy_head_weights, dtype=found.entropy.dtype).to(found.entropy.device, non_blocking=True)
    bonus = entropy_bonus(found.entropy, is_available, head_weight=head_weight, weight=weight)
    foreseen = risk_loss(found.risk_logits, data.risk_label[index])
    total = actor + config.value_coef * critic - entropy_coef * bonus
    if config.risk_coef > 0.0:
        total = total + config.risk_coef * foreseen
    minibatch = _Minibatch(
        losses=torch.stack([actor.detach(), critic.detach(), -bonus.detach(), foreseen.detach()]),
        risk_logits=found.risk_logits.detach(),
        risk_label=data.risk_label[index],
        log_prob=found.head_log_prob.detach(),
        old_log_prob=data.head_log_prob[index],
        entropy=found.entropy.detach(),
        is_available=is_available,
        is_active=CAUSAL_MASK[actions[:, Head.OP]],
        is_free=is_free,
    )
    return total, minibatch


def _mean_kl(minibatch: _Minibatch) -> float:
    if not minibatch.is_free.any():
        return 0.0
    delta = log_ratio(minibatch.log_prob.sum(dim=1), minibatch.old_log_prob.sum(dim=1))
    free = _bring(np.flatnonzero(minibatch.is_free), delta.device)
    return float(kl_forward(delta[free]).mean())


def _measure(policy: LearnablePolicy) -> _Measured:
    head_norms = policy.head_gradient_norms() if isinstance(policy, HeadedPolicy) else {}
    return _Measured(measure_layers(policy.named_parameters()), head_norms)


def _clip(parameters: list[nn.Parameter], risk_parameters: list[nn.Parameter], max_norm: float) -> StepGradient:
    """Clip both gradients, and drop that of the risk head where it is not finite."""
    norms = [nn.utils.clip_grad_norm_(parameters, max_norm)]
    if any(parameter.grad is not None for parameter in risk_parameters):
        norms.append(nn.utils.clip_grad_norm_(risk_parameters, max_norm))
    (norm, *risk_norm) = torch.stack(norms).tolist()
    if not np.isfinite(risk_norm).all():
        for parameter in risk_parameters:
            parameter.grad = None
    return StepGradient(norm, max_norm)


def _tell(seen: list[_Minibatch], measured: list[_Measured], steps: list[StepGradient], distance: Tensor) -> _Told:
    """Read all that was measured, at once."""
    layers = [each.layers for each in measured if each.layers is not None]
    heads, last = (measured[-1].head_norms, measured[-1].layers) if measured else ({}, None)
    figures = last.figures if last is not None else ()
    numbers = iter(read([*(m.losses for m in seen), *(each.counts for each in layers), *heads.values(), distance, *figures]))
    losses = [next(numbers) for _ in seen]
    counts = [next(numbers) for _ in layers]
    head_norms = {name: next(numbers)[0] for name in heads}
    moved = next(numbers)[0]
    return _Told(
        losses=np.average(losses, axis=0, weights=[len(m.log_prob) for m in seen]),
        gradients=gradient_diagnostics(
            steps,
            last.told(*numbers) if last is not None else LayerGradients({}, 0, 0, None),
            sum(int(nans) for nans, _ in counts),
            sum(int(infinite) for _, infinite in counts),
        ),
        head_norms=head_norms,
        distance=moved,
    )


def _diagnose(seen: list[_Minibatch], clip: float) -> PolicyDiagnostics:
    """On the CPU, because every figure is read."""
    free = torch.from_numpy(np.concatenate([m.is_free for m in seen]))
    return policy_diagnostics(
        torch.cat([m.log_prob for m in seen]).cpu()[free],
        torch.cat([m.old_log_prob for m in seen]).cpu()[free],
        entropy=torch.cat([m.entropy for m in seen]).cpu()[free],
        is_available=torch.cat([m.is_available for m in seen]).cpu()[free],
        is_active=torch.from_numpy(np.concatenate([m.is_active for m in seen]))[free],
        clip=clip,
    )


def _distance(start: list[Tensor], now: list[nn.Parameter]) -> Tensor:
    squares = [(p.detach() - s).square().sum() for s, p in zip(start, now, strict=True)]
    return torch.stack(squares).sum().sqrt()


def _bring(array: np.ndarray, device: torch.device) -> Tensor:
    """An array as a tensor; a GPU is not waited for."""
    return torch.from_numpy(array).to(device, non_blocking=True)
