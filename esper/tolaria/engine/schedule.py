"""Learning rate over an episode."""

from __future__ import annotations


def hold_then_decay(progress: float, *, hold_frac: float, final_frac: float) -> float:
    """Factor on the peak learning rate at `progress` in 0…1: 1 until `hold_frac`, then linear down to `final_frac` at 1."""
    if progress <= hold_frac:
        return 1.0
    share = min((progress - hold_frac) / (1.0 - hold_frac), 1.0)
    return 1.0 + share * (final_frac - 1.0)
