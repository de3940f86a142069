"""Observations of a chosen size: real ones of an untrained host, and ones with more edges than a chain of layers has."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.workloads import SEEDS, assemble
from esper.distributed.config import config_from
from esper.kasmina.config import growth_limits
from esper.kasmina.hosts import CNNHost, CNNHostConfig
from esper.leyline.actions import HEAD_SIZES, Head
from esper.leyline.graph import EDGE_WIDTHS, NODE_WIDTHS, GraphBatch
from esper.leyline.masks import ActionMasks
from esper.tamiyo import GraphBuilder
from esper.tolaria.data import Dataset
from esper.tolaria.tasks.base import Context, Episode
from esper.tolaria.trial import EpisodeRequest
from esper.urza.catalogue import Catalogue

if TYPE_CHECKING:
    from esper.leyline.reports import TrialReport

NUM_SAMPLES = 64


def host_graph(*, num_layers: int, num_slots: int) -> GraphBatch:
    """One graph, what the policy sees of a fresh convolutional host: 3 nodes for each layer, the head included, and 1 for each slot."""
    builder, report = host_report(num_layers=num_layers, num_slots=num_slots)
    return builder.build([report])


def host_report(*, num_layers: int, num_slots: int) -> tuple[GraphBuilder, TrialReport]:
    """A fresh convolutional host's first report, and what builds its graph."""
    stages = num_layers - 1
    slots = tuple(f"r0c{i}" for i in np.linspace(0, stages - 1, num_slots).round().astype(int).tolist())
    config = config_from({"growth": {"slots": slots}})
    with SEEDS.child("host").torch_scope():
        host = CNNHost(CNNHostConfig(widths=(4,) * stages, kernels=(3,) * stages, pools=(1,) * stages))
        x, y = torch.randn(NUM_SAMPLES, 1, 8, 8), torch.randint(10, (NUM_SAMPLES,))
    context = Context("noise", "deep", 1.0)
    episode = Episode(context, Dataset(x, y, x, y, x, y, num_classes=10, kind="image"), host)
    trial, _ = assemble(config, episode, EpisodeRequest(0, 0, "train", SEEDS.child("trial"), context))
    limits = growth_limits(config.growth, Catalogue.standard(), host.family)
    return GraphBuilder(limits, steps_per_epoch=1), trial.reset()


def large_graph(rng: np.random.Generator, *, num_nodes: int = 10_000, num_edges: int = 50_000, num_slots: int = 100) -> GraphBatch:
    """One graph in the shape of a deep host, a chain of layers with an activation and a parameter node each, and random further edges."""
    num_layers = (num_nodes - num_slots) // 3
    counts = {"layer": num_nodes - num_slots - 2 * num_layers, "seed": num_slots, "activation": num_layers, "parameter": num_layers}
    each, step = np.arange(num_layers), np.arange(num_layers - 1)
    slot, at_layer = np.arange(num_slots), rng.integers(num_layers, size=num_slots)
    edges = {
        ("layer", "connects", "layer"): np.stack([step, step + 1]),
        ("seed", "monitors", "layer"): np.stack([slot, at_layer]),
        ("layer", "feeds", "activation"): np.stack([each, each]),
        ("activation", "influences", "layer"): np.stack([step, step + 1]),
        ("parameter", "tunes", "layer"): np.stack([each, each]),
        ("seed", "allowed", "parameter"): np.stack([slot, at_layer]),
    }
    heads = {h.name.lower(): np.ones((1, size), dtype=bool) for h, size in HEAD_SIZES.items()}
    chain = GraphBatch(
        nodes={t: rng.random((counts[t], width), dtype=np.float32) for t, width in NODE_WIDTHS.items()},
        num_nodes={t: np.array([n]) for t, n in counts.items()},
        edges=edges,
        edge_attr={e: rng.random((index.shape[1], EDGE_WIDTHS[e]), dtype=np.float32) for e, index in edges.items()},
        num_edges={e: np.array([index.shape[1]]) for e, index in edges.items()},
        masks=ActionMasks(slot=np.ones((1, HEAD_SIZES[Head.OP], num_slots), dtype=bool), **heads),
    )
    return with_edges(chain, num_edges, rng)


def with_edges(graph: GraphBatch, num_edges: int, rng: np.random.Generator) -> GraphBatch:
    """One graph, with edges added at random until there are `num_edges`.

    Raises:
        ValueError: If the graph has more by itself.
    """
    missing = num_edges - sum(index.shape[1] for index in graph.edges.values())
    if missing < 0:
        raise ValueError(f"the graph has {num_edges - missing} edges, {num_edges} were wanted")
    extra = dict(zip(EDGE_WIDTHS, rng.multinomial(missing, [1 / len(EDGE_WIDTHS)] * len(EDGE_WIDTHS)).tolist(), strict=True))
    ends = {e: np.stack([rng.integers(len(graph.nodes[t]), size=extra[e]) for t in (e[0], e[2])]) for e in EDGE_WIDTHS}
    return replace(
        graph,
        edges={e: np.concatenate([graph.edges[e], ends[e]], axis=1) for e in EDGE_WIDTHS},
        edge_attr={
            e: np.concatenate([graph.edge_attr[e], rng.random((extra[e], width), dtype=np.float32)]) for e, width in EDGE_WIDTHS.items()
        },
        num_edges={e: graph.num_edges[e] + extra[e] for e in EDGE_WIDTHS},
    )


def repeated(graph: GraphBatch, times: int) -> GraphBatch:
    """The same graph so many times, as a batch."""
    return graph.select(np.zeros(times, dtype=np.int64))
