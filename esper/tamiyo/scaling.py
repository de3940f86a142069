"""How raw measurements become bounded features. NaN stands for unmeasured on the way in; it never comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esper.tamiyo.graph_spec import FEATURE_LIMIT

if TYPE_CHECKING:
    from collections.abc import Sequence

POINTS_SCALE = 10.0
"""Differences of accuracy are divided by this many points."""
GRADIENT_FLOOR = 1e-8


def bounded(values: np.ndarray) -> np.ndarray:
    """Clip to ±`FEATURE_LIMIT`; NaN becomes 0."""
    result: np.ndarray = np.minimum(np.maximum(values, -FEATURE_LIMIT), FEATURE_LIMIT)
    np.copyto(result, 0.0, where=np.isnan(result))
    return result


def measured_mask(values: np.ndarray) -> np.ndarray:
    """True where a finite number was measured."""
    mask: np.ndarray = np.isfinite(values)
    return mask


def signed_log(values: np.ndarray) -> np.ndarray:
    """sign(x)·log(1 + |x|), bounded."""
    return bounded(np.sign(values) * np.log1p(np.abs(values)))


def magnitude(values: np.ndarray, *, floor: float = GRADIENT_FLOOR, decades: float = 2.0) -> np.ndarray:
    """log10(x + floor) / decades of a value ≥ 0, bounded: 1 becomes 0. Unlike `signed_log` it tells 1e-5 from 1e-4."""
    return bounded(np.log10(np.maximum(values, 0.0) + floor) / decades)


def log_count(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """½·log10(1 + x), bounded: 10⁶ becomes 3."""
    return bounded(np.log10(1.0 + np.asarray(values, dtype=np.float64)) / 2.0)


def points(values: np.ndarray) -> np.ndarray:
    """Differences of accuracy in points, divided by `POINTS_SCALE`, bounded."""
    return bounded(values / POINTS_SCALE)


def relative_magnitude(values: np.ndarray, graph: np.ndarray) -> np.ndarray:
    """½·log10 of each value over the largest finite one of its graph, bounded; 0 where nothing was measured.

    Args:
        values: [N] at least 0, NaN where unmeasured.
        graph: [N] graph of each value, ascending.
    """
    finite = np.where(np.isfinite(values), np.maximum(values, 0.0), 0.0) + GRADIENT_FLOOR
    largest = np.full(int(graph[-1]) + 1 if len(graph) else 0, GRADIENT_FLOOR)
    np.maximum.at(largest, graph, finite)
    return np.where(np.isfinite(values), bounded(np.log10(finite / largest[graph]) / 2.0), 0.0)


def share_of_graph(values: np.ndarray, graph: np.ndarray) -> np.ndarray:
    """Each value [N] over the sum of the finite ones in its graph; 0 where unmeasured."""
    finite = np.where(np.isfinite(values), np.maximum(values, 0.0), 0.0)
    total = np.bincount(graph, weights=finite)
    result: np.ndarray = finite / np.maximum(total[graph], 1e-30)
    return result


def over_largest(values: np.ndarray, graph: np.ndarray) -> np.ndarray:
    """Each value [N] ≥ 0 over the largest finite one of its graph; 0 where unmeasured, and where nothing is above 0."""
    finite = np.where(np.isfinite(values), np.maximum(values, 0.0), 0.0)
    largest = np.zeros(int(graph[-1]) + 1 if len(graph) else 0)
    np.maximum.at(largest, graph, finite)
    result: np.ndarray = finite / np.maximum(largest[graph], 1e-30)
    return result
