"""The optimizer and its state as named tensors, so that a checkpoint needs no pickle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.leyline.load import ConfigError
from esper.leyline.uncompiled import AdamW

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

    from esper.simic.config import PPOConfig
    from esper.simic.passes import LearnablePolicy

CRITIC_WORD = "value"
"""Parameters with this in their name belong to the critic alone."""


class LearnerStateError(ValueError):
    """A saved state that does not fit the learner."""


def make_optimizer(policy: LearnablePolicy, config: PPOConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on the critic alone: decay on the actor would pull it towards its first, uniform policy.

    Raises:
        ConfigError: If weight decay is asked for and no parameter belongs to the critic alone.
    """
    critic = [p for name, p in policy.named_parameters() if CRITIC_WORD in name]
    actor = [p for name, p in policy.named_parameters() if CRITIC_WORD not in name]
    if config.critic_weight_decay > 0.0 and not critic:
        raise ConfigError(f"critic_weight_decay={config.critic_weight_decay} needs parameters with {CRITIC_WORD!r} in their name")
    groups = [{"params": actor, "weight_decay": 0.0}, {"params": critic, "weight_decay": config.critic_weight_decay}]
    return AdamW([g for g in groups if g["params"]], lr=config.learning_rate, eps=config.adam_epsilon)


def optimizer_tensors(optimizer: torch.optim.Optimizer, policy: LearnablePolicy) -> dict[str, Tensor]:
    """State of every parameter as `adam/<key>/<parameter>`; empty before the first step."""
    return {
        f"adam/{key}/{name}": tensor
        for name, parameter in policy.named_parameters()
        for key, tensor in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, policy: LearnablePolicy, tensors: Mapping[str, Tensor]) -> None:
    """Replace the optimizer's state by the saved one.

    Raises:
        LearnerStateError: If a saved tensor belongs to no parameter, or has another shape than its parameter.
    """
    parameters = dict(policy.named_parameters())
    state: dict[Tensor, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        kind, _, rest = full_name.partition("/")
        if kind == "policy":
            continue
        key, _, name = rest.partition("/")
        if kind != "adam" or name not in parameters:
            raise LearnerStateError(f"saved tensor {full_name!r} belongs to nothing in this learner")
        parameter = parameters[name]
        if tensor.dim() and tensor.shape != parameter.shape:
            raise LearnerStateError(f"saved {full_name} has shape {tuple(tensor.shape)}, the parameter has {tuple(parameter.shape)}")
        device = parameter.device if tensor.dim() else tensor.device
        state.setdefault(parameter, {})[key] = tensor.detach().to(device, copy=True)
    optimizer.state.clear()
    optimizer.state.update(state)
