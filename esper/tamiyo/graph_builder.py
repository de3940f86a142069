"""From the reports of K trials to the policy's observation.

What was not measured is zero in its channel and zero in its mask; nothing that is not finite leaves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esper.leyline.graph import EDGE_WIDTHS, NODE_WIDTHS, EdgeType, GraphBatch
from esper.leyline.masks import ActionMasks, GrowthLimits
from esper.tamiyo.graph_spec import GRAPH_SPEC, METRIC_CHANNELS
from esper.tamiyo.host_graph import HostGraphs
from esper.tamiyo.layer_features import LayerMeasurements, host_wide, layer_latency, write_measurements, write_optimizers
from esper.tamiyo.registries import Registries
from esper.tamiyo.scaling import bounded
from esper.tamiyo.seed_features import SeedNodes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.leyline.reports import TrialReport


_CARRIED: dict[EdgeType, tuple[str, ...]] = {
    ("layer", "connects", "layer"): ("latency_ms", "latency_ms_mask"),
    ("seed", "monitors", "layer"): (
        "monitoring_frequency", "alpha", "adaptation_trigger_threshold", "adaptation_trigger_threshold_mask",
    ),
    ("seed", "allowed", "parameter"): ("may_act",),
}  # fmt: skip
"""Attributes that an edge takes from the node it leaves."""


class GraphBuilder:
    """Builds observations; keeps nothing but the constant parts of the hosts it has seen.

    builder = GraphBuilder(limits, steps_per_epoch=40)
    batch = builder.build([trial.report for trial in trials])
    """

    def __init__(
        self,
        limits: GrowthLimits,
        *,
        steps_per_epoch: int,
        registries: Registries | None = None,
        policy_version: str | None = None,
    ):
        """Build for trials under `limits`.

        Args:
            limits: What the trials allow.
            steps_per_epoch: Host batches in an epoch.
            registries: Names that the policy knows by index; the standard ones if not given.
            policy_version: Version of the policy that will decide, to tell its own seeds from those of others.
        """
        self._limits = limits
        self._steps_per_epoch = steps_per_epoch
        self._registries = registries or Registries.standard()
        self._hosts = HostGraphs(self._registries)
        self._seeds = SeedNodes(self._registries, policy_version)

    def build(self, reports: Sequence[TrialReport]) -> GraphBatch:
        """[K] reports with the same number of slots → a batch of K graphs.

        Raises:
            ValueError: If there is no report, the numbers of slots differ, or a slot follows a layer that is not there.
        """
        if len({len(report.slots) for report in reports}) != 1:
            raise ValueError(f"one observation needs reports with one number of slots, got {[len(r.slots) for r in reports]}")
        hosts = [self._hosts.of(report) for report in reports]
        masks = ActionMasks.concatenate([report.masks for report in reports])
        num_nodes = {t: np.array([len(h.nodes[t]) for h in hosts]) for t in NODE_WIDTHS}
        num_edges = {e: np.array([h.edges[e].shape[1] for h in hosts]) for e in EDGE_WIDTHS}
        nodes = {t: np.concatenate([h.nodes[t] for h in hosts]) for t in NODE_WIDTHS}
        edges = {e: np.concatenate([h.edges[e] for h in hosts], axis=1) for e in EDGE_WIDTHS}
        edge_attr = {e: np.concatenate([h.edge_attr[e] for h in hosts]) for e in EDGE_WIDTHS}
        with np.errstate(all="ignore"):
            layer_graph, seed_graph = (np.repeat(np.arange(len(reports)), num_nodes[t]) for t in ("layer", "seed"))
            wide = host_wide(reports, masks, self._limits, steps_per_epoch=self._steps_per_epoch)
            nodes["layer"] += wide[layer_graph]
            measured = LayerMeasurements.of(reports)
            for edge, attributes in write_measurements(nodes, measured, layer_graph).items():
                edge_attr[edge] += attributes.astype(np.float32)
            write_optimizers(nodes["parameter"], reports, layer_graph, self._registries)
            of_source = {
                "layer": layer_latency(measured, layer_graph),
                "seed": self._seeds.write(nodes["seed"], reports, masks, seed_graph),
            }
            for edge in _CARRIED:
                graph = np.repeat(np.arange(len(reports)), num_edges[edge])
                source = edges[edge][0] + (np.cumsum(num_nodes[edge[0]]) - num_nodes[edge[0]])[graph]
                named = {name: of_source[edge[0]][name][source] for name in _CARRIED[edge]}
                GRAPH_SPEC.write_edges(edge, edge_attr, **named)
            metrics = nodes["layer"][:, METRIC_CHANNELS].copy()
            nodes = {t: bounded(x) for t, x in nodes.items()}
            nodes["layer"][:, METRIC_CHANNELS] = metrics
        return GraphBatch(
            nodes=nodes,
            num_nodes=num_nodes,
            edges=edges,
            edge_attr={e: bounded(x) for e, x in edge_attr.items()},
            num_edges=num_edges,
            masks=masks,
        )
