"""What decisions cost and earn when they are taken, and what the end of an episode pays."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from esper.leyline.actions import LifecycleOp
from esper.leyline.masks import MIN_PRUNE_AGE_EPOCHS
from esper.leyline.stages import SeedStage
from esper.simic.rewards.contribution import is_ransomware

if TYPE_CHECKING:
    from esper.leyline.reports import SeedStateReport
    from esper.simic.config import RewardConfig

FULL_LEGITIMACY_EPOCHS = 5
"""Epochs in HOLDING after which a fossil is paid in full."""
MIN_FOSSIL_CONTRIBUTION = 1.0
_FOSSIL_TERMINAL = 3.0 * math.tanh(1.0 / 3.0)
"""Worth of one more contributing fossil at the end, paid when it is made and not to whoever acts last."""


def operation_cost(op: LifecycleOp, stage: SeedStage, config: RewardConfig) -> float:
    """Price of an operation on a seed in `stage`, as a number ≤ 0. Illegal operations are never executed."""
    match op:
        case LifecycleOp.GERMINATE:
            return -config.germinate_cost
        case LifecycleOp.FOSSILIZE:
            return -config.fossilize_cost
        case LifecycleOp.PRUNE:
            return -config.prune_cost
        case LifecycleOp.SET_ALPHA_TARGET:
            return -config.retarget_cost
        case LifecycleOp.ADVANCE:
            return -config.advance_cost if stage is SeedStage.TRAINING else 0.0
        case _:
            return 0.0


def fossilize_bonus(contribution: float | None, improvement: float | None, epochs_in_stage: int) -> float:
    """Reward for making a seed permanent.

    (½ + c/10)·L + 3·tanh(⅓)·L for a contribution c of at least a point, L = min(1, epochs in HOLDING/5); −0.2 below that;
    −½ − min(|g|/5, 1) where the network got worse by g, and 0.3 more for a seed held to ransom. 0 where c is unmeasured.
    """
    if contribution is None:
        return 0.0
    if improvement is not None and improvement < 0.0:
        ransom = 0.3 if is_ransomware(contribution, improvement) else 0.0
        return -0.5 - min(0.2 * abs(improvement), 1.0) - ransom
    if contribution < MIN_FOSSIL_CONTRIBUTION:
        return -0.2
    legitimacy = min(1.0, epochs_in_stage / FULL_LEGITIMACY_EPOCHS)
    return (0.5 + 0.1 * contribution + _FOSSIL_TERMINAL) * legitimacy


def prune_bonus(contribution: float | None, age_epochs: int) -> float:
    """Reward for giving a seed up: small for a harmful one, a penalty for a useful one, and 0.3 per epoch too early."""
    haste = -0.3 * max(MIN_PRUNE_AGE_EPOCHS - age_epochs, 0)
    if contribution is None:
        return haste
    if contribution < -0.5:
        return haste + (0.15 if age_epochs >= 3 else -0.1)
    if contribution < 0.0:
        return haste + 0.1
    return haste + max(-0.3 - 0.05 * contribution, -0.9)


def stagnation_warning(seed: SeedStateReport, improvement: float | None) -> float:
    """Penalty for a seed that blends while the network is worse with it: −0.1 − min(0.05·epochs, 0.3)."""
    if seed.stage is not SeedStage.BLENDING or improvement is None or improvement >= 0.0:
        return 0.0
    return -0.1 - min(0.05 * seed.epochs_in_stage, 0.3)


def indecision_warning(seed: SeedStateReport, attribution: float, *, is_settled: bool) -> float:
    """Penalty for leaving a paying seed in HOLDING: −min(0.1 + 0.05·(epochs − 2), 0.3) from the second epoch on.

    Linear, since an exponential penalty drowns every other signal in the critic's target.

    Args:
        seed: The seed before the decision.
        attribution: What the seed earns this epoch.
        is_settled: Whether the decision ends its stay: FOSSILIZE or PRUNE of this seed.
    """
    if seed.stage is not SeedStage.HOLDING or is_settled or seed.epochs_in_stage < 2 or attribution <= 0.0:
        return 0.0
    return -min(0.1 + 0.05 * (seed.epochs_in_stage - 2), 0.3)
