"""How much of an observation was measured: feature by feature, and by node type and relation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from esper.leyline.graph import EDGE_WIDTHS, NODE_WIDTHS
from esper.leyline.stages import SeedStage
from esper.tamiyo.features import STAGE_CODES
from esper.tamiyo.graph_spec import GRAPH_SPEC, INDEX_SCALE, family_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.leyline.graph import EdgeType, GraphBatch
    from esper.tamiyo.features import Feature

    Family = str | EdgeType
    """Node type or relation."""
    Untold = Mapping[Family, Mapping[str, np.ndarray]]
    """Family → feature → bool [N, C], or what can be broadcast to that: True where nobody told it and a default stands in the graph.
    N counts the nodes; of a relation, those that its edges leave."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Shares 0…1 of what could have been measured. Features that apply to no node are absent."""

    average: float
    """Mean over the features; 1 for an observation without nodes."""
    by_feature: Mapping[str, float]
    """`family.feature` → share of the nodes or edges that it applies to."""
    by_family: Mapping[str, float]
    """Node type or relation → share over its features, each weighted by the nodes or edges that it applies to."""


@dataclass(frozen=True, slots=True)
class _Probe:
    """Where the M channels of a family's features, its masks left out, show whether they were measured."""

    names: tuple[str, ...]
    sources: np.ndarray
    """[M] channel that is not 0 where this one was measured; the first one behind all channels is never 0."""
    borrowed: tuple[tuple[str, int], ...]
    """Node type and channel of what comes next: at the node of the same number."""
    starts: np.ndarray
    """First of each feature's channels among the M."""
    sizes: np.ndarray
    """Channels of each feature."""
    of_seed: np.ndarray
    """Which features apply to occupied slots only."""


def coverage_of(batch: GraphBatch, untold: Untold | None = None) -> Coverage:
    """What was measured in a batch of graphs.

    A channel with a mask counts where the mask is set, an index or a yes-or-no where it is not 0, any other always, unless `untold`
    has it. What belongs to a seed counts over occupied slots only.

    Args:
        batch: One graph or more.
        untold: What a graph cannot show: defaults that stand where the packet behind it told nothing. Only beside a single graph;
            training tells everything that has no mask.
    """
    stage = np.rint(GRAPH_SPEC.read("seed", batch.nodes["seed"], "stage")[:, 0] * INDEX_SCALE)
    is_occupied = stage != STAGE_CODES[SeedStage.DORMANT]
    by_feature: dict[str, float] = {}
    by_family: dict[str, float] = {}
    for family, probe in _PROBES.items():
        measured = _measured(batch, family, probe, {} if untold is None else untold.get(family, {}))
        occupied = measured[is_occupied] if family == "seed" else measured
        counts = np.where(probe.of_seed, len(occupied), len(measured))
        shares = np.where(probe.of_seed, _shares(occupied, probe), _shares(measured, probe))
        name = family_name(family)
        by_feature |= {f"{name}.{n}": float(s) for n, s, count in zip(probe.names, shares, counts, strict=True) if count}
        if counts.any():
            by_family[name] = float(shares @ counts / counts.sum())
    return Coverage(float(np.mean(list(by_feature.values()))) if by_feature else 1.0, by_feature, by_family)


def _measured(batch: GraphBatch, family: Family, probe: _Probe, untold: Mapping[str, np.ndarray]) -> np.ndarray:
    """[N, M] nodes or edges by channels of the probe."""
    rows = batch.nodes[family] if isinstance(family, str) else batch.edge_attr[family]
    shown = [rows != 0.0, np.ones((len(rows), 1), dtype=bool)]
    shown += [batch.nodes[node_type][:, channel, None] != 0.0 for node_type, channel in probe.borrowed]
    measured: np.ndarray = np.concatenate(shown, axis=1)[:, probe.sources]
    for name, gaps in untold.items():
        feature = probe.names.index(name)
        where = slice(probe.starts[feature], probe.starts[feature] + probe.sizes[feature])
        measured[:, where] &= ~(gaps if isinstance(family, str) or len(gaps) == 1 else gaps[batch.edges[family][0]])
    return measured


def _shares(measured: np.ndarray, probe: _Probe) -> np.ndarray:
    """Share of each feature's channels that were measured, over all rows; 0 without rows."""
    if not len(measured):
        return np.zeros(len(probe.names))
    shares: np.ndarray = np.add.reduceat(measured.mean(axis=0), probe.starts) / probe.sizes
    return shares


def _probe(features: Sequence[Feature], ranges: Mapping[str, slice], width: int) -> _Probe:
    masks = {feature.mask for feature in features}
    counted = [feature for feature in features if feature.name not in masks]
    lenders = list(dict.fromkeys(feature.told_by for feature in counted if feature.told_by is not None))
    columns = [_sources(feature, ranges, width, lenders) for feature in counted]
    sizes = np.array([len(c) for c in columns])
    return _Probe(
        names=tuple(feature.name for feature in counted),
        sources=np.array([c for group in columns for c in group], dtype=np.int64),
        borrowed=tuple((node_type, GRAPH_SPEC.channel(node_type, name)) for node_type, name in lenders),
        starts=np.cumsum(sizes) - sizes,
        sizes=sizes,
        of_seed=np.array([feature.of_seed for feature in counted]),
    )


def _sources(feature: Feature, ranges: Mapping[str, slice], width: int, lenders: Sequence[tuple[str, str]]) -> list[int]:
    """For each channel of a feature, the one that shows whether it was measured."""
    if feature.told_by is not None:
        return [width + 1 + lenders.index(feature.told_by)] * feature.size
    if feature.is_index or feature.zero_is_unknown:
        return list(range(ranges[feature.name].start, ranges[feature.name].stop))
    if not feature.mask:
        return [width] * feature.size
    mask = ranges[feature.mask]
    masked = list(range(mask.start + feature.mask_start, min(mask.stop, mask.start + feature.mask_start + feature.size)))
    return masked + [width] * (feature.size - len(masked))


_PROBES: dict[Family, _Probe] = {
    t: _probe(features, GRAPH_SPEC.channels[t], NODE_WIDTHS[t]) for t, features in GRAPH_SPEC.nodes.items()
} | {e: _probe(features, GRAPH_SPEC.edge_channels[e], EDGE_WIDTHS[e]) for e, features in GRAPH_SPEC.edges.items()}
