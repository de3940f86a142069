"""The trainable policy: a graph batch in, factored decisions with log-probabilities and values out.

Dropout makes ratios of probabilities inexact, so sample and learn in `eval()` mode unless noise is wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.leyline.actions import CAUSAL_MASK, WAIT, Head, LifecycleOp
from esper.leyline.masks import ActionMasks
from esper.tamiyo.distribution import log_prob_of, masked_log_probs, normalised_entropy, sample
from esper.tamiyo.gnn import TamiyoGNN
from esper.tamiyo.heads import DETAIL_HEADS, FIRST_GAIN, ActionHeads
from esper.tamiyo.layout import tensors_from_batch

if TYPE_CHECKING:
    from esper.leyline.graph import GraphBatch
    from esper.tamiyo.config import TamiyoGNNConfig


@dataclass(frozen=True, slots=True)
class PolicyOutput:
    """Decisions for B trials."""

    actions: np.ndarray
    """[B, 8] int64 in the order of `Head`; heads that do not matter to the operation hold their defaults."""
    log_prob: np.ndarray
    """[B] float32: sum over the heads that matter."""
    head_log_prob: np.ndarray
    """[B, 8] float32; 0 where the head does not matter."""
    value: np.ndarray
    """[B] float32 in normalised units."""


@dataclass(frozen=True, slots=True)
class PolicyEvaluation:
    """What the policy thinks of B states and of the actions taken in them, with gradients."""

    log_prob: Tensor
    """[B]"""
    head_log_prob: Tensor
    """[B, 8]; 0 where the head does not matter to the operation taken."""
    entropy: Tensor
    """[B, 8] in 0…1, normalised by the logarithm of the number of legal choices; 0 where there is no choice.

    Given the operation and slot taken; after WAIT, given the likeliest other operation and its likeliest slot, so that the
    heads do not fall silent while the policy waits.
    """
    num_legal: Tensor
    """[B, 8] int64: legal choices behind `entropy`; 1 where no legal operation uses the head."""
    value: Tensor
    """[B] in normalised units."""
    risk_logits: Tensor
    """[B, risk classes], mildest first."""
    telemetry_embedding: Tensor
    """[B, telemetry_dim]"""


@dataclass(frozen=True, slots=True)
class _State:
    graph: Tensor
    seeds: Tensor
    summary: Tensor
    op_legal: Tensor
    slot_legal: Tensor
    detail_legal: dict[Head, Tensor]


@dataclass(frozen=True, slots=True)
class _Decision:
    """Each head's distribution, given what was picked in the heads before it."""

    log_probs: dict[Head, Tensor]
    legal: dict[Head, Tensor]
    picked: dict[Head, Tensor]


Pick = Callable[[Head, Tensor], Tensor]
"""(head, log-probabilities [B, A]) → choices [B]."""


def is_forced(masks: ActionMasks) -> np.ndarray:
    """[B] bool: is WAIT the only legal action?"""
    others = [op for op in LifecycleOp if op is not LifecycleOp.WAIT]
    forced: np.ndarray = np.logical_not(np.any(masks.op[:, others], axis=1))
    return forced


class TamiyoPolicy(nn.Module):
    """Graph network, action heads, value, risk and telemetry heads."""

    causal: Tensor
    default_action: Tensor

    def __init__(self, config: TamiyoGNNConfig):
        """Build the policy; weights come from torch's ambient generator."""
        super().__init__()
        self.config = config
        self.gnn = TamiyoGNN(config)
        width = self.gnn.embedding_dim
        self.heads = ActionHeads(width, config)
        self.value_hidden = nn.Linear(2 * width, width)
        self.value_out = nn.Linear(width, 1)
        self.risk_out = nn.Linear(2 * width, config.risk_classes)
        self.telemetry_out = nn.Linear(2 * width, config.telemetry_dim)
        nn.init.orthogonal_(self.risk_out.weight, FIRST_GAIN)
        nn.init.zeros_(self.risk_out.bias)
        self.register_buffer("causal", torch.from_numpy(CAUSAL_MASK.copy()), persistent=False)
        self.register_buffer("default_action", torch.tensor([int(v) for v in WAIT]), persistent=False)

    @torch.inference_mode()
    def act(self, batch: GraphBatch, noise: np.ndarray | None) -> PolicyOutput:
        """Sample with `noise` [B, 8] uniform in (0, 1), or take the mode, head by head, where it is None."""
        state = self._observe(batch)
        draws = None if noise is None else torch.from_numpy(noise).to(state.graph.device, torch.float32)
        decision = self._decide(state, lambda head, log_probs: sample(log_probs, None if draws is None else draws[:, head]))
        used = self.causal[decision.picked[Head.OP]]
        picked = torch.stack([decision.picked[h] for h in Head], dim=1)
        head_log_prob = torch.stack([log_prob_of(decision.log_probs[h], decision.picked[h]) for h in Head], dim=1)
        head_log_prob = torch.where(used, head_log_prob, 0.0)
        return PolicyOutput(
            actions=torch.where(used, picked, self.default_action).cpu().numpy(),
            log_prob=head_log_prob.sum(1).cpu().numpy(),
            head_log_prob=head_log_prob.cpu().numpy(),
            value=self._value(state).cpu().numpy(),
        )

    def evaluate(self, batch: GraphBatch, actions: np.ndarray) -> PolicyEvaluation:
        """Judge legal `actions` [B, 8]; what stands in heads that do not matter to the operation is ignored."""
        state = self._observe(batch)
        taken = torch.from_numpy(actions).to(state.graph.device)
        used = self.causal[taken[:, Head.OP]]
        decision = self._decide(state, lambda head, log_probs: _condition(head, log_probs, taken, used))
        index = {h: torch.where(used[:, h], taken[:, h], 0) for h in Head}
        head_log_prob = torch.stack([log_prob_of(decision.log_probs[h], index[h]) for h in Head], dim=1)
        head_log_prob = torch.where(used, head_log_prob, 0.0)
        is_available = (state.op_legal[:, :, None] & self.causal).any(dim=1)
        entropy = torch.stack([normalised_entropy(decision.log_probs[h], decision.legal[h]) for h in Head], dim=1)
        num_legal = torch.stack([decision.legal[h].sum(1) for h in Head], dim=1)
        return PolicyEvaluation(
            log_prob=head_log_prob.sum(1),
            head_log_prob=head_log_prob,
            entropy=torch.where(is_available, entropy, 0.0),
            num_legal=torch.where(is_available, num_legal, 1),
            value=self._value(state),
            risk_logits=self.risk_out(state.summary),
            telemetry_embedding=self.telemetry_out(state.summary),
        )

    def _observe(self, batch: GraphBatch) -> _State:
        num_graphs, _, num_slots = batch.masks.slot.shape
        if (batch.num_nodes["seed"] != num_slots).any():
            raise ValueError(f"every graph needs {num_slots} seed nodes, one per slot; found {batch.num_nodes['seed'].tolist()}")
        device = self.value_out.weight.device
        graphs = tensors_from_batch(batch, neighbour_limits=self.config.neighbour_limits, device=device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.config.has_autocast):
            encoding = self.gnn.encode(graphs)
        seeds = encoding.seed.view(num_graphs, num_slots, -1)
        masks = {f.name: torch.from_numpy(getattr(batch.masks, f.name)).to(device) for f in fields(ActionMasks)}
        return _State(
            graph=encoding.graph,
            seeds=seeds,
            summary=torch.cat([encoding.graph, seeds.mean(1)], dim=1),
            op_legal=masks["op"],
            slot_legal=masks["slot"],
            detail_legal={h: masks[h.name.lower()] for h in DETAIL_HEADS},
        )

    def _decide(self, state: _State, pick: Pick) -> _Decision:
        rows = torch.arange(len(state.graph), device=state.graph.device)
        legal, log_probs, picked = {Head.OP: state.op_legal}, {}, {}

        def settle(head: Head, logits: Tensor) -> Tensor:
            log_probs[head] = masked_log_probs(logits, legal[head], floor=self.config.probability_floors.of(head))
            picked[head] = pick(head, log_probs[head])
            return picked[head]

        op = settle(Head.OP, self.heads.op(state.summary))
        legal[Head.SLOT] = state.slot_legal[rows, op]
        slot = settle(Head.SLOT, self.heads.slot(state.graph, state.seeds, op))
        legal |= state.detail_legal
        for head, logits in self.heads.details(state.graph, state.seeds[rows, slot], op).items():
            settle(head, logits)
        return _Decision(log_probs, legal, picked)

    def _value(self, state: _State) -> Tensor:
        value: Tensor = self.value_out(functional.gelu(self.value_hidden(state.summary))).squeeze(-1)
        return value


def _condition(head: Head, log_probs: Tensor, taken: Tensor, used: Tensor) -> Tensor:
    """What later heads are conditioned on: the choice taken, or the likeliest one that uses them where it does not."""
    if head is Head.OP:
        waits = taken[:, head] == LifecycleOp.WAIT
        others = log_probs.detach().clone()
        others[:, LifecycleOp.WAIT] = -torch.inf
        return torch.where(waits, others.argmax(-1), taken[:, head])
    return torch.where(used[:, head], taken[:, head], log_probs.argmax(-1))
