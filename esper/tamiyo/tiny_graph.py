"""Graphs shaped like those of a host, without content: what a network warms up on."""

from __future__ import annotations

import numpy as np

from esper.leyline.actions import HEAD_SIZES, Head
from esper.leyline.graph import EDGE_WIDTHS, NODE_WIDTHS, EdgeType, GraphBatch
from esper.leyline.masks import ActionMasks

NUM_LAYERS, NUM_SLOTS = 7, 3
"""Chosen so that no two numbers are equal, or 1, that differ in other hosts: compiled code would rely on it."""


def tiny_graphs(num_graphs: int) -> GraphBatch:
    """Graphs of zeros, each a chain of layers with slots behind the first ones, in which every action is legal."""
    each, step, slot = np.arange(NUM_LAYERS), np.arange(NUM_LAYERS - 1), np.arange(NUM_SLOTS)
    edges: dict[EdgeType, np.ndarray] = {
        ("layer", "connects", "layer"): np.stack([step, step + 1]),
        ("seed", "monitors", "layer"): np.stack([slot, slot]),
        ("layer", "feeds", "activation"): np.stack([each, each]),
        ("activation", "influences", "layer"): np.stack([each, np.minimum(each + 1, NUM_LAYERS - 1)]),
        ("parameter", "tunes", "layer"): np.stack([each, each]),
        ("seed", "allowed", "parameter"): np.stack([slot, slot]),
    }
    num_nodes = dict.fromkeys(NODE_WIDTHS, NUM_LAYERS) | {"seed": NUM_SLOTS}
    heads = {h.name.lower(): np.ones((num_graphs, size), dtype=bool) for h, size in HEAD_SIZES.items()}
    return GraphBatch(
        nodes={t: np.zeros((num_graphs * num_nodes[t], width), dtype=np.float32) for t, width in NODE_WIDTHS.items()},
        num_nodes={t: np.full(num_graphs, n) for t, n in num_nodes.items()},
        edges={e: np.tile(edges[e], num_graphs) for e in EDGE_WIDTHS},
        edge_attr={e: np.zeros((num_graphs * edges[e].shape[1], width), dtype=np.float32) for e, width in EDGE_WIDTHS.items()},
        num_edges={e: np.full(num_graphs, edges[e].shape[1]) for e in EDGE_WIDTHS},
        masks=ActionMasks(slot=np.ones((num_graphs, HEAD_SIZES[Head.OP], NUM_SLOTS), dtype=bool), **heads),
    )
