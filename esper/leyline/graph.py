"""The policy's observation on the wire: B heterogeneous graphs as flat NumPy arrays.

Every batch carries every node and edge type, with zero rows where a graph has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from esper.leyline.masks import ActionMasks

if TYPE_CHECKING:
    from collections.abc import Sequence

NODE_WIDTHS: Mapping[str, int] = {"layer": 128, "seed": 64, "activation": 32, "parameter": 16}
"""Raw channels of each node type."""

EdgeType = tuple[str, str, str]
EDGE_WIDTHS: Mapping[EdgeType, int] = {
    ("layer", "connects", "layer"): 5,
    ("seed", "monitors", "layer"): 5,
    ("layer", "feeds", "activation"): 3,
    ("activation", "influences", "layer"): 3,
    ("parameter", "tunes", "layer"): 4,
    ("seed", "allowed", "parameter"): 1,
}
"""Attributes of each stored relation; reverse and self relations are derived by the network."""


@dataclass(frozen=True, slots=True)
class GraphBatch:
    """B graphs. Rows of one graph are contiguous, graphs are in order, and edge indices count within their own graph."""

    nodes: Mapping[str, np.ndarray]
    """Node type → [N, F] float32."""
    num_nodes: Mapping[str, np.ndarray]
    """Node type → [B] int64."""
    edges: Mapping[EdgeType, np.ndarray]
    """Edge type → [2, E] int64, source above destination."""
    edge_attr: Mapping[EdgeType, np.ndarray]
    """Edge type → [E, A] float32."""
    num_edges: Mapping[EdgeType, np.ndarray]
    """Edge type → [B] int64."""
    masks: ActionMasks
    """Legal choices; seed node `i` of a graph is slot `i`."""

    def __post_init__(self) -> None:
        """Refuse a batch that lacks a type, since batching would silently renumber its graphs.

        Raises:
            ValueError: If a node or edge type is missing, or is one that the contract does not know.
        """
        for name, found, known in (
            ("node", self.nodes.keys(), NODE_WIDTHS.keys()),
            ("edge", self.edges.keys(), EDGE_WIDTHS.keys()),
        ):
            if found != known:
                raise ValueError(f"{name} types {sorted(map(str, found))} are not {sorted(map(str, known))}")

    def __len__(self) -> int:
        """Number of graphs B."""
        return len(self.masks.op)

    @staticmethod
    def concatenate(batches: Sequence[GraphBatch]) -> GraphBatch:
        """Join batches along B, in the order given."""
        return GraphBatch(
            nodes={t: np.concatenate([b.nodes[t] for b in batches]) for t in NODE_WIDTHS},
            num_nodes={t: np.concatenate([b.num_nodes[t] for b in batches]) for t in NODE_WIDTHS},
            edges={e: np.concatenate([b.edges[e] for b in batches], axis=1) for e in EDGE_WIDTHS},
            edge_attr={e: np.concatenate([b.edge_attr[e] for b in batches]) for e in EDGE_WIDTHS},
            num_edges={e: np.concatenate([b.num_edges[e] for b in batches]) for e in EDGE_WIDTHS},
            masks=ActionMasks.concatenate([b.masks for b in batches]),
        )

    def select(self, index: np.ndarray) -> GraphBatch:
        """Take the graphs at `index` [B'], in that order, repetitions allowed."""
        rows = {t: _ragged_rows(self.num_nodes[t], index) for t in NODE_WIDTHS}
        edge_rows = {e: _ragged_rows(self.num_edges[e], index) for e in EDGE_WIDTHS}
        return GraphBatch(
            nodes={t: self.nodes[t][rows[t]] for t in NODE_WIDTHS},
            num_nodes={t: self.num_nodes[t][index] for t in NODE_WIDTHS},
            edges={e: self.edges[e][:, edge_rows[e]] for e in EDGE_WIDTHS},
            edge_attr={e: self.edge_attr[e][edge_rows[e]] for e in EDGE_WIDTHS},
            num_edges={e: self.num_edges[e][index] for e in EDGE_WIDTHS},
            masks=self.masks.select(index),
        )


def _ragged_rows(counts: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Row numbers of the segments `index`, where segment `i` holds `counts[i]` consecutive rows."""
    starts = np.cumsum(counts) - counts
    chosen = counts[index]
    ends = np.cumsum(chosen)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts[index] - (ends - chosen), chosen) + np.arange(total)
