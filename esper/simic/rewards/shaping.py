"""Potential of a seed's stage. Differences of potentials do not change which policy is best (Ng et al. 1999)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.leyline.stages import SeedStage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper.leyline.reports import TrialReport
    from esper.simic.config import RewardConfig

STAGE_POTENTIALS: Mapping[SeedStage, float] = {
    SeedStage.GERMINATED: 1.0,
    SeedStage.TRAINING: 2.0,
    SeedStage.BLENDING: 3.5,
    SeedStage.HOLDING: 5.5,
    SeedStage.FOSSILIZED: 6.0,
}
"""Stages that are absent have potential 0, so that pruning gives back all that germinating earned."""


def stage_potential(stage: SeedStage, epochs_in_stage: int, *, per_epoch: float, cap: float) -> float:
    """φ = φ(stage) + min(per_epoch·epochs, cap); 0 where there is no living seed."""
    if stage not in STAGE_POTENTIALS:
        return 0.0
    return STAGE_POTENTIALS[stage] + min(per_epoch * epochs_in_stage, cap)


def trial_potential(report: TrialReport, config: RewardConfig) -> float:
    """Sum of the slots' potentials; 0 once the trial is over, without which shaping would reward where it stops."""
    if report.done:
        return 0.0
    return sum(
        stage_potential(
            slot.seed.stage,
            slot.seed.epochs_in_stage,
            per_epoch=config.stage_progress_weight,
            cap=config.stage_progress_cap,
        )
        for slot in report.slots
        if slot.seed is not None
    )


def potential_difference(before: TrialReport, after: TrialReport, gamma: float, config: RewardConfig) -> float:
    """F = weight·(γφ' − φ); its discounted sum over an episode is −weight·φ at the start."""
    return config.pbrs_weight * (gamma * trial_potential(after, config) - trial_potential(before, config))
