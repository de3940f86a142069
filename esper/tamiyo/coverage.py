"""How much of an observation was measured: feature by feature, and by node type and relation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from esper.leyline.stages import SeedStage
from esper.tamiyo.features import STAGE_CODES
from esper.tamiyo.graph_spec import GRAPH_SPEC, INDEX_SCALE, family_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.leyline.graph import EdgeType, GraphBatch
    from esper.tamiyo.features import Feature


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
    """Where a family's features show whether they were measured."""

    names: tuple[str, ...]
    columns: np.ndarray
    """Column of every single check, feature by feature."""
    starts: np.ndarray
    """First check of each feature."""
    checks: np.ndarray
    """Checks of each feature."""
    always: np.ndarray
    """Channels of each feature that need no check."""
    of_seed: np.ndarray
    """Which features apply to occupied slots only."""


def coverage_of(batch: GraphBatch) -> Coverage:
    """What was measured in a batch of graphs.

    A channel with a mask counts where the mask is set, an index or a yes-or-no where it is not 0, any other always. What belongs
    to a seed counts over occupied slots only.
    """
    stage = np.rint(GRAPH_SPEC.read("seed", batch.nodes["seed"], "stage")[:, 0] * INDEX_SCALE)
    by_feature: dict[str, float] = {}
    by_family: dict[str, float] = {}
    for family, probe in _PROBES.items():
        rows = batch.nodes[family] if isinstance(family, str) else batch.edge_attr[family]
        occupied = rows[stage != STAGE_CODES[SeedStage.DORMANT]] if family == "seed" else rows
        counts = np.where(probe.of_seed, len(occupied), len(rows))
        shares = np.where(probe.of_seed, _shares(occupied, probe), _shares(rows, probe))
        name = family_name(family)
        by_feature |= {f"{name}.{n}": float(s) for n, s, count in zip(probe.names, shares, counts, strict=True) if count}
        if counts.any():
            by_family[name] = float(shares @ counts / counts.sum())
    return Coverage(float(np.mean(list(by_feature.values()))) if by_feature else 1.0, by_feature, by_family)


def _shares(rows: np.ndarray, probe: _Probe) -> np.ndarray:
    """Share of each feature's channels that were measured, over all rows; 0 without rows."""
    if not len(rows):
        return np.zeros(len(probe.names))
    measured = np.append((rows[:, probe.columns] != 0.0).mean(axis=0), 0.0)
    summed = np.where(probe.checks > 0, np.add.reduceat(measured, probe.starts), 0.0)
    result: np.ndarray = (summed + probe.always) / (probe.checks + probe.always)
    return result


def _probe(features: Sequence[Feature], ranges: Mapping[str, slice]) -> _Probe:
    masks = {feature.mask for feature in features}
    counted = [feature for feature in features if feature.name not in masks]
    columns = [_columns(feature, ranges) for feature in counted]
    checks = np.array([len(c) for c in columns])
    return _Probe(
        names=tuple(feature.name for feature in counted),
        columns=np.array([c for group in columns for c in group], dtype=np.int64),
        starts=np.cumsum(checks) - checks,
        checks=checks,
        always=np.array([feature.size - len(c) for feature, c in zip(counted, columns, strict=True)]),
        of_seed=np.array([feature.of_seed for feature in counted]),
    )


def _columns(feature: Feature, ranges: Mapping[str, slice]) -> list[int]:
    if feature.is_index or feature.zero_is_unknown:
        return [ranges[feature.name].start]
    if not feature.mask:
        return []
    mask = ranges[feature.mask]
    return list(range(mask.start + feature.mask_start, min(mask.stop, mask.start + feature.mask_start + feature.size)))


_PROBES: dict[str | EdgeType, _Probe] = {t: _probe(features, GRAPH_SPEC.channels[t]) for t, features in GRAPH_SPEC.nodes.items()} | {
    e: _probe(features, GRAPH_SPEC.edge_channels[e]) for e, features in GRAPH_SPEC.edges.items()
}
