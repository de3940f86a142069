"""The trainable policy: a graph batch in, factored decisions with log-probabilities and values out.

Dropout makes ratios of probabilities inexact, so sample and learn in `eval()` mode unless noise is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.leyline.actions import CAUSAL_MASK, HEAD_SIZES, WAIT, FactoredAction, Head, LifecycleOp
from esper.leyline.schemas import RiskLevel
from esper.leyline.tf32 import tf32
from esper.tamiyo.compiling import Encode, Encoder
from esper.tamiyo.continuous import PolicyParamsHead
from esper.tamiyo.distribution import log_prob_of, masked_log_probs, normalised_entropy, sample
from esper.tamiyo.encoders import table_shapes
from esper.tamiyo.gnn import TamiyoGNN
from esper.tamiyo.heads import DETAIL_HEADS, DETAILS, FIRST_GAIN, WIDEST_DETAIL, ActionHeads
from esper.tamiyo.inspection import PolicyInspection, PolicyOutput, method_probs
from esper.tamiyo.planner import GraphPlanner, to_device
from esper.tamiyo.registries import CAPACITY, RegistryError
from esper.tamiyo.tiny_graph import tiny_graphs

if TYPE_CHECKING:
    from esper.leyline.graph import GraphBatch
    from esper.leyline.masks import ActionMasks
    from esper.tamiyo.config import TamiyoGNNConfig
    from esper.tamiyo.registries import Registries


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
    """[B, risk classes], mildest first; no gradient flows past the risk head."""


@dataclass(frozen=True, slots=True)
class _State:
    graph: Tensor
    seeds: Tensor
    summary: Tensor
    op_legal: Tensor
    slot_legal: Tensor
    detail_legal: Tensor


@dataclass(frozen=True, slots=True)
class _Decision:
    """Distributions of operation [B, 6], slot [B, S] and details [B, 6, widest], each given what was picked before it."""

    op: Tensor
    slot: Tensor
    slot_legal: Tensor
    details: Tensor
    op_picked: Tensor
    slot_picked: Tensor
    details_picked: Tensor


_TABLES: Mapping[str, str] = {
    "layer_types": "layer_type",
    "activations": "activation_type",
    "optimizer_families": "optimizer_family",
    "specializations": "specialization",
    "seeds": "seed",
    "blueprints": "blueprint",
}
"""Registry kind → embedding table; kinds that are not here have none."""
WARM_GROUP = 3
"""Graphs that a policy for training warms up on."""
P = ParamSpec("P")
R = TypeVar("R")
Pick = Callable[[Tensor, "Head | slice"], Tensor]
"""(log-probabilities [..., A], columns of the action row) → choices [...]."""


def _rounded(method: Callable[Concatenate[TamiyoPolicy, P], R]) -> Callable[Concatenate[TamiyoPolicy, P], R]:
    """Let a GPU round to TF32 in a method; other networks of the process compute as they do."""

    @wraps(method)
    def rounded(self: TamiyoPolicy, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with tf32(self.device, is_allowed=True):
            return method(self, *args, **kwargs)

    return rounded


class TamiyoPolicy(nn.Module):
    """Graph network, action heads, value, risk and telemetry heads.

        policy = TamiyoPolicy(config).eval()
        output = policy.act(batch, None)

    Like any module it is born in training mode, in which dropout makes every pass another one: `act`, `inspect`, `select_action`
    and `evaluate` then answer the same question differently each time. Call `eval()` before deciding, as the learner and the
    service do.
    """

    causal: Tensor
    default_action: Tensor
    detail_floors: Tensor

    def __init__(self, config: TamiyoGNNConfig):
        """Build the policy; weights come from torch's ambient generator."""
        super().__init__()
        self.config = config
        self.gnn = TamiyoGNN(config)
        width = self.gnn.embedding_dim
        self.heads = ActionHeads(width, config)
        self.value_hidden = nn.Linear(2 * width, width)
        self.value_out = nn.Linear(width, 1)
        self.risk_hidden = nn.Linear(2 * width, width)
        self.risk_out = nn.Linear(width, len(RiskLevel))
        self.telemetry_out = nn.Linear(2 * width, config.telemetry_dim)
        self.params_head = PolicyParamsHead(width, config.op_dim) if config.has_policy_params else None
        nn.init.orthogonal_(self.risk_out.weight, FIRST_GAIN)
        nn.init.zeros_(self.risk_out.bias)
        floors = torch.tensor([[config.probability_floors.of(h)] for h in DETAIL_HEADS])
        self.register_buffer("causal", torch.from_numpy(CAUSAL_MASK.copy()), persistent=False)
        self.register_buffer("default_action", torch.tensor([int(v) for v in WAIT]), persistent=False)
        self.register_buffer("detail_floors", floors, persistent=False)
        self.last_action: FactoredAction | None = None
        """What `select_action` chose last."""
        self._planner = GraphPlanner(config)
        self.run_on(config.device, is_compiled=config.compile)

    def run_on(self, device: str, *, is_compiled: bool, group_size: int = WARM_GROUP) -> None:
        """Move to a device and compile if wanted; where the first decision would wait, let a first pass wait instead.

        Args:
            device: Where to decide from now on.
            is_compiled: Whether to try to compile.
            group_size: Graphs of the first pass. Code compiled for several serves any number but one, that for one serves one.
        """
        self.config = replace(self.config, device=device, compile=is_compiled)
        self.to(torch.device(device))
        self._encoder = Encoder(self.gnn.encode, is_compiled=is_compiled)
        if is_compiled or self.device.type == "cuda":
            self.warm_up(group_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.value_out.weight.device

    @property
    def is_compiled(self) -> bool:
        """Whether decisions come from compiled code."""
        return self._encoder.is_compiled

    @property
    def compile_warm_ms(self) -> float | None:
        """Duration of the first compiled pass; None where nothing is compiled."""
        return self._encoder.warm_ms

    @torch.inference_mode()
    @_rounded
    def warm_up(self, group_size: int = WARM_GROUP) -> None:
        """Encode tiny graphs as a decision would, so that the first one does not wait."""
        mode = self.training
        self.eval()
        try:
            self._encoder.warm_up(self._planner.tensors(tiny_graphs(group_size), self.device))
        finally:
            self.train(mode)

    @torch.inference_mode()
    @_rounded
    def act(self, batch: GraphBatch, noise: np.ndarray | None) -> PolicyOutput:
        """Sample with `noise` [B, 8] uniform in (0, 1), or take the mode, head by head, where it is None."""
        state = self._observe(batch, self._encoder)
        return self._output(state, self._choose(state, noise))

    @torch.inference_mode()
    @_rounded
    def inspect(self, batch: GraphBatch, noise: np.ndarray | None = None) -> PolicyInspection:
        """Decide as `act` does, and tell what stands behind the decisions."""
        state = self._observe(batch, self._encoder)
        decision = self._choose(state, noise)
        output = self._output(state, decision)
        slot_probs, details = decision.slot.exp(), decision.details.exp()
        names_slot = self.causal[decision.op_picked, Head.SLOT]
        confidence = log_prob_of(decision.op, decision.op_picked) + log_prob_of(decision.slot, decision.slot_picked).where(names_slot, 0.0)
        germinates = (decision.op_picked == LifecycleOp.GERMINATE)[:, None]
        chosen_seed = state.seeds[torch.arange(len(details), device=self.device), decision.slot_picked]
        params = None if self.params_head is None else self.params_head(state.graph, chosen_seed, decision.op_picked).median
        return PolicyInspection(
            actions=output.actions,
            log_prob=output.log_prob,
            head_log_prob=output.head_log_prob,
            value=output.value,
            op_probs=output.op_probs,
            slot_probs=_numpy(slot_probs),
            blueprint_probs=_numpy(details[:, Head.BLUEPRINT - DETAILS.start, : HEAD_SIZES[Head.BLUEPRINT]]),
            blending_probs=_numpy(torch.where(germinates, method_probs(details, Head.STYLE), method_probs(details, Head.ALPHA_CURVE))),
            confidence=_numpy(confidence.exp()),
            risk_probs=_numpy(self._risk_logits(state).softmax(-1)),
            graph_embedding=_numpy(state.graph),
            telemetry_embedding=_numpy(self.telemetry_out(state.summary)),
            policy_params=None if params is None else _numpy(params),
        )

    def select_action(self, batch: GraphBatch) -> FactoredAction:
        """The likeliest action in one graph; `last_action` keeps it.

        Raises:
            ValueError: If the batch does not hold exactly one graph.
        """
        if len(batch) != 1:
            raise ValueError(f"select_action decides for one graph, got {len(batch)}; act takes any number")
        self.last_action = FactoredAction.from_row(self.act(batch, None).actions[0].tolist())
        return self.last_action

    def encode_tags(self, tags: Mapping[str, str], registries: Registries) -> dict[str, int]:
        """Rows of the embedding tables that names stand for; 0 for a name that no registry holds.

        Args:
            tags: Registry kind (a field of `Registries`, such as `layer_types`) → name.
            registries: What the policy was trained with.

        Raises:
            RegistryError: If a kind is unknown, or the policy's table is too small for a name of its registry.
        """
        rows = {kind: registries.of(kind).index(name) for kind, name in tags.items()}
        shapes = table_shapes(self.config)
        for kind, row in rows.items():
            num_rows = shapes[_TABLES[kind]][0] if kind in _TABLES else CAPACITY
            if row >= num_rows:
                raise RegistryError(f"{kind}={tags[kind]!r} has index {row}, and this policy's table has {num_rows} rows")
        return rows

    @_rounded
    def evaluate(self, batch: GraphBatch, actions: np.ndarray) -> PolicyEvaluation:
        """Judge legal `actions` [B, 8]; what stands in heads that do not matter to the operation is ignored.

        On a GPU, run the backward pass within `tf32` as well, as this is.
        """
        state = self._observe(batch, self.gnn.encode)
        taken = torch.from_numpy(actions).to(self.device)
        used = self.causal[taken[:, Head.OP]]
        decision = self._decide(state, lambda log_probs, heads: _condition(log_probs, taken[:, heads], used[:, heads], heads))
        index = torch.where(used, taken, 0)
        head_log_prob = torch.where(used, self._per_head(decision, index), 0.0)
        is_available = (state.op_legal[:, :, None] & self.causal).any(dim=1)
        entropy = _by_head(
            normalised_entropy(decision.slot, decision.slot_legal),
            normalised_entropy(decision.details, state.detail_legal),
            normalised_entropy(decision.op, state.op_legal),
        )
        num_legal = _by_head(decision.slot_legal.sum(1), state.detail_legal.sum(2), state.op_legal.sum(1))
        return PolicyEvaluation(
            log_prob=head_log_prob.sum(1),
            head_log_prob=head_log_prob,
            entropy=torch.where(is_available, entropy, 0.0),
            num_legal=torch.where(is_available, num_legal, 1),
            value=self._value(state),
            risk_logits=self._risk_logits(state),
        )

    def update_norms(self, observations: GraphBatch) -> None:
        """Take the metrics of a round's observations into the normalisation; call it between updates only."""
        self.gnn.metrics.update(observations)

    @torch.no_grad()
    def rescale_value(self, scale: float, shift: float) -> None:
        """Make every value v into v·scale + shift by changing the last layer (van Hasselt et al. 2016, prop. 1)."""
        self.value_out.weight.mul_(scale)
        self.value_out.bias.mul_(scale).add_(shift)

    def head_gradient_norms(self) -> dict[str, Tensor]:
        """L2 norm of the last gradient over each action head's own parameters, as scalars on its device."""
        return self.heads.gradient_norms()

    def _observe(self, batch: GraphBatch, encode: Encode) -> _State:
        num_graphs, _, num_slots = batch.masks.slot.shape
        if (batch.num_nodes["seed"] != num_slots).any():
            raise ValueError(f"every graph needs {num_slots} seed nodes, one per slot; found {batch.num_nodes['seed'].tolist()}")
        encoding = encode(self._planner.tensors(batch, self.device))
        seeds = encoding.seed.view(num_graphs, num_slots, encoding.seed.shape[-1])
        slot_legal = to_device(batch.masks.slot, self.device)
        if not num_slots:  # only WAIT is legal, and it names no slot
            seeds, slot_legal = functional.pad(seeds, (0, 0, 0, 1)), functional.pad(slot_legal, (0, 1), value=True)
        return _State(
            graph=encoding.graph,
            seeds=seeds,
            summary=torch.cat([encoding.graph, seeds.mean(1)], dim=1),
            op_legal=to_device(batch.masks.op, self.device),
            slot_legal=slot_legal,
            detail_legal=to_device(_detail_legal(batch.masks), self.device),
        )

    def _choose(self, state: _State, noise: np.ndarray | None) -> _Decision:
        draws = None if noise is None else to_device(noise.astype(np.float32), self.device)
        return self._decide(state, lambda log_probs, heads: sample(log_probs, None if draws is None else draws[:, heads]))

    def _decide(self, state: _State, pick: Pick) -> _Decision:
        rows = torch.arange(len(state.graph), device=state.graph.device)
        floors = self.config.probability_floors
        op_log_probs = masked_log_probs(self.heads.op(state.summary), state.op_legal, floor=floors.op)
        op = pick(op_log_probs, Head.OP)
        slot_legal = state.slot_legal[rows, op]
        slot_log_probs = masked_log_probs(self.heads.slot(state.graph, state.seeds, op), slot_legal, floor=floors.slot)
        slot = pick(slot_log_probs, Head.SLOT)
        logits = self.heads.details(state.graph, state.seeds[rows, slot], op)
        details = masked_log_probs(logits, state.detail_legal, floor=self.detail_floors)
        return _Decision(op_log_probs, slot_log_probs, slot_legal, details, op, slot, pick(details, DETAILS))

    def _output(self, state: _State, decision: _Decision) -> PolicyOutput:
        picked = _by_head(decision.slot_picked, decision.details_picked, decision.op_picked)
        used = self.causal[decision.op_picked]
        head_log_prob = torch.where(used, self._per_head(decision, picked), 0.0)
        return PolicyOutput(
            actions=torch.where(used, picked, self.default_action).cpu().numpy(),
            log_prob=_numpy(head_log_prob.sum(1)),
            head_log_prob=_numpy(head_log_prob),
            value=_numpy(self._value(state)),
            op_probs=_numpy(decision.op.exp()),
        )

    def _per_head(self, decision: _Decision, choices: Tensor) -> Tensor:
        return _by_head(
            log_prob_of(decision.slot, choices[:, Head.SLOT]),
            log_prob_of(decision.details, choices[:, DETAILS]),
            log_prob_of(decision.op, choices[:, Head.OP]),
        )

    def _value(self, state: _State) -> Tensor:
        value: Tensor = self.value_out(functional.gelu(self.value_hidden(state.summary))).squeeze(-1)
        return value

    def _risk_logits(self, state: _State) -> Tensor:
        logits: Tensor = self.risk_out(functional.gelu(self.risk_hidden(state.summary.detach())))
        return logits


def _by_head(slot: Tensor, details: Tensor, op: Tensor) -> Tensor:
    """[B, 8] in the order of `Head`, from [B], [B, 6] and [B]."""
    return torch.cat([slot[:, None], details, op[:, None]], dim=1)


def _detail_legal(masks: ActionMasks) -> np.ndarray:
    legal = np.zeros((len(masks.op), len(DETAIL_HEADS), WIDEST_DETAIL), dtype=bool)
    for row, head in enumerate(DETAIL_HEADS):
        legal[:, row, : HEAD_SIZES[head]] = getattr(masks, head.name.lower())
    return legal


def _condition(log_probs: Tensor, taken: Tensor, used: Tensor, heads: Head | slice) -> Tensor:
    """What later heads are conditioned on: the choice taken, or the likeliest one that uses them where it does not."""
    if heads is Head.OP:
        others = log_probs.detach().clone()
        others[:, LifecycleOp.WAIT] = -torch.inf
        return torch.where(taken == LifecycleOp.WAIT, others.argmax(-1), taken)
    return torch.where(used, taken, log_probs.argmax(-1))


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()
