"""Random graph batches of any shape, for tests of the network alone, and a small configuration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from esper.leyline.actions import HEAD_SIZES, Head
from esper.leyline.graph import EDGE_WIDTHS, NODE_WIDTHS, GraphBatch
from esper.leyline.masks import ActionMasks
from esper.tamiyo import GRAPH_SPEC, TamiyoGNNConfig
from esper.tamiyo.graph_spec import EMBEDDED, INDEX_SCALE

SMALL = TamiyoGNNConfig(
    hidden_dim=16, activation_dim=8, attention_dim=12, num_heads=2, dropout=0.0, layer_type_dim=4, activation_type_dim=3, blueprint_dim=5
)


def random_masks(rng: np.random.Generator, num_graphs: int, num_slots: int) -> ActionMasks:
    """Any masks that leave every head at least one choice."""

    def mask(*shape: int) -> np.ndarray:
        drawn = rng.random(shape) < 0.5
        forced = rng.integers(shape[-1], size=shape[:-1])
        np.put_along_axis(drawn, forced[..., None], True, axis=-1)
        return drawn

    sizes = {head: HEAD_SIZES[head] for head in Head if head is not Head.SLOT}
    op = mask(num_graphs, sizes[Head.OP])
    op[:, 0] = True
    return ActionMasks(
        op=op,
        slot=mask(num_graphs, sizes[Head.OP], num_slots),
        blueprint=mask(num_graphs, sizes[Head.BLUEPRINT]),
        style=mask(num_graphs, sizes[Head.STYLE]),
        tempo=mask(num_graphs, sizes[Head.TEMPO]),
        alpha_target=mask(num_graphs, sizes[Head.ALPHA_TARGET]),
        alpha_speed=mask(num_graphs, sizes[Head.ALPHA_SPEED]),
        alpha_curve=mask(num_graphs, sizes[Head.ALPHA_CURVE]),
    )


def random_graph(rng: np.random.Generator, *, num_layers: int = 5, num_slots: int = 3, num_edges: int = 9) -> GraphBatch:
    """One graph with random features, and random edges where both ends exist."""
    counts = {"layer": num_layers, "seed": num_slots, "activation": num_layers, "parameter": num_layers}
    nodes = {t: rng.normal(size=(counts[t], width)).astype(np.float32) for t, width in NODE_WIDTHS.items()}
    for node_type, embedded in EMBEDDED.items():
        for feature, _ in embedded:
            nodes[node_type][:, GRAPH_SPEC.channel(node_type, feature)] = rng.integers(0, 32, size=counts[node_type]) / INDEX_SCALE
    size = {e: num_edges if counts[e[0]] and counts[e[2]] else 0 for e in EDGE_WIDTHS}
    return GraphBatch(
        nodes=nodes,
        num_nodes={t: np.array([n]) for t, n in counts.items()},
        edges={e: np.stack([rng.integers(max(counts[t], 1), size=size[e]) for t in (e[0], e[2])]) for e in EDGE_WIDTHS},
        edge_attr={e: rng.normal(size=(size[e], width)).astype(np.float32) for e, width in EDGE_WIDTHS.items()},
        num_edges={e: np.array([n]) for e, n in size.items()},
        masks=random_masks(rng, 1, max(num_slots, 1)),
    )


def crowded_graph(rng: np.random.Generator, *, num_layers: int = 6, num_slots: int = 7) -> GraphBatch:
    """One graph in which every pair of nodes that a relation may join is joined once."""
    graph = random_graph(rng, num_layers=num_layers, num_slots=num_slots, num_edges=0)
    counts = {t: len(rows) for t, rows in graph.nodes.items()}
    edges = {e: np.indices((counts[e[0]], counts[e[2]])).reshape(2, -1) for e in EDGE_WIDTHS}
    return replace(
        graph,
        edges=edges,
        edge_attr={e: rng.normal(size=(index.shape[1], EDGE_WIDTHS[e])).astype(np.float32) for e, index in edges.items()},
        num_edges={e: np.array([index.shape[1]]) for e, index in edges.items()},
    )


def random_batch(rng: np.random.Generator, num_graphs: int, *, num_slots: int = 3) -> GraphBatch:
    """Graphs of different sizes with the same number of slots."""
    return GraphBatch.concatenate([random_graph(rng, num_layers=int(rng.integers(1, 7)), num_slots=num_slots) for _ in range(num_graphs)])


def without_edges(batch: GraphBatch) -> GraphBatch:
    """The same nodes, joined by nothing."""
    return replace(
        batch,
        edges={e: index[:, :0] for e, index in batch.edges.items()},
        edge_attr={e: attr[:0] for e, attr in batch.edge_attr.items()},
        num_edges={e: n * 0 for e, n in batch.num_edges.items()},
    )
