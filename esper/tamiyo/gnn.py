"""The heterogeneous graph network: encoders, two SAGE layers, two GAT layers, and a mean over the host's layers.

Every relation and its reverse pass messages through one table and one segment reduction per layer, so that the number
of operator calls does not grow with the number of relations.
"""

# ruff: noqa: F722, TC003 (shapes in annotations, which tests check at run time)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from esper.leyline.graph import EDGE_WIDTHS, NODE_WIDTHS, EdgeType
from esper.tamiyo.config import NUM_LAYERS, TamiyoGNNConfig
from esper.tamiyo.graph_spec import EMBEDDED, GRAPH_SPEC, INDEX_SCALE
from esper.tamiyo.layout import (
    LAST_RELATIONS,
    READ_TYPES,
    RELATIONS,
    EdgeSet,
    GraphTensors,
    Relation,
    lay_out_edges,
)

ATTENTION_SLOPE = 0.2
"""Negative slope of the attention scores (Veličković et al. 2018, §2.1)."""
NUM_SAGE_LAYERS = 2


@dataclass(frozen=True, slots=True)
class GraphEncoding:
    """What the network makes of B graphs."""

    graph: Float[Tensor, "B D"]
    """Mean over the embeddings of the host's layers."""
    seed: Float[Tensor, "N D"]
    """Embedding of every seed node, graph by graph, in slot order."""


class NodeEncoder(nn.Module):
    """Linear, ReLU, LayerNorm over raw channels and the embeddings of their categorical indices."""

    def __init__(self, node_type: str, tables: Mapping[str, tuple[int, int]], width: int):
        """Make tables of (rows, width) for each index channel of `node_type`."""
        super().__init__()
        self._channels = [GRAPH_SPEC.channel(node_type, feature) for feature, _ in EMBEDDED[node_type]]
        self.tables = nn.ModuleList(nn.Embedding(*tables[table]) for _, table in EMBEDDED[node_type])
        self._rows = [tables[table][0] for _, table in EMBEDDED[node_type]]
        embedded = sum(tables[table][1] for _, table in EMBEDDED[node_type])
        self.linear = nn.Linear(NODE_WIDTHS[node_type] + embedded, width)
        self.norm = nn.LayerNorm(width)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Float[Tensor, "N F"]) -> Float[Tensor, "N D"]:
        """Encode raw channels; an index beyond its table shares row 0."""
        parts = [x]
        for channel, num_rows, table in zip(self._channels, self._rows, self.tables, strict=True):
            index = (x[:, channel] * INDEX_SCALE).round().long()
            parts.append(table(torch.where(index < num_rows, index, 0)))
        encoded: Tensor = self.norm(functional.relu(self.linear(torch.cat(parts, dim=1))))
        return encoded


class RelationalLayer(nn.Module):
    """One round of messages over all relations.

    x'_i = residual(x_i) + dropout(GELU(W_t x_i + b_t + Σ_r LN_r(m_ri))), where t is the type of node i and, over the
    neighbours j of i in relation r with edge attributes e_ij, m_ri is

    - without heads, mean_j (W_r x_j + U_r e_ij) (GraphSAGE, Hamilton et al. 2017),
    - with H heads, 1/H Σ_h Σ_j α_ijh W_rh x_j, where α_ijh = softmax_j LeakyReLU(q_rh·x_j + k_rh·x_i + u_rh·e_ij)
      (GAT, Veličković et al. 2018, heads averaged, attention vectors folded into the projections).

    A self relation would be W_t over again, so it is not computed a second time. The normalisations' biases add up to b_t.
    """

    def __init__(
        self, in_widths: Mapping[str, int], out_width: int, *, relations: tuple[Relation, ...], num_heads: int | None, dropout: float
    ):
        """Build a layer that reads types of `in_widths` and writes the destinations of `relations`."""
        super().__init__()
        self.relations = relations
        self.out_width = out_width
        self.num_heads = num_heads
        self.in_widths = dict(in_widths)
        self.destinations = tuple(dict.fromkeys(r.destination for r in relations))
        self.incoming = {t: [i for i, r in enumerate(relations) if r.destination == t] for t in self.destinations}
        self._blocks = {t: self._block_sizes(t) for t in in_widths}
        self.project = nn.ModuleDict({t: nn.Linear(w, sum(self._blocks[t].values()), bias=False) for t, w in in_widths.items()})
        self.bias = nn.ParameterDict({t: nn.Parameter(torch.zeros(out_width)) for t in self.destinations})
        self.norm_weight = nn.Parameter(torch.ones(len(relations), 1, out_width))
        attributes = sum(EDGE_WIDTHS[r.edge] for r in relations)
        self.edge_weight = nn.Parameter(torch.empty(num_heads or out_width, attributes))
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw each projection as Xavier uniform by its own width, not by the fused one."""
        nn.init.xavier_uniform_(self.edge_weight)
        for node_type, linear in self.project.items():
            for block in linear.weight.split(list(self._blocks[node_type].values())):  # type: ignore[operator]
                nn.init.xavier_uniform_(block)

    def blocks(self, node_type: str) -> dict[str, slice]:
        """Rows of the fused projection of `node_type`, by name: `value/3`, `q/3`, `k/3` (relation 3), `root`, `residual`."""
        ends = np.cumsum(list(self._blocks[node_type].values())).tolist()
        return {name: slice(end - size, end) for (name, size), end in zip(self._blocks[node_type].items(), ends, strict=True)}

    def forward(self, x: Mapping[str, Tensor], edges: EdgeSet) -> dict[str, Tensor]:
        """Embeddings of the destination types, from those of all types."""
        parts: dict[tuple[str, str], Tensor] = {}
        for node_type, sizes in self._blocks.items():
            split = self.project[node_type](x[node_type]).split(list(sizes.values()), dim=1)
            parts.update(((node_type, name), part) for name, part in zip(sizes, split, strict=True))
        table = torch.cat([parts[r.source, f"value/{i}"] for i, r in enumerate(self.relations)]).view(-1, self.out_width)
        if self.num_heads is None:
            message = _neighbour_mean(table, edges) + functional.linear(
                edges.bag_attributes[:, : self.edge_weight.shape[1]], self.edge_weight
            )
        else:
            message = self._attend(table, parts, edges)
        message = functional.layer_norm(message, (self.out_width,))
        return self._combine(x, parts, message)

    def _attend(self, table: Tensor, parts: Mapping[tuple[str, str], Tensor], edges: EdgeSet) -> Tensor:
        num_heads = self.num_heads or 1
        query = torch.cat([parts[r.source, f"q/{i}"] for i, r in enumerate(self.relations)])
        key = torch.cat([parts[r.destination, f"k/{i}"] for i, r in enumerate(self.relations)])
        score = query[edges.source] + key[edges.bag]
        score = score + functional.linear(edges.attributes[:, : self.edge_weight.shape[1]], self.edge_weight)
        weight = segment_softmax(functional.leaky_relu(score, ATTENTION_SLOPE), edges.bag, len(edges.offsets))
        rows = (edges.source[:, None] * num_heads + torch.arange(num_heads, device=edges.source.device)).flatten()
        per_sample = (weight / num_heads).to(table.dtype).flatten()
        return _embedding_bag(table, rows, edges.offsets * num_heads, mode="sum", weights=per_sample)

    def _combine(self, x: Mapping[str, Tensor], parts: Mapping[tuple[str, str], Tensor], message: Tensor) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        start = 0
        for node_type, incoming in self.incoming.items():
            num_nodes = x[node_type].shape[0]
            stop = start + len(incoming) * num_nodes
            by_relation = message[start:stop].view(len(incoming), num_nodes, self.out_width)
            summed = (by_relation * self.norm_weight[incoming[0] : incoming[-1] + 1]).sum(0)
            hidden = self.dropout(functional.gelu(parts[node_type, "root"] + summed + self.bias[node_type]))
            out[node_type] = hidden + parts.get((node_type, "residual"), x[node_type])
            start = stop
        return out

    def _block_sizes(self, node_type: str) -> dict[str, int]:
        outgoing = [i for i, r in enumerate(self.relations) if r.source == node_type]
        incoming = self.incoming.get(node_type, [])
        sizes = {f"value/{i}": (self.num_heads or 1) * self.out_width for i in outgoing}
        if self.num_heads is not None:
            sizes |= {f"q/{i}": self.num_heads for i in outgoing}
            sizes |= {f"k/{i}": self.num_heads for i in incoming}
        if node_type in self.destinations:
            sizes["root"] = self.out_width
            if self.in_widths[node_type] != self.out_width:
                sizes["residual"] = self.out_width
        return sizes


class TamiyoGNN(nn.Module):
    """Encoders, two SAGE layers, two GAT layers; the last computes only what is read."""

    def __init__(self, config: TamiyoGNNConfig):
        """Build the network with every width explicit."""
        super().__init__()
        self.config = config
        tables = {
            "layer_type": (config.layer_vocab, config.layer_type_dim),
            "activation_type": (config.activation_vocab, config.activation_type_dim),
            "blueprint": (config.blueprint_vocab, config.blueprint_dim),
        }
        widths = {t: config.activation_dim if t == "activation" else config.hidden_dim for t in NODE_WIDTHS}
        self.encoders = nn.ModuleDict({t: NodeEncoder(t, tables, width) for t, width in widths.items()})
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
            widths = dict.fromkeys(NODE_WIDTHS, out_width)
        self.layers = nn.ModuleList(layers)

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
        attributes = {
            e: np.zeros((index[e].shape[1], width), dtype=np.float32) if edge_attr_dict is None else edge_attr_dict[e].cpu().numpy()
            for e, width in EDGE_WIDTHS.items()
        }
        limits = self.config.neighbour_limits
        layer_graph = torch.zeros(num_nodes["layer"], dtype=torch.int64, device=device) if batch is None else batch["layer"]
        num_graphs = 1 if batch is None else max((int(b[-1]) + 1 for b in batch.values() if len(b)), default=1)
        return self.encode(
            GraphTensors(
                x={t: x_dict[t] for t in NODE_WIDTHS},
                edges=lay_out_edges(index, attributes, num_nodes=num_nodes, neighbour_limits=limits, device=device),
                layer_graph=layer_graph,
                num_graphs=num_graphs,
            )
        )

    def encode(self, graphs: GraphTensors) -> GraphEncoding:
        """Encode graphs that are laid out already."""
        x = {t: self.encoders[t](rows) for t, rows in graphs.x.items()}
        for layer, edges in zip(self.layers, graphs.edges, strict=True):
            x = layer(x, edges)
        layer_x, seed_x = (x[t].float() for t in READ_TYPES)
        pooled = segment_mean(layer_x, graphs.layer_graph, graphs.num_graphs)
        return GraphEncoding(graph=pooled, seed=seed_x)


def segment_mean(x: Float[Tensor, "N D"], index: Int[Tensor, " N"], num_segments: int) -> Float[Tensor, "S D"]:
    """Mean of the rows of each segment, 0 where there are none.

    What `torch_geometric.utils.scatter` gives; that import takes two seconds, and torch's compiler along.
    """
    total = x.new_zeros(num_segments, x.shape[1]).index_add_(0, index, x)
    return total / torch.bincount(index, minlength=num_segments).clamp_min(1)[:, None]


def segment_softmax(score: Float[Tensor, "N H"], index: Int[Tensor, " N"], num_segments: int) -> Float[Tensor, "N H"]:
    """Softmax over the rows of each segment; what `torch_geometric.utils.softmax` gives."""
    rows = index[:, None].expand_as(score)
    largest = score.new_zeros(num_segments, score.shape[1]).scatter_reduce(0, rows, score.detach(), "amax", include_self=False)
    power = (score - largest[index]).exp()
    total = power.new_zeros(num_segments, power.shape[1]).scatter_add(0, rows, power)
    return power / (total + 1e-16)[index]


def _neighbour_mean(table: Tensor, edges: EdgeSet) -> Tensor:
    return _embedding_bag(table, edges.source, edges.offsets, mode="mean", weights=None)


def _embedding_bag(table: Tensor, rows: Tensor, offsets: Tensor, *, mode: str, weights: Tensor | None) -> Tensor:
    if not len(rows):
        return table.new_zeros(len(offsets), table.shape[1])
    reduced: Tensor = functional.embedding_bag(rows, table, offsets, mode=mode, per_sample_weights=weights)
    return reduced
