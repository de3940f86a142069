"""When a gradient is called vanishing or exploding, and what that says about the network it belongs to. Pure functions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

VANISHING_NORM = 1e-7
"""A gradient whose norm is below this vanishes."""
EXPLODING_NORM = 10.0
"""A gradient whose norm is above this, or not finite, explodes."""


def is_vanishing(norm: float) -> bool:
    """Whether a norm is too small to learn from."""
    return norm < VANISHING_NORM


def is_exploding(norm: float) -> bool:
    """Whether a norm is too large to learn from; NaN is."""
    return not norm <= EXPLODING_NORM


def gradient_health(norms: Sequence[float]) -> float:
    """1 − 0.5·(share that vanishes) − 0.8·(share that explodes), 0.2…1, of one norm or more."""
    vanishing, exploding = sum(map(is_vanishing, norms)), sum(map(is_exploding, norms))
    return 1.0 - 0.5 * vanishing / len(norms) - 0.8 * exploding / len(norms)


def norm_share(norm: float) -> float:
    """A norm as a share of the one from which gradients explode, at most 1; a NaN counts as the largest."""
    return 1.0 if math.isnan(norm) else min(norm, EXPLODING_NORM) / EXPLODING_NORM
