"""The parts of one step's reward. They add up to `total_reward`; a part that does not apply is 0."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RewardComponents:
    """One step's reward and the evidence behind it. Evidence that was not measured is None."""

    total_reward: float
    utility_change: float = 0.0
    """γ·U' − U, where U = 100·(accuracy − λ·rent)."""
    bounded_attribution: float = 0.0
    ratio_penalty: float = 0.0
    compute_rent: float = 0.0
    occupancy_rent: float = 0.0
    fossilized_rent: float = 0.0
    alpha_shock: float = 0.0
    blending_warning: float = 0.0
    holding_warning: float = 0.0
    pbrs_bonus: float = 0.0
    synergy_bonus: float = 0.0
    action_shaping: float = 0.0
    fossilize_terminal_bonus: float = 0.0
    terminal_bonus: float = 0.0
    governor_penalty: float = 0.0
    action_name: str = "WAIT"
    epoch: int = 0
    val_acc: float = 0.0
    utility: float | None = None
    seed_contribution: float | None = None
    progress_since_germination: float | None = None
    attribution_discount: float | None = None
    timing_discount: float | None = None
    growth_ratio: float | None = None
    """Added parameters over host parameters."""


PARTS = (
    "utility_change",
    "bounded_attribution",
    "ratio_penalty",
    "compute_rent",
    "occupancy_rent",
    "fossilized_rent",
    "alpha_shock",
    "blending_warning",
    "holding_warning",
    "pbrs_bonus",
    "synergy_bonus",
    "action_shaping",
    "fossilize_terminal_bonus",
    "terminal_bonus",
    "governor_penalty",
)
"""Fields that add up to `total_reward`; costs are negative."""
