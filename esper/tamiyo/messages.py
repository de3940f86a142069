"""Messages along edges: GraphSAGE without attention, GAT with it, all relations of a layer together.

A neighbourhood is gathered before it is projected, so that a relation costs one product over the nodes that it reaches, and
relations that a batch does not have cost nothing. In large graphs a relation with few senders projects those instead.
"""

# ruff: noqa: F722, TC002, TC003 (shapes in annotations, which tests check at run time)

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from esper.tamiyo.layout import NODE_TYPES, Block, Neighbourhoods, Relation, Scores, Senders, attribute_columns, score_slots

ATTENTION_SLOPE = 0.2
"""Negative slope of the attention scores (Veličković et al. 2018, §2.1)."""
_SUM, _MEAN = 0, 1


@dataclass(frozen=True, slots=True)
class MessageWeights:
    """Weights of one layer's messages as they are used, in one precision. Without attention there are no heads."""

    value: tuple[Tensor, ...]
    """W_r [in, out] of each relation; with attention [H·in, out], divided by H."""
    mean_value: tuple[Tensor, ...]
    """With attention 1/H Σ_h W_rh [in, out]; else empty."""
    attention: tuple[Tensor, ...]
    """[in, scores] of each node type; empty without attention."""
    edge: Tensor
    """U [A, out], or with attention [A, H]."""


class SageMessages(nn.Module):
    """m_ri = mean_j (W_r x_j + U_r e_ij) over the neighbours j of i in relation r (GraphSAGE, Hamilton et al. 2017)."""

    def __init__(self, in_widths: Mapping[str, int], out_width: int, relations: tuple[Relation, ...]):
        """Draw each W_r as Xavier uniform by its own width."""
        super().__init__()
        sent = {t: sum(r.source == t for r in relations) for t in NODE_TYPES}
        self._sources = [t for t, num_sent in sent.items() if num_sent]
        self.value = nn.ParameterDict({t: nn.Parameter(xavier(sent[t], out_width, in_widths[t])) for t in self._sources})
        self.edge_weight = nn.Parameter(xavier(out_width, attribute_columns(relations)[-1].stop))

    def relation_weights(self) -> list[Tensor]:
        """W_r [out, in] of every relation, in order."""
        return [weight for t in self._sources for weight in self.value[t].unbind(0)]

    def weights(self, dtype: torch.dtype) -> MessageWeights:
        """Take the weights apart."""
        value = tuple(as_used(w.t(), dtype) for w in self.relation_weights())
        return MessageWeights(value, mean_value=(), attention=(), edge=as_used(self.edge_weight.t(), dtype))

    def forward(self, weights: MessageWeights, x: Float[Tensor, "N D"], edges: Neighbourhoods) -> Iterator[tuple[int, Tensor]]:
        """Messages into all bags, before the attributes' part U_r e, which `RelationalLayer` adds."""
        if len(edges.multi_source):
            return products_of_bags(x, edges, Bags(edges.multi_source, edges.multi_offsets, None, num_heads=1), weights.value)
        return products_of(x.index_select(0, edges.single_source), edges.num_single, weights.value)


class GatMessages(nn.Module):
    """m_ri = 1/H Σ_h Σ_j α_ijh W_rh x_j over the neighbours j of i in relation r.

    α_ijh = softmax_j LeakyReLU(q_rh·x_j + k_rh·x_i + u_rh·e_ij) (GAT, Veličković et al. 2018, heads averaged, attention
    vectors folded into the projections). A single neighbour has α = 1, so its message is that of the heads' mean weight.
    """

    def __init__(self, in_widths: Mapping[str, int], out_width: int, relations: tuple[Relation, ...], num_heads: int):
        """Draw the weights of all heads together as Xavier uniform, relation by relation."""
        super().__init__()
        self.num_heads = num_heads
        self._slots = score_slots(relations)
        self._sources = [t for t in NODE_TYPES if self._slots[t][0]]
        value, attention = {}, {}
        for t in NODE_TYPES:
            outgoing, incoming = self._slots[t]
            if outgoing:
                drawn = xavier(len(outgoing), num_heads * out_width, in_widths[t]).view(len(outgoing), num_heads, out_width, -1)
                value[t] = nn.Parameter(drawn.transpose(1, 2).contiguous())
            attention[t] = nn.Parameter(xavier(len(outgoing) + len(incoming), num_heads, in_widths[t]))
        self.value = nn.ParameterDict(value)
        self.attention = nn.ParameterDict(attention)
        self.edge_weight = nn.Parameter(xavier(num_heads, attribute_columns(relations)[-1].stop))

    def relation_weights(self) -> list[Tensor]:
        """W_r [out, H, in] of every relation, in order."""
        return [weight for t in self._sources for weight in self.value[t].unbind(0)]

    def query(self, node_type: str) -> Tensor:
        """Folded vectors q of the relations out of a node type [R, H, in]."""
        attention: Tensor = self.attention[node_type]
        return attention[: len(self._slots[node_type][0])]

    def key(self, node_type: str) -> Tensor:
        """Folded vectors k of the relations into a node type [R, H, in]."""
        attention: Tensor = self.attention[node_type]
        return attention[len(self._slots[node_type][0]) :]

    def weights(self, dtype: torch.dtype) -> MessageWeights:
        """Take the weights apart."""
        shares = [self.value[t] / self.num_heads for t in self._sources]
        return MessageWeights(
            value=tuple(as_used(w.flatten(1).t(), dtype) for stack in shares for w in stack.unbind(0)),
            mean_value=tuple(as_used(w.t(), dtype) for stack in shares for w in stack.sum(2).unbind(0)),
            attention=tuple(as_used(self.attention[t].flatten(0, 1).t(), dtype) for t in NODE_TYPES),
            edge=as_used(self.edge_weight.t(), dtype),
        )

    def forward(
        self,
        weights: MessageWeights,
        types: Sequence[Tensor],
        x: Float[Tensor, "N D"],
        edges: Neighbourhoods,
        attributes: Float[Tensor, "E A"],
    ) -> Iterator[tuple[int, Tensor]]:
        """Messages into the bags of a single edge, then into those of several; `types` are the rows of `x` by node type."""
        if len(edges.single_source):
            yield from products_of(x.index_select(0, edges.single_source), edges.num_single, weights.mean_value)
        if edges.scores is not None:
            alpha = self._attend(weights, types, edges, edges.scores, attributes)
            bags = Bags(edges.scores.source, edges.scores.offsets, alpha, num_heads=self.num_heads)
            yield from products_of_bags(x, edges, bags, weights.value)

    def _attend(
        self, weights: MessageWeights, types: Sequence[Tensor], edges: Neighbourhoods, scores: Scores, attributes: Tensor
    ) -> Float[Tensor, " EH"]:
        table = torch.cat([(rows @ w).view(-1, self.num_heads) for rows, w in zip(types, weights.attention, strict=True)])
        score = torch.addmm(table.index_select(0, scores.query), attributes, weights.edge) + table.index_select(0, scores.key)
        score = functional.leaky_relu(score.float(), ATTENTION_SLOPE)
        alpha = segment_softmax(score, edges.multi_bag, len(edges.multi_offsets))
        return alpha.to(table.dtype).view(-1).index_select(0, scores.edge)


@dataclass(frozen=True, slots=True)
class Bags:
    """Rows to be reduced, bag by bag, in each head by head."""

    rows: Tensor
    """[V] row of the table."""
    offsets: Tensor
    """[bags·H] first of each."""
    shares: Tensor | None
    """[V] weight of each row in its sum; None takes means."""
    num_heads: int

    def part(self, block: Block) -> Bags:
        """Those of one block."""
        start, heads = block.edges.start * self.num_heads, self.num_heads
        rows = slice(start, block.edges.stop * heads)
        offsets = self.offsets[block.bags.start * heads : block.bags.stop * heads] - start
        return Bags(self.rows[rows], offsets, None if self.shares is None else self.shares[rows], heads)

    def reduced(self, table: Tensor) -> Tensor:
        """[bags, H·D]: sum or mean of the table's rows [_, D] in each bag, heads side by side."""
        mode = _MEAN if self.shares is None else _SUM
        found = torch.embedding_bag(table, self.rows, self.offsets, False, mode, False, self.shares)[0]
        return found.view(-1, self.num_heads * table.shape[1])


def products_of_bags(x: Tensor, edges: Neighbourhoods, bags: Bags, weights: Sequence[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """(relation, messages into its bags of several) by weights [H·in, out], block by block where `edges` has blocks."""
    if not edges.blocks:
        yield from products_of(bags.reduced(x), edges.num_multi, weights)
    for block in edges.blocks:
        part, weight = bags.part(block), weights[block.relation]
        if block.senders is None:
            yield from products_of(part.reduced(x), [len(part.offsets) // bags.num_heads], [weight], first=block.relation)
        else:
            yield block.relation, _reduced_projections(x, block.senders, part, weight)


def _reduced_projections(x: Tensor, senders: Senders, bags: Bags, weight: Tensor) -> Tensor:
    """What `bags.reduced(x)` by the weight gives, where the few senders are projected first."""
    by_head = weight.view(bags.num_heads, -1, weight.shape[1])
    sent = x.index_select(0, senders.source)[:, : by_head.shape[1]]
    table = torch.matmul(sent, by_head).flatten(0, 1)
    return Bags(senders.row, bags.offsets[:: bags.num_heads], bags.shares, num_heads=1).reduced(table)


def products_of(rows: Tensor, counts: Sequence[int], weights: Sequence[Tensor], *, first: int = 0) -> Iterator[tuple[int, Tensor]]:
    """(relation, its rows [m, D] by its weight [in, out]), in ≤ D; relations without rows are skipped.

    Args:
        rows: Those of all relations, one relation's after the other's.
        counts: Rows of each relation.
        weights: Weight of each relation.
        first: Relation that the first count belongs to.
    """
    present = [relation for relation, count in enumerate(counts) if count]
    for relation, part in zip(present, torch.split_with_sizes(rows, [counts[relation] for relation in present]), strict=True):
        weight = weights[relation]
        yield first + relation, torch.mm(part if part.shape[1] == len(weight) else part[:, : len(weight)], weight)


def as_used(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight in the precision of the network; without a gradient also contiguous, since it is then kept for many calls."""
    converted = weight.to(dtype)
    return converted if torch.is_grad_enabled() else converted.contiguous()


def xavier(*shape: int) -> Tensor:
    """Weights [..., out, in], each matrix Xavier uniform by its own widths."""
    weight = torch.empty(*shape)
    bound = (6.0 / (shape[-2] + shape[-1])) ** 0.5
    return nn.init.uniform_(weight, -bound, bound)


def segment_softmax(score: Float[Tensor, "N H"], index: Int[Tensor, " N"], num_segments: int) -> Float[Tensor, "N H"]:
    """Softmax over the rows of each segment; what `torch_geometric.utils.softmax` gives."""
    rows = index[:, None].expand_as(score)
    largest = score.new_zeros(num_segments, score.shape[1]).scatter_reduce(0, rows, score.detach(), "amax", include_self=False)
    power = (score - largest.index_select(0, index)).exp()
    total = power.new_zeros(num_segments, power.shape[1]).index_add_(0, index, power)
    return power / (total + 1e-16).index_select(0, index)
