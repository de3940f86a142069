"""From the reports of K trials to the policy's observation.

What was not measured is zero in its channel and zero in its mask; nothing that is not finite leaves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esper.leyline.graph import EDGE_WIDTHS, NODE_WIDTHS, GraphBatch
from esper.leyline.masks import ActionMasks, GrowthLimits
from esper.tamiyo.graph_spec import GRAPH_SPEC
from esper.tamiyo.host_graph import HostGraphs
from esper.tamiyo.layer_features import LayerMeasurements, host_wide, write_measurements
from esper.tamiyo.scaling import bounded
from esper.tamiyo.seed_features import write_seeds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.leyline.reports import TrialReport


class GraphBuilder:
    """Builds observations; keeps nothing but the constant parts of the hosts it has seen.

    builder = GraphBuilder(limits, steps_per_epoch=40)
    batch = builder.build([trial.report for trial in trials])
    """

    def __init__(self, limits: GrowthLimits, *, steps_per_epoch: int):
        """Build for trials under `limits`, whose epochs have `steps_per_epoch` host batches."""
        self._limits = limits
        self._steps_per_epoch = steps_per_epoch
        self._hosts = HostGraphs()

    def build(self, reports: Sequence[TrialReport]) -> GraphBatch:
        """[K] reports with the same number of slots → a batch of K graphs.

        Raises:
            ValueError: If there is no report, or the numbers of slots differ.
        """
        if len({len(report.slots) for report in reports}) != 1:
            raise ValueError(f"one observation needs reports with one number of slots, got {[len(r.slots) for r in reports]}")
        hosts = [self._hosts.of(report) for report in reports]
        masks = ActionMasks.concatenate([report.masks for report in reports])
        num_nodes = {t: np.array([len(h.nodes[t]) for h in hosts]) for t in NODE_WIDTHS}
        nodes = {t: np.concatenate([h.nodes[t] for h in hosts]) for t in NODE_WIDTHS}
        edge_attr = {e: np.concatenate([h.edge_attr[e] for h in hosts]) for e in EDGE_WIDTHS}
        wide = host_wide(reports, masks, self._limits, steps_per_epoch=self._steps_per_epoch)
        layer_graph, seed_graph = (np.repeat(np.arange(len(reports)), num_nodes[t]) for t in ("layer", "seed"))
        nodes["layer"] += wide[layer_graph]
        learning_rate = GRAPH_SPEC.read("layer", nodes["layer"], "learning_rate")[:, 0]
        changing = write_measurements(nodes, LayerMeasurements.of(reports), layer_graph, learning_rate)
        changing |= write_seeds(nodes["seed"], reports, masks, seed_graph)
        for edge, attributes in changing.items():
            edge_attr[edge] += attributes.astype(np.float32)
        return GraphBatch(
            nodes={t: bounded(x) for t, x in nodes.items()},
            num_nodes=num_nodes,
            edges={e: np.concatenate([h.edges[e] for h in hosts], axis=1) for e in EDGE_WIDTHS},
            edge_attr={e: bounded(x) for e, x in edge_attr.items()},
            num_edges={e: np.array([h.edges[e].shape[1] for h in hosts]) for e in EDGE_WIDTHS},
            masks=masks,
        )
