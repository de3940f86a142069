"""The smallest graph in which every relation has a single neighbour and several: what a network warms up on."""

from __future__ import annotations

import numpy as np

from esper.leyline.actions import HEAD_SIZES, Head
from esper.leyline.graph import EDGE_WIDTHS, NODE_WIDTHS, GraphBatch
from esper.leyline.masks import ActionMasks

NUM_NODES = 3
"""Of each type."""


def tiny_graph() -> GraphBatch:
    """One graph of zeros in which every action is legal."""
    ends = np.array([[0, 1, 2, 2], [0, 1, 1, 2]], dtype=np.int64)
    heads = {h.name.lower(): np.ones((1, size), dtype=bool) for h, size in HEAD_SIZES.items()}
    return GraphBatch(
        nodes={t: np.zeros((NUM_NODES, width), dtype=np.float32) for t, width in NODE_WIDTHS.items()},
        num_nodes={t: np.array([NUM_NODES]) for t in NODE_WIDTHS},
        edges=dict.fromkeys(EDGE_WIDTHS, ends),
        edge_attr={e: np.zeros((ends.shape[1], width), dtype=np.float32) for e, width in EDGE_WIDTHS.items()},
        num_edges={e: np.array([ends.shape[1]]) for e in EDGE_WIDTHS},
        masks=ActionMasks(slot=np.ones((1, HEAD_SIZES[Head.OP], NUM_NODES), dtype=bool), **heads),
    )
