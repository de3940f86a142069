"""A small policy with the interface that the learner expects: reads the first channels of a graph's one layer node."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from esper.leyline.actions import CAUSAL_MASK, NUM_HEADS, Head, LifecycleOp
from esper.leyline.schemas import RiskLevel

if TYPE_CHECKING:
    from esper.leyline.graph import GraphBatch


class FakeOutput(NamedTuple):
    actions: np.ndarray
    log_prob: np.ndarray
    head_log_prob: np.ndarray
    value: np.ndarray


class FakeEvaluation(NamedTuple):
    log_prob: Tensor
    head_log_prob: Tensor
    entropy: Tensor
    num_legal: Tensor
    value: Tensor
    risk_logits: Tensor


class FakePolicy(nn.Module):
    """Chooses operation and slot; every other head has one choice, 0."""

    def __init__(self, num_channels: int, num_slots: int, hidden: int = 32) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.num_slots = num_slots
        self.body = nn.Sequential(nn.Linear(num_channels, hidden), nn.Tanh())
        self.op = nn.Linear(hidden, len(LifecycleOp))
        self.slot = nn.Linear(hidden, len(LifecycleOp) * num_slots)
        self.value_body = nn.Sequential(nn.Linear(num_channels, hidden), nn.Tanh())
        self.value_out = nn.Linear(hidden, 1)
        self.risk_out = nn.Linear(num_channels, len(RiskLevel))
        for layer in (self.op, self.slot):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def rescale_value(self, scale: float, shift: float) -> None:
        with torch.no_grad():
            self.value_out.weight.mul_(scale)
            self.value_out.bias.mul_(scale).add_(shift)

    def forward(self, batch: GraphBatch) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.from_numpy(batch.nodes["layer"][:, : self.num_channels])
        h = self.body(x)
        op = _masked(self.op(h), batch.masks.op)
        slot = _masked(self.slot(h).reshape(-1, len(LifecycleOp), self.num_slots), batch.masks.slot)
        return op.log_softmax(-1), slot.log_softmax(-1), self.value_out(self.value_body(x)).squeeze(-1)

    @torch.inference_mode()
    def act(self, batch: GraphBatch, noise: np.ndarray | None) -> FakeOutput:
        op_logp, slot_logp, value = self.forward(batch)
        op = _choose(op_logp, None if noise is None else noise[:, Head.OP])
        of_op = slot_logp[torch.arange(len(op)), op]
        slot = _choose(of_op, None if noise is None else noise[:, Head.SLOT])
        actions = torch.zeros(len(op), NUM_HEADS, dtype=torch.int64)
        actions[:, Head.OP], actions[:, Head.SLOT] = op, slot
        head = _head_log_prob(op_logp, slot_logp, actions)
        return FakeOutput(actions.numpy(), head.sum(1).numpy(), head.numpy(), value.numpy())

    def evaluate(self, batch: GraphBatch, actions: np.ndarray) -> FakeEvaluation:
        op_logp, slot_logp, value = self.forward(batch)
        chosen = torch.from_numpy(actions)
        head = _head_log_prob(op_logp, slot_logp, chosen)
        of_op = slot_logp[torch.arange(len(chosen)), chosen[:, Head.OP]]
        num_legal = torch.ones(len(chosen), NUM_HEADS, dtype=torch.int64)
        num_legal[:, Head.OP] = torch.from_numpy(batch.masks.op.sum(1))
        num_legal[:, Head.SLOT] = torch.from_numpy(batch.masks.slot[np.arange(len(actions)), actions[:, Head.OP]].sum(1))
        entropy = torch.zeros(len(chosen), NUM_HEADS)
        columns = {Head.OP: op_logp, Head.SLOT: of_op}
        entropy = torch.stack([_entropy(columns[h], num_legal[:, h]) if h in columns else entropy[:, h] for h in Head], dim=1)
        risk = self.risk_out(torch.from_numpy(batch.nodes["layer"][:, : self.num_channels]))
        return FakeEvaluation(head.sum(1), head, entropy, num_legal, value, risk)


def _masked(logits: Tensor, mask: np.ndarray) -> Tensor:
    return torch.where(torch.from_numpy(mask), logits, torch.full_like(logits, torch.finfo(logits.dtype).min))


def _choose(log_prob: Tensor, noise: np.ndarray | None) -> Tensor:
    if noise is None:
        return log_prob.argmax(-1)
    cdf = log_prob.double().exp().cumsum(-1)
    return (cdf / cdf[:, -1:] <= torch.from_numpy(noise)[:, None]).sum(-1)


def _head_log_prob(op_logp: Tensor, slot_logp: Tensor, actions: Tensor) -> Tensor:
    rows = torch.arange(len(actions))
    op, slot = actions[:, Head.OP], actions[:, Head.SLOT]
    causal = torch.from_numpy(CAUSAL_MASK)[op]
    zero = torch.zeros(len(actions))
    picked = {Head.OP: op_logp[rows, op], Head.SLOT: slot_logp[rows, op, slot]}
    return torch.stack([torch.where(causal[:, h], picked[h], zero) if h in picked else zero for h in Head], dim=1)


def _entropy(log_prob: Tensor, num_legal: Tensor) -> Tensor:
    plain = -(log_prob.exp() * torch.where(log_prob > -1e4, log_prob, torch.zeros_like(log_prob))).sum(-1)
    return torch.where(num_legal > 1, plain / num_legal.clamp(min=2).log(), torch.zeros_like(plain))
