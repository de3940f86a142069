"""Who listens to whom, as index tensors: the part of a batch of graphs that does not change while hosts keep their structure.

Everything here is integers; nothing is learned. A bag is the neighbourhood of one node in one relation, if it has any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from esper.leyline.graph import EDGE_WIDTHS, NODE_WIDTHS, EdgeType

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


NODE_TYPES = tuple(NODE_WIDTHS)
"""Order of the node types in the table of all nodes."""
RELATIONS = tuple(
    Relation(edge, is_reverse)
    for source in NODE_TYPES
    for edge in EDGE_WIDTHS
    for is_reverse in (False, True)
    if Relation(edge, is_reverse).source == source
)
"""Every stored relation and its reverse, grouped by source in the order of `NODE_TYPES`."""
READ_TYPES = NODE_TYPES[:2]
"""Node types whose last embeddings are used: layers and seeds."""
LAST_RELATIONS = tuple(r for r in RELATIONS if r.destination in READ_TYPES)
MAX_BAGS_AT_ONCE = 4096
"""Above it, messages are made, normalised and added block by block: more calls, but their rows stay in the cache."""
BLOCK_BAGS = 1024
"""Most bags of a block."""
FEW = 4
"""Senders are few where there are so many times as many bags."""


def attribute_columns(relations: Sequence[Relation]) -> tuple[slice, ...]:
    """Channels of each relation where every relation has attribute channels of its own."""
    ends = np.cumsum([EDGE_WIDTHS[r.edge] for r in relations]).tolist()
    return tuple(slice(end - EDGE_WIDTHS[r.edge], end) for r, end in zip(relations, ends, strict=True))


@dataclass(frozen=True, slots=True)
class Scores:
    """Where the attention scores of the edges in bags of several come from; Eₘ edges, H heads.

    Scores stand in one table: type by type, node by node, first what the node sends by its outgoing relations, then what it
    asks by its incoming ones.
    """

    query: Tensor
    """[Eₘ] row of the source's part."""
    key: Tensor
    """[Eₘ] row of the destination's part."""
    source: Tensor
    """[Eₘ·H] row of the node table, bag by bag, in each head by head."""
    edge: Tensor
    """[Eₘ·H] element of the [Eₘ, H] weights, in the same order."""
    offsets: Tensor
    """[bags·H]"""


@dataclass(frozen=True, slots=True)
class Senders:
    """Nodes that send in one relation, where they are so few that their rows are projected instead of the bags' sums."""

    source: Tensor
    """[S] row of the node table."""
    row: Tensor
    """[edges, or edges·H in the order of `Scores`] row of the projected table, which has S rows for each head."""


@dataclass(frozen=True, slots=True)
class Block:
    """Bags of one relation that are treated together."""

    relation: int
    bags: slice
    """Of the bags of several."""
    edges: slice
    """Of their edges."""
    senders: Senders | None
    """None where there are many."""


@dataclass(frozen=True, slots=True)
class Neighbourhoods:
    """Bags of one message-passing layer: first those of a single edge, then those of several, each relation by relation."""

    num_single: tuple[int, ...]
    """Bags of a single edge, by relation."""
    num_multi: tuple[int, ...]
    """Bags of several, by relation."""
    blocks: tuple[Block, ...]
    """Bags of several, where they are too many to be treated at once; else empty."""
    single_source: Tensor
    """[single bags] row of the node table."""
    multi_source: Tensor
    """[Eₘ] row of the node table."""
    multi_bag: Tensor
    """[Eₘ] bag, counting from the first of several; ascending."""
    multi_offsets: Tensor
    """[multi bags]: first edge of each."""
    destination: Tensor
    """[bags] row of the node table."""
    relation: Tensor
    """[bags]"""
    scores: Scores | None
    """None for layers without attention, and where every bag has a single edge."""
    attribute_source: Tensor
    """[V] element of the stored attributes, one relation's after the other's."""
    attribute_target: Tensor
    """[V] element of `attributes_of`'s result."""
    attribute_share: Tensor
    """[V] weight of an attribute in its target."""
    attribute_shape: tuple[int, int]

    def attributes_of(self, stored: Tensor) -> Tensor:
        """Lay out all stored attributes: the means of all bags, or with attention the values of the Eₘ edges."""
        values = stored.index_select(0, self.attribute_source) * self.attribute_share
        rows, width = self.attribute_shape
        return values.new_zeros(rows * width).index_add_(0, self.attribute_target, values).view(rows, width)


@dataclass(frozen=True, slots=True)
class Edges:
    """Edges of all relations, relation by relation and in each sorted by destination; E edges."""

    source: np.ndarray
    """[E] row of the node table."""
    destination: np.ndarray
    """[E] row of the node table."""
    relation: np.ndarray
    """[E] position in `RELATIONS`."""
    attribute: np.ndarray
    """[E] first element in the stored attributes."""

    def take(self, rows: np.ndarray) -> Edges:
        """The edges at `rows`, a mask or indices."""
        return Edges(self.source[rows], self.destination[rows], self.relation[rows], self.attribute[rows])


def all_edges(edge_index: Mapping[EdgeType, np.ndarray], num_nodes: Mapping[str, int]) -> Edges:
    """Edges of every relation.

    Args:
        edge_index: Stored relation → [2, E], counting through all graphs.
        num_nodes: Nodes of each type in all graphs.
    """
    node_start = first_rows(num_nodes)
    counts = [edge_index[e].shape[1] * width for e, width in EDGE_WIDTHS.items()]
    attribute_start = dict(zip(EDGE_WIDTHS, (np.cumsum(counts) - counts).tolist(), strict=True))
    source, destination, attribute, sizes = [], [], [], []
    for relation in RELATIONS:
        index = edge_index[relation.edge]
        num_edges = index.shape[1]
        source.append(index[1 if relation.is_reverse else 0] + node_start[relation.source])
        destination.append(index[0 if relation.is_reverse else 1] + node_start[relation.destination])
        attribute.append(np.arange(num_edges) * EDGE_WIDTHS[relation.edge] + attribute_start[relation.edge])
        sizes.append(num_edges)
    edges = Edges(
        np.concatenate(source), np.concatenate(destination), np.repeat(np.arange(len(RELATIONS)), sizes), np.concatenate(attribute)
    )
    return edges.take(np.argsort(edges.relation * max(sum(num_nodes.values()), 1) + edges.destination, kind="stable"))


def first_rows(num_nodes: Mapping[str, int]) -> dict[str, int]:
    """First row of each type in the table of all nodes."""
    counts = [num_nodes[t] for t in NODE_TYPES]
    return dict(zip(NODE_TYPES, (np.cumsum(counts) - counts).tolist(), strict=True))


def in_large_graph(graph_of: Mapping[str, np.ndarray], num_graphs: int, *, from_nodes: int) -> np.ndarray:
    """[N] whether each row of the node table is of a graph of at least `from_nodes` nodes.

    Args:
        graph_of: Node type → [N] graph of each node.
        num_graphs: Number of graphs.
        from_nodes: Nodes of the smallest graph that is large.
    """
    graphs = np.concatenate([graph_of[t] for t in NODE_TYPES])
    is_large: np.ndarray = np.bincount(graphs, minlength=num_graphs)[graphs] >= from_nodes
    return is_large


def thinned(edges: Edges, limit: int, is_limited: np.ndarray) -> Edges:
    """At most `limit` edges of each bag, evenly spaced by the row of their source; the order in which edges are stored decides nothing.

    Edges that join the same two nodes in one relation are told apart by their stored order alone. Which ones are kept depends on
    the numbering of nodes.

    Args:
        edges: Sorted by relation and destination.
        limit: Most edges of a bag.
        is_limited: [N] whether this row of the node table has the limit.
    """
    starts, size = _bags(edges)
    allowed = np.where(is_limited[edges.destination[starts]], np.minimum(size, limit), size)
    if (allowed == size).all():
        return edges
    bag = np.repeat(np.arange(len(size)), size)
    rank = np.empty_like(bag)
    rank[np.lexsort((edges.source, bag))] = np.arange(len(bag)) - starts[bag]
    quota = allowed[bag]
    return edges.take((rank + 1) * quota // size[bag] > rank * quota // size[bag])


def neighbourhoods(
    edges: Edges, relations: tuple[Relation, ...], *, num_nodes: Mapping[str, int], num_heads: int | None, device: torch.device
) -> Neighbourhoods:
    """Lay out one layer's edges.

    Args:
        edges: Edges of all relations; those of others than `relations` are left out.
        relations: Relations of the layer.
        num_nodes: Nodes of each type in all graphs.
        num_heads: Attention heads; None for a layer without attention, which needs single edges apart only if there is nothing else.
        device: Where the tensors go.
    """
    position = np.array([relations.index(r) if r in relations else -1 for r in RELATIONS])
    edges = edges.take(position[edges.relation] >= 0)
    starts, size = _bags(edges)
    is_single = size == 1
    if num_heads is None and not is_single.all():
        is_single[:] = False
    order = np.concatenate([np.flatnonzero(is_single), np.flatnonzero(~is_single)])
    relation = position[edges.relation]
    of_bag = relation[starts]
    in_multi = np.repeat(~is_single, size)
    multi, multi_size = edges.take(in_multi), size[~is_single]
    rows = np.arange(len(relation)) if num_heads is None else np.flatnonzero(in_multi)
    target = np.argsort(order)[np.repeat(np.arange(len(size)), size)] if num_heads is None else np.arange(len(rows))
    share = 1.0 / np.repeat(size, size) if num_heads is None else np.ones(len(rows))
    num_targets = len(size) if num_heads is None else len(rows)

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)

    num_multi = np.bincount(of_bag[~is_single], minlength=len(relations))
    scores = None
    if num_heads is not None and len(multi_size):
        scores = Scores(*map(tensor, _score_rows(multi, relations, multi_size, num_nodes=num_nodes, num_heads=num_heads)))
    entries = torch.arange(len(multi.source), device=device) if scores is None else scores.edge
    source, where, shares = _attribute_moves(relations, relation[rows], edges.attribute[rows], target=target, share=share)
    return Neighbourhoods(
        num_single=tuple(np.bincount(of_bag[is_single], minlength=len(relations)).tolist()),
        num_multi=tuple(num_multi.tolist()),
        blocks=_blocks(multi.source, entries, num_bags=num_multi, size=multi_size),
        single_source=tensor(edges.source[starts[is_single]]),
        multi_source=tensor(multi.source),
        multi_bag=tensor(np.repeat(np.arange(len(multi_size)), multi_size)),
        multi_offsets=tensor(np.cumsum(multi_size) - multi_size),
        destination=tensor(edges.destination[starts][order]),
        relation=tensor(of_bag[order]),
        scores=scores,
        attribute_source=tensor(source),
        attribute_target=tensor(where),
        attribute_share=tensor(shares),
        attribute_shape=(num_targets, attribute_columns(relations)[-1].stop),
    )


def score_slots(relations: Sequence[Relation]) -> dict[str, tuple[list[int], list[int]]]:
    """Node type → (outgoing, incoming) relations by position: the order of a node's rows among the attention scores."""
    return {
        t: ([i for i, r in enumerate(relations) if r.source == t], [i for i, r in enumerate(relations) if r.destination == t])
        for t in NODE_TYPES
    }


def _bags(edges: Edges) -> tuple[np.ndarray, np.ndarray]:
    """First edge and size of each bag."""
    is_first = np.ones(len(edges.source), dtype=bool)
    is_first[1:] = (edges.destination[1:] != edges.destination[:-1]) | (edges.relation[1:] != edges.relation[:-1])
    starts = np.flatnonzero(is_first)
    return starts, np.diff(starts, append=len(is_first))


def _blocks(source: np.ndarray, entries: Tensor, *, num_bags: np.ndarray, size: np.ndarray) -> tuple[Block, ...]:
    """Cut the bags of every relation into blocks.

    Args:
        source: [Eₘ] row of the node table.
        entries: [Eₘ·H] edge times H, plus head, in the order in which they are reduced.
        num_bags: [R] bags of each relation.
        size: [bags] edges of each.
    """
    num_heads = len(entries) // max(len(source), 1)
    if len(size) * num_heads <= MAX_BAGS_AT_ONCE:
        return ()
    ends, blocks = np.cumsum([0, *size]).tolist(), []
    for relation, stop in enumerate(np.cumsum(num_bags).tolist()):
        start = stop - int(num_bags[relation])
        senders = _senders(source, entries, slice(ends[start], ends[stop]), num_bags=stop - start)
        step = BLOCK_BAGS if senders is None else max(stop - start, 1)
        for first in range(start, stop, step):
            last = min(first + step, stop)
            blocks.append(Block(relation, slice(first, last), slice(ends[first], ends[last]), senders))
    return tuple(blocks)


def _senders(source: np.ndarray, entries: Tensor, edges: slice, *, num_bags: int) -> Senders | None:
    nodes, place = np.unique(source[edges], return_inverse=True)
    if not 0 < FEW * len(nodes) <= num_bags:
        return None
    num_heads = len(entries) // len(source)
    own = entries[edges.start * num_heads : edges.stop * num_heads]
    edge = torch.div(own, num_heads, rounding_mode="floor") - edges.start
    row = own % num_heads * len(nodes) + torch.from_numpy(place).to(own.device).index_select(0, edge)
    return Senders(torch.from_numpy(nodes).to(own.device), row)


def _attribute_moves(
    relations: Sequence[Relation], relation: np.ndarray, first: np.ndarray, *, target: np.ndarray, share: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    columns = attribute_columns(relations)
    widths = np.array([c.stop - c.start for c in columns])[relation]
    starts = np.array([c.start for c in columns])[relation]
    channel = np.arange(int(widths.sum())) - np.repeat(np.cumsum(widths) - widths, widths)
    where = np.repeat(target * columns[-1].stop + starts, widths) + channel
    return np.repeat(first, widths) + channel, where, np.repeat(share, widths).astype(np.float32)


def _score_rows(
    edges: Edges, relations: tuple[Relation, ...], size: np.ndarray, *, num_nodes: Mapping[str, int], num_heads: int
) -> tuple[np.ndarray, ...]:
    slots, start = score_slots(relations), first_rows(num_nodes)
    num_slots = {t: len(outgoing) + len(incoming) for t, (outgoing, incoming) in slots.items()}
    base, total = {}, 0
    for t in NODE_TYPES:
        base[t] = total
        total += num_nodes[t] * num_slots[t]

    def rows(nodes: np.ndarray, types: Sequence[str], slot: Sequence[int]) -> np.ndarray:
        table = np.array([(start[t], num_slots[t], base[t] + s) for t, s in zip(types, slot, strict=True)])[relation]
        result: np.ndarray = (nodes - table[:, 0]) * table[:, 1] + table[:, 2]
        return result

    relation = np.array([relations.index(r) if r in relations else -1 for r in RELATIONS])[edges.relation]
    query = rows(edges.source, [r.source for r in relations], [slots[r.source][0].index(i) for i, r in enumerate(relations)])
    incoming = [len(slots[r.destination][0]) + slots[r.destination][1].index(i) for i, r in enumerate(relations)]
    key = rows(edges.destination, [r.destination for r in relations], incoming)
    by_head = np.repeat(size, num_heads)
    offsets = np.cumsum(by_head) - by_head
    head = np.tile(np.arange(num_heads), len(size))
    first = np.repeat(np.cumsum(size) - size, num_heads)
    edge = np.repeat(first - offsets, by_head) + np.arange(int(by_head.sum()))
    return query, key, edges.source[edge], edge * num_heads + np.repeat(head, by_head), offsets
