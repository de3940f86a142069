"""What parameters, living seeds and sudden changes cost. Costs are returned as negative numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

RentForm = Literal["linear", "log2"]


def rent(added_params: int, host_params: int, form: RentForm) -> float:
    """Rent of growth relative to the host: ΔP/P0 (linear) or log2(1 + ΔP/P0).

    Raises:
        ValueError: If the host has no parameters.
    """
    if host_params <= 0:
        raise ValueError(f"rent is relative to the host, which has {host_params} parameters")
    ratio = added_params / host_params
    return ratio if form == "linear" else math.log2(1.0 + ratio)


def epoch_rent(added_params: int, host_params: int, max_epochs: int, *, weight: float, form: RentForm) -> float:
    """One epoch's share of the rent on everything alive: −100·λ_e·rent/max_epochs, in points of utility."""
    return -100.0 * weight * rent(added_params, host_params, form) / max_epochs


def step_rent(added_params: int, host_params: int, *, weight: float, cap: float, host_floor: int) -> float:
    """−min(weight·ln(1 + ΔP/max(P0, floor)), cap)."""
    return -min(weight * math.log1p(added_params / max(host_params, host_floor)), cap)


def occupancy(num_living: int, *, num_free: int, cost: float) -> float:
    """−cost for every living seed above `num_free`; fossils do not count as living."""
    return -cost * max(num_living - num_free, 0)


def alpha_shock(alpha_changes: Sequence[float], *, weight: float, cap: float) -> float:
    """−min(weight·Σ(Δα)², cap): the host needs time to follow."""
    return -min(weight * sum(change * change for change in alpha_changes), cap)
