"""The policy's network once more, from PyTorch Geometric's own layers: what it computes, one relation at a time.

Slow and plain. Its weights are those of a `TamiyoGNN`, mapped one to one, so that values and gradients can be compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import GATConv, HeteroConv, MessagePassing
from torch_geometric.utils import scatter

from esper.leyline.graph import EDGE_WIDTHS, NODE_WIDTHS, GraphBatch
from esper.tamiyo.graph_spec import EMBEDDED, GRAPH_SPEC, INDEX_SCALE, ONE_HOT
from esper.tamiyo.layout import NODE_TYPES, RELATIONS, Relation, all_edges, attribute_columns, in_large_graph, thinned
from esper.tamiyo.messages import GatMessages, SageMessages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from esper.tamiyo import TamiyoGNN, TamiyoGNNConfig
    from esper.tamiyo.encoders import NodeEncoder
    from esper.tamiyo.gnn import RelationalLayer

EdgeKey = tuple[str, str, str]
LayerEdges = tuple[dict[EdgeKey, Tensor], dict[EdgeKey, Tensor]]
"""(relation → [2, E], relation → [E, A]) of one layer, reverse relations included."""


def key_of(relation: Relation) -> EdgeKey:
    """A relation in the form of `HeteroConv`."""
    return (relation.source, f"rev_{relation.edge[1]}" if relation.is_reverse else relation.edge[1], relation.destination)


class SageWithAttributes(MessagePassing):  # type: ignore[misc]
    """SAGEConv without a root weight, whose messages carry the edge's attributes beside the neighbour's row."""

    def __init__(self, widths: tuple[int, int], out_width: int, edge_width: int) -> None:
        super().__init__(aggr="mean")
        self.lin_l = nn.Linear(widths[0] + edge_width, out_width, bias=False)

    def forward(self, x: tuple[Tensor, Tensor], edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        """Aggregate rows and attributes, then project."""
        mean = self.propagate(edge_index, x=x, edge_attr=edge_attr, size=(len(x[0]), len(x[1])))
        projected: Tensor = self.lin_l(mean)
        return projected

    def message(self, x_j: Tensor, edge_attr: Tensor) -> Tensor:
        """A neighbour's row and its edge's attributes."""
        return torch.cat([x_j, edge_attr], dim=1)


class NormalisedConv(nn.Module):
    """A convolution, and the layer norm of its relation."""

    def __init__(self, layer: RelationalLayer, index: int) -> None:
        super().__init__()
        relation, messages = layer.relations[index], layer.messages
        in_widths = dict(zip(NODE_WIDTHS, layer.in_widths, strict=True))
        widths, edge_width = (in_widths[relation.source], in_widths[relation.destination]), EDGE_WIDTHS[relation.edge]
        self.out_width = layer.out_width
        self.norm_weight = nn.Parameter(torch.ones(layer.out_width))
        if isinstance(messages, SageMessages):
            self.conv: nn.Module = SageWithAttributes(widths, layer.out_width, edge_width)
        else:
            self.conv = GATConv(
                widths, layer.out_width + 1, messages.num_heads, concat=False, add_self_loops=False, edge_dim=edge_width, bias=False
            )

    def forward(self, x: tuple[Tensor, Tensor] | Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        """Convolve, and normalise the message."""
        both = (x, x) if isinstance(x, Tensor) else x
        message = self.conv(both, edge_index, edge_attr=edge_attr)[:, : self.out_width]
        return functional.layer_norm(message, (self.out_width,)) * self.norm_weight


class ReferenceLayer(nn.Module):
    """HeteroConv over all relations, a linear root, GELU, residual."""

    def __init__(self, layer: RelationalLayer) -> None:
        super().__init__()
        self.convolve = HeteroConv({key_of(r): NormalisedConv(layer, i) for i, r in enumerate(layer.relations)}, aggr="sum")
        widths = dict(zip(NODE_WIDTHS, layer.in_widths, strict=True))
        self.root = nn.ModuleDict({t: nn.Linear(widths[t], layer.out_width) for t in layer.root})
        self.residual = nn.ModuleDict({t: nn.Linear(widths[t], layer.out_width, bias=False) for t in layer.residual})

    def forward(self, x: Mapping[str, Tensor], edges: LayerEdges) -> dict[str, Tensor]:
        """Embeddings of the destination types."""
        messages = self.convolve(dict(x), edges[0], edge_attr_dict=edges[1])
        out = {}
        for node_type, root in self.root.items():
            hidden = functional.gelu(root(x[node_type]) + messages[node_type])
            residual = self.residual[node_type](x[node_type]) if node_type in self.residual else x[node_type]
            out[node_type] = hidden + residual
        return out


class ReferenceEncoder(nn.Module):
    """Embeddings looked up, codes spread out, all concatenated; Linear, ReLU, LayerNorm."""

    def __init__(self, node_type: str, encoder: NodeEncoder) -> None:
        super().__init__()
        self.node_type = node_type
        self.tables = nn.ModuleList(nn.Embedding(*t.weight.shape) for t in encoder.tables)  # type: ignore[misc]
        self.linear = nn.Linear(encoder.linear.in_features, encoder.linear.out_features)
        self.norm = nn.LayerNorm(encoder.linear.out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Encode raw channels."""

        def index(feature: str, num_rows: int) -> Tensor:
            found = (x[:, GRAPH_SPEC.channel(self.node_type, feature)] * INDEX_SCALE).round().long()
            return torch.where((found >= 0) & (found < num_rows), found, 0)

        embedded = [table(index(f, len(table.weight))) for (f, _), table in zip(EMBEDDED[self.node_type], self.tables, strict=True)]  # type: ignore[arg-type]
        codes = [functional.one_hot(index(f, n + 1), n + 1)[:, 1:].to(x.dtype) for f, n in ONE_HOT[self.node_type]]
        encoded: Tensor = self.norm(functional.relu(self.linear(torch.cat([x, *embedded, *codes], dim=1))))
        return encoded


class PygReference(nn.Module):
    """The whole network; `forward` gives what `TamiyoGNN.encode` gives, as (graph, seed)."""

    def __init__(self, gnn: TamiyoGNN) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({t: ReferenceEncoder(t, gnn.encoders[t]) for t in NODE_WIDTHS})  # type: ignore[arg-type]
        self.layers = nn.ModuleList(ReferenceLayer(layer) for layer in gnn.layers)  # type: ignore[arg-type]
        self.metrics = gnn.metrics
        self.load_state_dict(reference_weights(self, gnn), strict=False)

    def forward(self, x: Mapping[str, Tensor], edges: Sequence[LayerEdges], layer_graph: Tensor, num_graphs: int) -> tuple[Tensor, Tensor]:
        """Encode laid-out graphs; `reference_inputs` gives the arguments."""
        raw = {**x, "layer": self.metrics(x["layer"])}
        hidden = {t: encoder(raw[t]) for t, encoder in self.encoders.items()}
        for layer, of_layer in zip(self.layers, edges, strict=True):
            hidden = layer(hidden, of_layer)
        return scatter(hidden["layer"], layer_graph, dim=0, dim_size=num_graphs, reduce="mean"), hidden["seed"]


def reference_inputs(batch: GraphBatch, config: TamiyoGNNConfig) -> dict[str, Any]:
    """Arguments of `PygReference.forward`, each layer's edges thinned to its limit where graphs are large."""
    starts = {t: np.cumsum(n) - n for t, n in batch.num_nodes.items()}
    index = {}
    for edge, ends in batch.edges.items():
        graph = np.repeat(np.arange(len(batch)), batch.num_edges[edge])
        index[edge] = np.stack([ends[0] + starts[edge[0]][graph], ends[1] + starts[edge[2]][graph]])
    num_nodes = {t: len(rows) for t, rows in batch.nodes.items()}
    first = dict(zip(NODE_WIDTHS, np.cumsum([0, *num_nodes.values()]).tolist(), strict=False))
    stored = np.concatenate([batch.edge_attr[e].ravel() for e in EDGE_WIDTHS])
    everything, layers = all_edges(index, num_nodes), []
    graph_of = {t: np.repeat(np.arange(len(batch)), batch.num_nodes[t]) for t in NODE_TYPES}
    is_limited = in_large_graph(graph_of, len(batch), from_nodes=config.limited_from_nodes)
    for limit in config.neighbour_limits:
        kept, ends_of, attr_of = thinned(everything, limit, is_limited), {}, {}
        for position, relation in enumerate(RELATIONS):
            rows = kept.take(kept.relation == position)
            ends = np.stack([rows.source - first[relation.source], rows.destination - first[relation.destination]])
            ends_of[key_of(relation)] = torch.from_numpy(ends)
            attr_of[key_of(relation)] = torch.from_numpy(stored[rows.attribute[:, None] + np.arange(EDGE_WIDTHS[relation.edge])])
        layers.append((ends_of, attr_of))
    return {
        "x": {t: torch.from_numpy(rows) for t, rows in batch.nodes.items()},
        "edges": layers,
        "layer_graph": torch.from_numpy(np.repeat(np.arange(len(batch)), batch.num_nodes["layer"])),
        "num_graphs": len(batch),
    }


def reference_weights(reference: PygReference, gnn: TamiyoGNN) -> dict[str, Tensor]:
    """The reference's parameters by name, each made of the network's own, so that gradients flow back to them."""
    found: dict[int, Tensor] = {}
    for node_type, encoder in reference.encoders.items():
        own: Any = gnn.encoders[node_type]
        for mine, theirs in zip(encoder.parameters(), own.parameters(), strict=True):
            found[id(mine)] = theirs
    for layer, own in zip(reference.layers, gnn.layers, strict=True):
        found |= _layer_weights(layer, own)  # type: ignore[arg-type]
    return {name: found[id(p)] for name, p in reference.named_parameters() if id(p) in found}


def _layer_weights(layer: ReferenceLayer, own: RelationalLayer) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    for mine, theirs in ((layer.root, own.root), (layer.residual, own.residual)):
        found |= {id(p): q for p, q in zip(mine.parameters(), theirs.parameters(), strict=True)}
    values = own.messages.relation_weights()
    columns = attribute_columns(own.relations)
    for index, relation in enumerate(own.relations):
        normalised = layer.convolve.convs[key_of(relation)]
        found[id(normalised.norm_weight)] = own.norm_weight[index]
        edge_weight = own.messages.edge_weight[:, columns[index]]
        if isinstance(own.messages, GatMessages):
            found |= _attention_weights(normalised.conv, own.messages, own.relations, index, edge_weight)
        else:
            found[id(normalised.conv.lin_l.weight)] = torch.cat([values[index], edge_weight], dim=1)
    return found


def _attention_weights(
    conv: Any, messages: GatMessages, relations: Sequence[Relation], index: int, edge_weight: Tensor
) -> dict[int, Tensor]:
    """A channel behind the others carries the score: its weight is the folded attention vector, and attention reads it alone."""
    relation = relations[index]
    value = messages.relation_weights()[index]
    out_width, num_heads, in_width = value.shape
    outgoing = [i for i, r in enumerate(relations) if r.source == relation.source].index(index)
    incoming = [i for i, r in enumerate(relations) if r.destination == relation.destination].index(index)
    query, key = messages.query(relation.source)[outgoing], messages.key(relation.destination)[incoming]
    only_score = torch.zeros(1, num_heads, out_width + 1)
    only_score[..., -1] = 1.0

    def behind(score: Tensor) -> Tensor:
        return torch.cat([score.new_zeros(num_heads, out_width, score.shape[1]), score[:, None]], dim=1).flatten(0, 1)

    return {
        id(conv.lin_src.weight): torch.cat([value.transpose(0, 1), query[:, None]], dim=1).reshape(-1, in_width),
        id(conv.lin_dst.weight): behind(key),
        id(conv.lin_edge.weight): behind(edge_weight),
        id(conv.att_src): only_score,
        id(conv.att_dst): only_score,
        id(conv.att_edge): only_score,
    }
