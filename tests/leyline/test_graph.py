"""Batches of graphs: joining, selecting, and refusing what is incomplete."""

from __future__ import annotations

import pickle
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.leyline.alpha import AlphaMode
from esper.leyline.graph import EDGE_WIDTHS, NODE_WIDTHS, GraphBatch
from esper.leyline.masks import ActionMasks, GrowthLimits, SlotView, compute_masks
from esper.leyline.stages import SeedStage

NUM_SLOTS = 2
LIMITS = GrowthLimits(blueprints=(0,), max_seeds=2, max_fossils=2)


def make_graph(rng: np.random.Generator) -> GraphBatch:
    """One graph with random numbers of nodes and edges, some of them zero."""
    counts = {t: NUM_SLOTS if t == "seed" else int(rng.integers(0, 4)) for t in NODE_WIDTHS}
    edge_counts = {e: int(rng.integers(0, 5)) if counts[e[0]] and counts[e[2]] else 0 for e in EDGE_WIDTHS}
    stage = SeedStage.DORMANT if rng.random() < 0.5 else SeedStage.HOLDING
    view = SlotView(stage, 9, AlphaMode.HOLD, gate_open=True)
    return GraphBatch(
        nodes={t: rng.random((counts[t], width), dtype=np.float32) for t, width in NODE_WIDTHS.items()},
        num_nodes={t: np.array([counts[t]]) for t in NODE_WIDTHS},
        edges={
            e: np.stack([rng.integers(0, max(counts[e[0]], 1), edge_counts[e]), rng.integers(0, max(counts[e[2]], 1), edge_counts[e])])
            for e in EDGE_WIDTHS
        },
        edge_attr={e: rng.random((edge_counts[e], width), dtype=np.float32) for e, width in EDGE_WIDTHS.items()},
        num_edges={e: np.array([edge_counts[e]]) for e in EDGE_WIDTHS},
        masks=compute_masks([view] * NUM_SLOTS, LIMITS),
    )


def make_graphs(seed: int, count: int) -> list[GraphBatch]:
    rng = np.random.default_rng(seed)
    return [make_graph(rng) for _ in range(count)]


def assert_same(a: GraphBatch, b: GraphBatch) -> None:
    for name in ("nodes", "num_nodes", "edges", "edge_attr", "num_edges"):
        left, right = getattr(a, name), getattr(b, name)
        assert left.keys() == right.keys()
        for key in left:
            np.testing.assert_array_equal(left[key], right[key], err_msg=f"{name} {key}")
    for field in fields(ActionMasks):
        np.testing.assert_array_equal(getattr(a.masks, field.name), getattr(b.masks, field.name))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), index=st.lists(st.integers(0, 4), min_size=1, max_size=8))
def test_selecting_equals_joining_the_chosen_graphs(seed: int, index: list[int]) -> None:
    graphs = make_graphs(seed, 5)
    batch = GraphBatch.concatenate(graphs)
    assert_same(batch.select(np.array(index)), GraphBatch.concatenate([graphs[i] for i in index]))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), first=st.lists(st.integers(0, 3), min_size=1), data=st.data())
def test_selecting_twice_is_selecting_the_selection(seed: int, first: list[int], data: st.DataObject) -> None:
    second = data.draw(st.lists(st.integers(0, len(first) - 1), min_size=1))
    batch = GraphBatch.concatenate(make_graphs(seed, 4))
    assert_same(batch.select(np.array(first)).select(np.array(second)), batch.select(np.array(first)[second]))


def test_joining_is_associative_and_counts_graphs() -> None:
    a, b, c = make_graphs(0, 3)
    left = GraphBatch.concatenate([GraphBatch.concatenate([a, b]), c])
    assert_same(left, GraphBatch.concatenate([a, GraphBatch.concatenate([b, c])]))
    assert len(left) == 3
    assert_same(left.select(np.arange(3)), left)


def test_an_empty_selection_is_an_empty_batch() -> None:
    batch = GraphBatch.concatenate(make_graphs(0, 3)).select(np.array([], dtype=np.int64))
    assert len(batch) == 0
    assert batch.nodes["layer"].shape == (0, NODE_WIDTHS["layer"])
    assert all(edges.shape == (2, 0) for edges in batch.edges.values())


def test_a_missing_or_unknown_type_is_refused() -> None:
    (graph,) = make_graphs(0, 1)
    nodes = dict(graph.nodes)
    layer = nodes.pop("layer")
    with pytest.raises(ValueError, match="layer"):
        replace(graph, nodes=nodes)
    with pytest.raises(ValueError, match="weather"):
        replace(graph, nodes={**nodes, "layer": layer, "weather": layer})
    with pytest.raises(ValueError, match="monitors"):
        replace(graph, edges={e: v for e, v in graph.edges.items() if e[1] != "monitors"})


def test_a_batch_survives_pickling() -> None:
    batch = GraphBatch.concatenate(make_graphs(3, 2))
    assert_same(pickle.loads(pickle.dumps(batch)), batch)
