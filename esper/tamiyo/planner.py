"""From flat graphs to what the network reads; the layout is kept per structure, because hosts keep theirs for whole episodes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from esper.leyline.graph import EDGE_WIDTHS, EdgeType, GraphBatch
from esper.tamiyo.config import NUM_SAGE_LAYERS
from esper.tamiyo.encoders import Lookups
from esper.tamiyo.layout import LAST_RELATIONS, NODE_TYPES, RELATIONS, Neighbourhoods, all_edges, in_large_graph, neighbourhoods, thinned

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper.tamiyo.config import TamiyoGNNConfig

MAX_KEPT_EDGES = 1_000_000
"""Edges in all kept layouts together; about a hundred bytes each for every message-passing layer."""


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """Structure of B graphs."""

    num_nodes: tuple[int, ...]
    """In all graphs, in the order of `NODE_TYPES`."""
    layers: tuple[Neighbourhoods, ...]
    """One per message-passing layer; layers alike share one."""
    is_repeated: tuple[bool, ...]
    """Whether a layer shares that of the layer before. Told, because compiled code would ask for the very objects it has seen."""
    offsets: Tensor
    """[N] first of each node's rows in the joint table of indices."""
    layer_graph: Tensor
    """[N of type layer] graph of each layer node."""
    layer_share: Tensor
    """[B, 1] weight of a layer node in its graph's mean; 0 for a graph without layers."""

    @property
    def num_edges(self) -> int:
        """Edges kept in memory."""
        return sum(len(layer.single_source) + len(layer.multi_source) for layer in {id(n): n for n in self.layers}.values())


@dataclass(frozen=True, slots=True)
class GraphTensors:
    """B graphs, ready for the network."""

    x: dict[str, Tensor]
    """Node type → [N, F] float32, in the order of `NODE_TYPES`."""
    rows: Tensor
    """Rows of the encoders' joint table that the nodes' indices stand for, node by node."""
    attributes: Tensor
    """[V] float32: attributes of all edges, one stored relation's after the other's."""
    plan: GraphPlan


class GraphPlanner:
    """Lays out graphs, and remembers the layouts that were used last."""

    def __init__(self, config: TamiyoGNNConfig, *, limit: int = 64):
        """Remember at most `limit` layouts.

        Args:
            config: Neighbour limits and attention heads of the network.
            limit: Layouts to remember; 0 remembers none.
        """
        self.lookups = Lookups(config)
        self._limits = config.neighbour_limits
        self._limited_from = config.limited_from_nodes
        self._num_heads = config.num_heads
        self._limit = limit
        self._kept: dict[tuple[object, ...], GraphPlan] = {}
        self._num_edges = 0

    def __len__(self) -> int:
        """Layouts remembered."""
        return len(self._kept)

    def tensors(self, batch: GraphBatch, device: torch.device) -> GraphTensors:
        """Bring a batch to the device, with its layout."""
        stored = np.concatenate([batch.edge_attr[e].ravel() for e in EDGE_WIDTHS])
        return GraphTensors(
            x={t: to_device(batch.nodes[t], device) for t in NODE_TYPES},
            rows=to_device(self.lookups.rows(batch.nodes), device),
            attributes=to_device(stored, device),
            plan=self.of(batch, device),
        )

    def of(self, batch: GraphBatch, device: torch.device) -> GraphPlan:
        """The layout of a batch's structure."""
        key = (
            device,
            *(batch.num_nodes[t].tobytes() for t in NODE_TYPES),
            *(batch.num_edges[e].tobytes() for e in EDGE_WIDTHS),
            *(batch.edges[e].tobytes() for e in EDGE_WIDTHS),
        )
        plan = self._kept.pop(key, None)
        if plan is None:
            starts = {t: np.cumsum(n) - n for t, n in batch.num_nodes.items()}
            index = {}
            for edge, ends in batch.edges.items():
                graph = np.repeat(np.arange(len(batch)), batch.num_edges[edge])
                index[edge] = np.stack([ends[0] + starts[edge[0]][graph], ends[1] + starts[edge[2]][graph]])
            graph_of = {t: np.repeat(np.arange(len(batch)), batch.num_nodes[t]) for t in NODE_TYPES}
            plan = self.plan(index, graph_of=graph_of, num_graphs=len(batch), device=device)
            self._num_edges += plan.num_edges
        self._kept[key] = plan
        while self._kept and (len(self._kept) > self._limit or self._num_edges > MAX_KEPT_EDGES):
            self._num_edges -= self._kept.pop(next(iter(self._kept))).num_edges
        return plan

    @torch.inference_mode(mode=False)
    def plan(
        self,
        edge_index: Mapping[EdgeType, np.ndarray],
        *,
        graph_of: Mapping[str, np.ndarray],
        num_graphs: int,
        device: torch.device,
    ) -> GraphPlan:
        """Lay out graphs whose edges count through all of them; tensors are fit for training wherever they are made.

        Args:
            edge_index: Stored relation → [2, E].
            graph_of: Node type → [N] graph of each node.
            num_graphs: Number of graphs B.
            device: Where the tensors go.
        """
        num_nodes = {t: len(graph_of[t]) for t in NODE_TYPES}
        edges = all_edges(edge_index, num_nodes)
        is_limited = in_large_graph(graph_of, num_graphs, from_nodes=self._limited_from)
        made: dict[tuple[bool, bool, int], Neighbourhoods] = {}
        layers = []
        for layer, limit in enumerate(self._limits):
            is_last, has_attention = layer == len(self._limits) - 1, layer >= NUM_SAGE_LAYERS
            kept = thinned(edges, limit, is_limited)
            key = (is_last, has_attention, len(kept.source))
            if key not in made:
                relations = LAST_RELATIONS if is_last else RELATIONS
                heads = self._num_heads if has_attention else None
                made[key] = neighbourhoods(kept, relations, num_nodes=num_nodes, num_heads=heads, device=device)
            layers.append(made[key])
        layer_graph = graph_of["layer"]
        size = np.bincount(layer_graph, minlength=num_graphs)
        share = np.where(size > 0, 1.0 / np.maximum(size, 1), 0.0).astype(np.float32)[:, None]
        return GraphPlan(
            num_nodes=tuple(num_nodes[t] for t in NODE_TYPES),
            layers=tuple(layers),
            is_repeated=(False, *(one is other for one, other in pairwise(layers))),
            offsets=torch.from_numpy(self.lookups.offsets(num_nodes)).to(device),
            layer_graph=torch.from_numpy(layer_graph).to(device),
            layer_share=torch.from_numpy(share).to(device),
        )


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """An array as a tensor; on the CPU it shares memory, to a GPU it travels pinned and without waiting."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
