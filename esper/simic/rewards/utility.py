"""U: what a network is worth, accuracy less the rent of what was added to it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from esper.simic.rewards.rent import rent

if TYPE_CHECKING:
    from esper.leyline.reports import TrialReport
    from esper.simic.config import RewardConfig


def utility_of(accuracy: float, added_params: int, host_params: int, config: RewardConfig) -> float:
    """U = 100·(accuracy/100 − λ·rent(ΔP/P0)), in points; `accuracy` in percent, P0 the host's size or the configured one."""
    return accuracy - 100.0 * config.rent_weight * rent(added_params, config.rent_reference_params or host_params, config.rent_form)


def utility(report: TrialReport, config: RewardConfig) -> float:
    """U of a trial now.

    While it runs, validation accuracy and every seed with a module count; once it is over, only what is kept: the accuracy
    of host and fossils, and the fossils' parameters. A network whose accuracy is not finite is worth an accuracy of 0.
    """
    accuracy = report.committed_accuracy if report.done else report.val_accuracy
    added = report.fossil_params if report.done else report.seed_params
    return utility_of(accuracy if math.isfinite(accuracy) else 0.0, added, report.host_params, config)


def utility_change(before: TrialReport, after: TrialReport, gamma: float, config: RewardConfig) -> float:
    """γ·U' − U: potential-based shaping (Ng et al. 1999) whose discounted sum is γᵀ·U_T − U_0.

    The final utility is not set to zero, since it is the goal and not a hint.
    """
    return gamma * utility(after, config) - utility(before, config)
