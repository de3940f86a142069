"""One step's reward: mode, governor's penalty, evidence, and their sum."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from esper.leyline.reward import PARTS, RewardComponents
from esper.simic.rewards import shaping
from esper.simic.rewards.modes import shaped_mode, utility_mode
from esper.simic.rewards.rent import rent
from esper.simic.rewards.utility import utility, utility_change

if TYPE_CHECKING:
    from esper.leyline.actions import FactoredAction
    from esper.leyline.reports import TrialReport
    from esper.simic.config import RewardConfig


def compute_reward(
    config: RewardConfig, before: TrialReport, after: TrialReport, action: FactoredAction, *, gamma: float
) -> RewardComponents:
    """Reward of the step from `before` to `after`, in points, before the learner's scale.

    A rollback is terminal: the trial pays the governor's penalty and gives back what shaping promised, which in utility
    mode leaves it with the utility of what the governor restored.

    Args:
        config: Mode and weights.
        before: Report that the decision was based on.
        after: Report of the epoch that followed.
        action: What was executed.
        gamma: PPO's discount.

    Returns:
        Components whose `PARTS` add up to `total_reward`.
    """
    if after.is_rolled_back:
        components = _rollback(config, before, after, gamma)
    elif config.mode == "utility":
        components = utility_mode(config, before, after, gamma)
    else:
        components = shaped_mode(config, before, after, action, gamma=gamma)
    return replace(
        components,
        total_reward=sum(getattr(components, part) for part in PARTS),
        action_name=action.op.name,
        epoch=after.epoch,
        val_acc=after.val_accuracy,
        utility=utility(after, config),
        growth_ratio=rent(after.seed_params, after.host_params, "linear"),
    )


def _rollback(config: RewardConfig, before: TrialReport, after: TrialReport, gamma: float) -> RewardComponents:
    ended = replace(after, done=True)
    if config.mode == "utility":
        return RewardComponents(0.0, utility_change=utility_change(before, ended, gamma, config), governor_penalty=config.governor_penalty)
    return RewardComponents(
        0.0, pbrs_bonus=shaping.potential_difference(before, ended, gamma, config), governor_penalty=config.governor_penalty
    )
