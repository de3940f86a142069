"""Which channel of which node means what. The builder writes by these names, the network embeds by them.

Wall-clock measurements stay masked in training: an observation depends on the trial alone, so that equal seeds give equal
runs. `python -m esper.tamiyo` prints every feature.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from esper.leyline.graph import EDGE_WIDTHS, NODE_WIDTHS, EdgeType
from esper.tamiyo.features import EDGE_FEATURES, METRICS, NODE_FEATURES, Feature

if TYPE_CHECKING:
    from collections.abc import Sequence

INDEX_SCALE = 64
"""A categorical index travels as index / 64: exact in float32, bounded, and decoded by the network."""
FEATURE_LIMIT = 5.0
"""No feature is larger in magnitude, but for the metrics that travel unscaled."""
METRIC_LIMIT = 1e9
"""No metric is larger in magnitude."""
EMPTY_BLUEPRINT = 0
"""Blueprint index of an empty slot; the blueprint at place p has index p + 1."""


@dataclass(frozen=True)
class GraphSpec:
    """Named channel ranges of every node type, and named attributes of every relation."""

    nodes: Mapping[str, tuple[Feature, ...]]
    edges: Mapping[EdgeType, tuple[Feature, ...]]

    @cached_property
    def channels(self) -> Mapping[str, Mapping[str, slice]]:
        """Node type → feature → its channels."""
        return {node_type: _ranges(node_type, features, NODE_WIDTHS[node_type]) for node_type, features in self.nodes.items()}

    @cached_property
    def edge_channels(self) -> Mapping[EdgeType, Mapping[str, slice]]:
        """Relation → attribute → its channels."""
        return {edge: _ranges(edge, features, EDGE_WIDTHS[edge]) for edge, features in self.edges.items()}

    @cached_property
    def digest(self) -> str:
        """SHA-256 over what each channel means and how it is scaled; weights fit no other layout."""
        families = [*self.nodes.items(), *((family_name(edge), features) for edge, features in self.edges.items())]
        rows = [[family, f.name, f.size, f.scaling, f.mask, f.table, f.num_codes] for family, features in families for f in features]
        return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()

    def feature(self, node_type: str, name: str) -> Feature:
        """What a feature is.

        Raises:
            KeyError: If the node type has no such feature.
        """
        for feature in self.nodes[node_type]:
            if feature.name == name:
                return feature
        raise KeyError(name)

    def channel(self, node_type: str, name: str) -> int:
        """Number of a feature's first channel.

        Raises:
            KeyError: If the node type has no such feature.
        """
        start: int = self.channels[node_type][name].start
        return start

    def write(self, node_type: str, rows: np.ndarray, **features: np.ndarray) -> None:
        """Put named features into `rows` [N, F]: [N] for one channel, [N, C] for several."""
        for name, values in features.items():
            where = self.channels[node_type][name]
            rows[:, where] = values[:, None] if values.ndim == 1 else values

    def write_edges(self, edge: EdgeType, rows: Mapping[EdgeType, np.ndarray], **attributes: np.ndarray) -> None:
        """Put named attributes [E] of a relation into its rows [E, A]."""
        for name, values in attributes.items():
            rows[edge][:, self.edge_channels[edge][name].start] = values

    def read(self, node_type: str, rows: np.ndarray, name: str) -> np.ndarray:
        """The channels [N, C] of one feature."""
        return rows[:, self.channels[node_type][name]]

    def table(self, coverage: Mapping[str, float] | None = None) -> str:
        """Every feature as a Markdown table.

        Args:
            coverage: Share of nodes in which each feature was measured, by `family.feature`, to be shown in a column of its own.
        """
        rows = [["node or relation", "channels", "feature", "meaning", "scaling", "source", "mask", "in training"]]
        if coverage is not None:
            rows[0].append("measured")
        families = [(t, self.nodes[t], self.channels[t]) for t in self.nodes]
        families += [(family_name(e), self.edges[e], self.edge_channels[e]) for e in self.edges]
        for family, features, ranges in families:
            for feature in features:
                rows.append(_table_row(family, feature, ranges[feature.name], coverage))
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def family_name(family: str | EdgeType) -> str:
    """Name of a node type or relation in coverage maps and tables."""
    return family if isinstance(family, str) else "-".join(family)


def _ranges(family: str | EdgeType, features: Sequence[Feature], width: int) -> Mapping[str, slice]:
    ends = np.cumsum([feature.size for feature in features]).tolist()
    if ends[-1] > width:
        raise ValueError(f"{family} has {width} channels, its features need {ends[-1]}")
    return {feature.name: slice(end - feature.size, end) for feature, end in zip(features, ends, strict=True)}


def _table_row(family: str, feature: Feature, where: slice, coverage: Mapping[str, float] | None) -> list[str]:
    channels = f"{where.start}" if feature.size == 1 else f"{where.start}–{where.stop - 1}"
    mask = feature.mask or ("0" if feature.is_index or feature.zero_is_unknown else "")
    row = [family, channels, feature.name, feature.meaning, feature.scaling, feature.source, mask, "yes" if feature.in_training else "no"]
    if coverage is not None:
        share = coverage.get(f"{family}.{feature.name}")
        row.append("" if share is None else f"{share:.0%}")
    return [cell.replace("|", "\\|") for cell in row]


GRAPH_SPEC = GraphSpec(NODE_FEATURES, EDGE_FEATURES)
"""The layout of observations; `esper.leyline.graph` fixes the widths that it fills."""

EMBEDDED = {t: tuple((f.name, f.table) for f in features if f.table) for t, features in NODE_FEATURES.items()}
"""Node type → (feature, table) of the index channels that the network embeds."""
ONE_HOT = {t: tuple((f.name, f.num_codes) for f in features if f.num_codes) for t, features in NODE_FEATURES.items()}
"""Node type → (feature, n) of the code channels that the network spreads over n channels: code c > 0 sets channel c − 1."""
MASKS: Mapping[str, tuple[int, ...]] = {
    t: tuple(
        channel
        for name in sorted({f.mask for f in features if f.mask})
        for channel in range(GRAPH_SPEC.channels[t][name].start, GRAPH_SPEC.channels[t][name].stop)
    )
    for t, features in NODE_FEATURES.items()
}
"""Node type → channels that say whether something was measured."""
METRIC_CHANNELS = slice(GRAPH_SPEC.channel("layer", METRICS[0]), GRAPH_SPEC.channel("layer", METRICS[-1]) + 1)
"""Channels of a layer node that hold the unscaled metrics, in the order of `METRICS`."""
METRIC_MASKS = slice(GRAPH_SPEC.channel("layer", f"{METRICS[0]}_mask"), GRAPH_SPEC.channel("layer", f"{METRICS[-1]}_mask") + 1)
"""Channels of their masks."""

if {e: sum(f.size for f in features) for e, features in EDGE_FEATURES.items()} != dict(EDGE_WIDTHS):
    raise ValueError("edge attributes do not fill the widths of the graph contract")
