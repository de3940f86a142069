"""The heterogeneous graph network: encoders, two SAGE layers, two GAT layers, and a mean over the host's layers.

All nodes stand in one table, type by type, so that the number of operator calls hardly grows with the number of relations.
"""

# ruff: noqa: F722, TC003 (shapes in annotations, which tests check at run time)

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from esper.leyline.graph import EDGE_WIDTHS, NODE_WIDTHS, EdgeType
from esper.tamiyo.config import NUM_LAYERS, NUM_SAGE_LAYERS, TamiyoGNNConfig
from esper.tamiyo.encoders import EncoderWeights, NodeEncoders
from esper.tamiyo.layout import LAST_RELATIONS, MAX_BAGS_AT_ONCE, NODE_TYPES, RELATIONS, Neighbourhoods, Relation, attribute_columns
from esper.tamiyo.messages import GatMessages, MessageWeights, SageMessages, as_used
from esper.tamiyo.norms import MetricNormalisation
from esper.tamiyo.planner import GraphPlan, GraphPlanner, GraphTensors


@dataclass(frozen=True, slots=True)
class GraphEncoding:
    """What the network makes of B graphs."""

    graph: Float[Tensor, "B D"]
    """Mean over the embeddings of the host's layers."""
    seed: Float[Tensor, "N D"]
    """Embedding of every seed node, graph by graph, in slot order."""


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Weights of one message-passing layer as they are used, in one precision; one entry per destination type."""

    root: tuple[Tensor, ...]
    """[in, out]"""
    bias: tuple[Tensor, ...]
    """[out]"""
    residual: tuple[Tensor | None, ...]
    """[in, out]; None where the width stays."""
    norm: Tensor
    """[R, out]"""
    messages: MessageWeights


class RelationalLayer(nn.Module):
    """One round of messages over all relations.

    x'_i = residual(x_i) + dropout(GELU(W_t x_i + b_t + Σ_r LN_r(m_ri))), where t is the type of node i, m_ri the message of
    relation r to it (`SageMessages`, or `GatMessages` with heads), and LN_r(0) = 0 for a relation in which it has no neighbour.

    A self relation would be W_t over again, so it is not computed a second time. The normalisations' biases add up to b_t.
    """

    def __init__(
        self, in_widths: Mapping[str, int], out_width: int, *, relations: tuple[Relation, ...], num_heads: int | None, dropout: float
    ):
        """Build a layer that reads types of `in_widths` and writes the destinations of `relations`."""
        super().__init__()
        self.relations = relations
        self.out_width = out_width
        self.in_widths = tuple(in_widths[t] for t in NODE_TYPES)
        self.destinations = tuple(t for t in NODE_TYPES if any(r.destination == t for r in relations))
        self.messages = (
            SageMessages(in_widths, out_width, relations)
            if num_heads is None
            else GatMessages(in_widths, out_width, relations, num_heads=num_heads)
        )
        self.root = nn.ModuleDict({t: nn.Linear(in_widths[t], out_width) for t in self.destinations})
        changed = [t for t in self.destinations if in_widths[t] != out_width]
        self.residual = nn.ModuleDict({t: nn.Linear(in_widths[t], out_width, bias=False) for t in changed})
        self.norm_weight = nn.Parameter(torch.ones(len(relations), out_width))
        self.dropout = dropout
        self._columns = attribute_columns(relations)
        for linear in (*self.root.values(), *self.residual.values()):
            nn.init.xavier_uniform_(linear.weight)  # type: ignore[arg-type]
        for linear in self.root.values():
            nn.init.zeros_(linear.bias)  # type: ignore[arg-type]

    def weights(self, dtype: torch.dtype) -> LayerWeights:
        """Take the weights apart."""
        linears: list[nn.Linear] = [self.root[t] for t in self.destinations]  # type: ignore[misc]
        residuals = [self.residual[t].weight if t in self.residual else None for t in self.destinations]
        return LayerWeights(
            root=tuple(as_used(linear.weight.t(), dtype) for linear in linears),
            bias=tuple(linear.bias.to(dtype) for linear in linears),
            residual=tuple(None if w is None else as_used(w.t(), dtype) for w in residuals),  # type: ignore[operator]
            norm=self.norm_weight.to(dtype),
            messages=self.messages.weights(dtype),
        )

    def forward(self, weights: LayerWeights, x: Tensor, edges: Neighbourhoods, attributes: Tensor, num_nodes: tuple[int, ...]) -> Tensor:
        """Rows of the destination types, from the table of all nodes.

        Args:
            weights: The layer's own, taken apart.
            x: [N, D] rows in the order of `NODE_TYPES`; narrower types are filled up with zeros.
            edges: The layer's bags.
            attributes: What `edges` makes of the stored attributes.
            num_nodes: Rows of each type.
        """
        width = x.shape[1]
        types = [
            part if own == width else part[:, :own] for part, own in zip(torch.split_with_sizes(x, num_nodes), self.in_widths, strict=True)
        ]
        hidden = torch.cat([torch.addmm(b, part, w) for part, w, b in zip(types, weights.root, weights.bias, strict=False)])
        if isinstance(self.messages, GatMessages):
            hidden = self._add(hidden, weights, edges, self.messages(weights.messages, types, x, edges, attributes), None)
        else:
            hidden = self._add(hidden, weights, edges, self.messages(weights.messages, x, edges), attributes)
        hidden = functional.gelu(hidden)
        if self.training and self.dropout:
            hidden = functional.dropout(hidden, self.dropout)
        return hidden + _residual(x, types, weights.residual)

    def _add(
        self,
        hidden: Tensor,
        weights: LayerWeights,
        edges: Neighbourhoods,
        products: Iterator[tuple[int, Tensor]],
        attributes: Tensor | None,
    ) -> Tensor:
        """Add the normalised messages to their destinations: all at once, or one by one where all would leave the cache."""
        if not len(edges.destination):
            return hidden
        if len(edges.destination) <= MAX_BAGS_AT_ONCE:
            message = torch.cat([product for _, product in products])
            if attributes is not None:
                message = message.addmm_(attributes, weights.messages.edge)
            message = torch.layer_norm(message, (self.out_width,)) * weights.norm.index_select(0, edges.relation)
            return hidden.index_add_(0, edges.destination, message)
        start = 0
        for relation, product in products:
            stop, columns = start + len(product), self._columns[relation]
            if attributes is not None:
                product = product.addmm_(attributes[start:stop, columns], weights.messages.edge[columns])
            message = torch.layer_norm(product, (self.out_width,), weights.norm[relation])
            hidden = hidden.index_add_(0, edges.destination[start:stop], message)
            start = stop
        return hidden


def _residual(x: Tensor, types: Sequence[Tensor], weights: Sequence[Tensor | None]) -> Tensor:
    if all(weight is None for weight in weights):
        return x if len(weights) == len(types) else x[: sum(len(part) for part in types[: len(weights)])]
    return torch.cat([part if w is None else torch.mm(part, w) for part, w in zip(types, weights, strict=False)])


@dataclass(frozen=True, slots=True)
class NetworkWeights:
    """All weights as they are used."""

    encoders: EncoderWeights
    layers: tuple[LayerWeights, ...]


class TamiyoGNN(nn.Module):
    """Encoders, two SAGE layers, two GAT layers; the last computes only what is read."""

    def __init__(self, config: TamiyoGNNConfig):
        """Build the network with every width explicit."""
        super().__init__()
        self.config = config
        self.metrics = MetricNormalisation()
        self.encoders = NodeEncoders(config)
        widths = dict(self.encoders.widths)
        layers = []
        for index in range(NUM_LAYERS):
            is_sage = index < NUM_SAGE_LAYERS
            out_width = config.hidden_dim if is_sage else config.attention_dim
            layers.append(
                RelationalLayer(
                    widths,
                    out_width,
                    relations=LAST_RELATIONS if index == NUM_LAYERS - 1 else RELATIONS,
                    num_heads=None if is_sage else config.num_heads,
                    dropout=config.dropout,
                )
            )
            widths = dict.fromkeys(NODE_TYPES, out_width)
        self.layers = nn.ModuleList(layers)
        self._tracked = tuple(self.parameters())
        self._kept: tuple[object, NetworkWeights] | None = None

    @property
    def embedding_dim(self) -> int:
        """Width D of the embeddings."""
        return self.config.attention_dim

    def forward(
        self,
        x_dict: Mapping[str, Tensor],
        edge_index_dict: Mapping[EdgeType, Tensor],
        batch: Mapping[str, Tensor] | None = None,
        edge_attr_dict: Mapping[EdgeType, Tensor] | None = None,
    ) -> GraphEncoding:
        """Encode graphs in the form of PyTorch Geometric.

        Args:
            x_dict: Node type → [N, F].
            edge_index_dict: Stored relation → [2, E], counting through all graphs; reverse relations are derived.
            batch: Node type → [N] graph of each node, ascending; None for a single graph.
            edge_attr_dict: Stored relation → [E, A]; None for attributes of zero.

        Raises:
            KeyError: If a node type or relation is missing; give one without members as an empty tensor.
        """
        device = x_dict["layer"].device
        num_nodes = {t: x_dict[t].shape[0] for t in NODE_WIDTHS}
        index = {e: edge_index_dict[e].cpu().numpy() for e in EDGE_WIDTHS}
        graph_of = {t: np.zeros(n, dtype=np.int64) if batch is None else batch[t].cpu().numpy() for t, n in num_nodes.items()}
        num_graphs = 1 if batch is None else max((int(b[-1]) + 1 for b in batch.values() if len(b)), default=1)
        planner = GraphPlanner(self.config, limit=0)
        plan = planner.plan(index, graph_of=graph_of, num_graphs=num_graphs, device=device)
        attributes = [
            torch.zeros(index[e].shape[1] * width, device=device) if edge_attr_dict is None else edge_attr_dict[e].flatten()
            for e, width in EDGE_WIDTHS.items()
        ]
        rows = planner.lookups.rows({t: x.detach().cpu().numpy() for t, x in x_dict.items()})
        return self.encode(
            GraphTensors(
                x={t: x_dict[t] for t in NODE_TYPES},
                rows=torch.from_numpy(rows).to(device),
                attributes=torch.cat(attributes),
                plan=plan,
            )
        )

    def weights(self) -> NetworkWeights:
        """The weights taken apart, in the precision of the network; kept until one changes while no gradient is wanted."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._take_apart()
        key = [(p._version, p.data_ptr()) for p in self._tracked]
        if self._kept is None or self._kept[0] != key:
            self._kept = (key, self._take_apart())
        return self._kept[1]

    def encode(self, graphs: GraphTensors) -> GraphEncoding:
        """Encode graphs that are laid out already."""
        return self.run(self.weights(), graphs)

    def run(self, weights: NetworkWeights, graphs: GraphTensors) -> GraphEncoding:
        """Encode graphs by weights that `weights` gave."""
        plan = graphs.plan
        nodes = {**graphs.x, "layer": self.metrics(graphs.x["layer"])}
        x = self.encoders(weights.encoders, nodes, graphs.rows, plan.offsets)
        attributes = graphs.attributes
        for layer, own, edges, is_repeated in zip(self.layers, weights.layers, plan.layers, plan.is_repeated, strict=True):
            if not is_repeated:
                attributes = edges.attributes_of(graphs.attributes).to(x.dtype)
            x = layer(own, x, edges, attributes, plan.num_nodes)
        layer_x, seed_x = torch.split_with_sizes(x.float(), plan.num_nodes[:2])
        return GraphEncoding(graph=mean_of_layers(layer_x, plan), seed=seed_x)

    def _take_apart(self) -> NetworkWeights:
        dtype = torch.bfloat16 if self.config.has_autocast else torch.float32
        layers: list[RelationalLayer] = list(self.layers)  # type: ignore[arg-type]
        return NetworkWeights(self.encoders.weights(dtype), tuple(layer.weights(dtype) for layer in layers))


def mean_of_layers(x: Float[Tensor, "N D"], plan: GraphPlan) -> Float[Tensor, "B D"]:
    """Mean over the layer nodes of each graph, 0 where there are none."""
    return x.new_zeros(len(plan.layer_share), x.shape[1]).index_add_(0, plan.layer_graph, x) * plan.layer_share
