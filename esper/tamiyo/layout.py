"""From flat graphs to the index tensors of message passing: all relations in one table, edges sorted by destination.

Everything here is integers and copies; nothing is learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from esper.leyline.graph import EDGE_WIDTHS, NODE_WIDTHS, EdgeType, GraphBatch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Relation:
    """A stored relation, or the reverse of one."""

    edge: EdgeType
    is_reverse: bool

    @property
    def source(self) -> str:
        """Node type that sends."""
        return self.edge[2] if self.is_reverse else self.edge[0]

    @property
    def destination(self) -> str:
        """Node type that listens."""
        return self.edge[0] if self.is_reverse else self.edge[2]


RELATIONS = tuple(
    Relation(edge, is_reverse)
    for destination in NODE_WIDTHS
    for edge in EDGE_WIDTHS
    for is_reverse in (False, True)
    if Relation(edge, is_reverse).destination == destination
)
"""Every stored relation and its reverse, grouped by destination; what is read at the end (layer, seed) comes first."""
READ_TYPES = ("layer", "seed")
"""Node types whose last embeddings are used."""
LAST_RELATIONS = tuple(r for r in RELATIONS if r.destination in READ_TYPES)
"""A prefix of `RELATIONS`."""
ATTRIBUTE_WIDTH = sum(EDGE_WIDTHS[r.edge] for r in RELATIONS)
"""Channels of edge attributes when every relation has channels of its own."""


@dataclass(frozen=True, slots=True)
class EdgeSet:
    """Edges of one message-passing layer. A bag is the neighbourhood of one node in one relation.

    Sources count through a table that lists, relation by relation, all nodes of the relation's source type; bags count,
    relation by relation, all nodes of its destination type.
    """

    relations: tuple[Relation, ...]
    source: Tensor
    """[E] int64 row of the table."""
    bag: Tensor
    """[E] int64, ascending."""
    offsets: Tensor
    """[bags] int64: first edge of each bag."""
    attributes: Tensor
    """[E, ATTRIBUTE_WIDTH] float32; zero outside the channels of the edge's relation."""
    bag_attributes: Tensor
    """[bags, ATTRIBUTE_WIDTH] float32: mean over each bag; zero for an empty one."""


@dataclass(frozen=True, slots=True)
class GraphTensors:
    """B graphs, ready for the network."""

    x: dict[str, Tensor]
    """Node type → [N, F] float32."""
    edges: tuple[EdgeSet, ...]
    """One per message-passing layer."""
    layer_graph: Tensor
    """[N of type layer] int64: graph of each layer node."""
    num_graphs: int


def tensors_from_batch(batch: GraphBatch, *, neighbour_limits: Sequence[int], device: torch.device) -> GraphTensors:
    """Lay out a batch of graphs by offsets."""
    starts = {t: np.cumsum(n) - n for t, n in batch.num_nodes.items()}
    edge_index = {}
    for edge, index in batch.edges.items():
        graph = np.repeat(np.arange(len(batch)), batch.num_edges[edge])
        edge_index[edge] = np.stack([index[0] + starts[edge[0]][graph], index[1] + starts[edge[2]][graph]])
    num_nodes = {t: len(rows) for t, rows in batch.nodes.items()}
    return GraphTensors(
        x={t: torch.from_numpy(rows).to(device, non_blocking=True) for t, rows in batch.nodes.items()},
        edges=lay_out_edges(edge_index, batch.edge_attr, num_nodes=num_nodes, neighbour_limits=neighbour_limits, device=device),
        layer_graph=torch.from_numpy(np.repeat(np.arange(len(batch)), batch.num_nodes["layer"])).to(device),
        num_graphs=len(batch),
    )


def lay_out_edges(
    edge_index: Mapping[EdgeType, np.ndarray],
    edge_attr: Mapping[EdgeType, np.ndarray],
    *,
    num_nodes: Mapping[str, int],
    neighbour_limits: Sequence[int],
    device: torch.device,
) -> tuple[EdgeSet, ...]:
    """Edges of every layer, the last of which holds only relations into `READ_TYPES`.

    Args:
        edge_index: Stored relation → [2, E], counting through all graphs.
        edge_attr: Stored relation → [E, A].
        num_nodes: Nodes of each type in all graphs.
        neighbour_limits: Most edges per bag, layer by layer.
        device: Where the tensors go.
    """
    source, bag, attributes = _sorted_edges(edge_index, edge_attr, num_nodes)
    result: list[EdgeSet] = []
    made: dict[tuple[bool, int], EdgeSet] = {}
    largest = int(np.bincount(bag).max()) if len(bag) else 0
    for layer, limit in enumerate(neighbour_limits):
        is_last = layer == len(neighbour_limits) - 1
        key = (is_last, min(limit, largest))
        if key not in made:
            relations = LAST_RELATIONS if is_last else RELATIONS
            num_bags = sum(num_nodes[r.destination] for r in relations)
            end = int(np.searchsorted(bag, num_bags))
            kept = _thin(bag[:end], num_bags, limit) if limit < largest else slice(end)
            made[key] = _edge_set(relations, source[kept], bag[kept], attributes[kept], num_bags=num_bags, device=device)
        result.append(made[key])
    return tuple(result)


def _sorted_edges(
    edge_index: Mapping[EdgeType, np.ndarray], edge_attr: Mapping[EdgeType, np.ndarray], num_nodes: Mapping[str, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    num_edges = sum(edge_index[r.edge].shape[1] for r in RELATIONS)
    source, bag = np.empty(num_edges, dtype=np.int64), np.empty(num_edges, dtype=np.int64)
    attributes = np.zeros((num_edges, ATTRIBUTE_WIDTH), dtype=np.float32)
    edge_start = row_start = bag_start = column = 0
    for relation in RELATIONS:
        index = edge_index[relation.edge]
        rows = slice(edge_start, edge_start + index.shape[1])
        width = EDGE_WIDTHS[relation.edge]
        source[rows] = index[1 if relation.is_reverse else 0] + row_start
        bag[rows] = index[0 if relation.is_reverse else 1] + bag_start
        attributes[rows, column : column + width] = edge_attr[relation.edge]
        edge_start, column = rows.stop, column + width
        row_start += num_nodes[relation.source]
        bag_start += num_nodes[relation.destination]
    order = np.argsort(bag, kind="stable")
    return source[order], bag[order], attributes[order]


def _thin(bag: np.ndarray, num_bags: int, limit: int) -> np.ndarray:
    """Indices of evenly spaced edges, at most `limit` per bag."""
    size = np.bincount(bag, minlength=num_bags)
    rank = np.arange(len(bag)) - (np.cumsum(size) - size)[bag]
    quota = np.minimum(size, limit)[bag]
    crossed = (rank + 1) * quota // size[bag] > rank * quota // size[bag]
    return np.flatnonzero(crossed)


def _edge_set(
    relations: tuple[Relation, ...], source: np.ndarray, bag: np.ndarray, attributes: np.ndarray, *, num_bags: int, device: torch.device
) -> EdgeSet:
    size = np.bincount(bag, minlength=num_bags)
    offsets = np.cumsum(size) - size
    filled = np.flatnonzero(size)
    bag_attributes = np.zeros((num_bags, ATTRIBUTE_WIDTH), dtype=np.float32)
    if len(filled):
        bag_attributes[filled] = np.add.reduceat(attributes, offsets[filled], axis=0) / size[filled, None]
    on_device = [torch.from_numpy(a).to(device, non_blocking=True) for a in (source, bag, offsets, attributes, bag_attributes)]
    return EdgeSet(relations, *on_device)
