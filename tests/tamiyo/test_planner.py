"""Layouts are remembered by structure, and only by structure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from esper.leyline.graph import GraphBatch
from esper.tamiyo.layout import LAST_RELATIONS, READ_TYPES, RELATIONS
from esper.tamiyo.planner import GraphPlanner
from tests.tamiyo.graphs import SMALL, random_batch, random_graph

CPU = torch.device("cpu")


def with_other_features(batch: GraphBatch) -> GraphBatch:
    return replace(batch, nodes={t: np.abs(rows) * 0.5 for t, rows in batch.nodes.items()})


def test_equal_structures_share_a_layout_and_others_do_not() -> None:
    planner = GraphPlanner(SMALL)
    batch = random_batch(np.random.default_rng(0), 3)
    first = planner.of(batch, CPU)
    assert planner.of(with_other_features(batch), CPU) is first
    edge = ("layer", "feeds", "activation")
    turned = replace(batch, edges=dict(batch.edges) | {edge: np.zeros_like(batch.edges[edge])})
    assert planner.of(turned, CPU) is not first
    assert planner.of(batch.select(np.array([0, 1])), CPU) is not first
    assert len(planner) == 3


def test_where_the_border_between_graphs_lies_matters() -> None:
    planner = GraphPlanner(SMALL)
    rng = np.random.default_rng(1)
    small, large = random_graph(rng, num_layers=2), random_graph(rng, num_layers=4)
    one, other = GraphBatch.concatenate([small, large]), GraphBatch.concatenate([large, small])
    assert planner.of(one, CPU).layer_graph.tolist() == [0, 0, 1, 1, 1, 1]
    assert planner.of(other, CPU).layer_graph.tolist() == [0, 0, 0, 0, 1, 1]


def test_what_was_not_used_for_longest_is_forgotten() -> None:
    planner = GraphPlanner(SMALL, limit=2)
    rng = np.random.default_rng(2)
    a, b, c = (random_graph(rng, num_layers=n) for n in (2, 3, 4))
    of_a, of_b = planner.of(a, CPU), planner.of(b, CPU)
    assert planner.of(a, CPU) is of_a
    planner.of(c, CPU)
    assert len(planner) == 2
    assert planner.of(a, CPU) is of_a
    assert planner.of(b, CPU) is not of_b


def test_a_planner_may_remember_nothing() -> None:
    planner = GraphPlanner(SMALL, limit=0)
    batch = random_graph(np.random.default_rng(3))
    assert planner.of(batch, CPU) is not planner.of(batch, CPU)
    assert len(planner) == 0


def test_layers_without_a_difference_share_their_neighbourhoods() -> None:
    plan = GraphPlanner(SMALL).of(random_graph(np.random.default_rng(4), num_edges=3), CPU)
    assert plan.layers[0] is plan.layers[1]
    assert plan.layers[2] is not plan.layers[1]


def test_every_edge_is_in_one_neighbourhood() -> None:
    batch = random_batch(np.random.default_rng(5), 4)
    plan = GraphPlanner(SMALL).of(batch, CPU)
    for layer, relations in zip(plan.layers, (RELATIONS, RELATIONS, RELATIONS, LAST_RELATIONS), strict=True):
        assert len(layer.single_source) + len(layer.multi_source) == sum(batch.edges[r.edge].shape[1] for r in relations)
        assert len(layer.destination) == sum(layer.num_single) + sum(layer.num_multi)
        pairs = list(zip(layer.relation.tolist(), layer.destination.tolist(), strict=True))
        assert len(set(pairs)) == len(pairs)


def test_the_last_layer_writes_only_what_is_read() -> None:
    assert {r.destination for r in LAST_RELATIONS} == set(READ_TYPES)
    assert {r.destination for r in RELATIONS} > set(READ_TYPES)


def test_a_layout_made_while_acting_serves_learning() -> None:
    planner = GraphPlanner(SMALL)
    batch = random_batch(np.random.default_rng(6), 2)
    with torch.inference_mode():
        planner.tensors(batch, CPU)
    index = planner.of(batch, CPU).layers[0].destination
    x = torch.zeros(int(index.max()) + 1, requires_grad=True)
    x.index_select(0, index).sum().backward()
    assert x.grad is not None
    assert x.grad.sum() == len(index)
