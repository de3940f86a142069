"""What an episode came to, and which of several outcomes are worth having."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from esper.leyline.reports import EpisodeOutcome
from esper.leyline.stages import SeedStage
from esper.simic.rewards.utility import utility_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.leyline.reports import SeedStateReport, TrialReport
    from esper.simic.config import RewardConfig


def episode_outcome(
    reports: Sequence[TrialReport], rewards: Sequence[float], *, context: str, split: str, config: RewardConfig
) -> EpisodeOutcome:
    """Sum up one episode.

    Args:
        reports: From reset to the end, in order.
        rewards: One per step, before the learner's scale.
        context: Host × task × width.
        split: Which contexts it was drawn from.
        config: Whose λ and rent make the utility.

    Raises:
        ValueError: If the last report is not an end, or has no test accuracy.
    """
    last = reports[-1]
    if not last.done or last.test_accuracy is None:
        raise ValueError(f"env {last.env_id}, episode {last.episode_idx} has no tested end: done={last.done}, test={last.test_accuracy}")
    reached = Counter(transition.to_stage for report in reports for transition in report.transitions)
    fossils = [slot.seed for slot in last.slots if slot.seed is not None and slot.seed.stage is SeedStage.FOSSILIZED]
    return EpisodeOutcome(
        env_id=last.env_id,
        episode_idx=last.episode_idx,
        context=context,
        split=split,
        final_accuracy=last.test_accuracy,
        param_ratio=(last.host_params + last.fossil_params) / last.host_params,
        utility=utility_of(last.test_accuracy, last.fossil_params, last.host_params, config),
        stability_score=stability_score(rewards),
        num_fossilized=len(fossils),
        num_contributing_fossilized=sum(_is_contributing(seed) for seed in fossils),
        episode_reward=float(sum(rewards)),
        episode_length=len(reports) - 1,
        outcome_type="rolled_back" if last.is_rolled_back else "completed",
        germinate_count=reached[SeedStage.GERMINATED],
        prune_count=reached[SeedStage.PRUNED],
        fossilize_count=reached[SeedStage.FOSSILIZED],
        kept=tuple(f"{seed.slot_id}:{seed.blueprint_id}" for seed in fossils),
    )


def stability_score(rewards: Sequence[float]) -> float:
    """1/(1 + variance of the rewards): 1 for a steady episode, towards 0 for an erratic one."""
    return 1.0 / (1.0 + float(np.var(rewards))) if len(rewards) else 1.0


def pareto_front(outcomes: Sequence[EpisodeOutcome]) -> tuple[EpisodeOutcome, ...]:
    """Outcomes that no other dominates in accuracy (more), parameter ratio (less) and stability (more), in the order given."""
    points = np.array([_objectives(outcome) for outcome in outcomes]).reshape(-1, 3)
    at_least = (points[:, None] >= points[None]).all(axis=-1)
    better = (points[:, None] > points[None]).any(axis=-1)
    kept = np.flatnonzero(~(at_least & better).any(axis=0))
    return tuple(outcomes[int(i)] for i in kept)


def hypervolume(outcomes: Sequence[EpisodeOutcome], *, min_accuracy: float, max_param_ratio: float = 2.0) -> float:
    """Area of (accuracy, parameter ratio) that the outcomes dominate, up to a reference point.

    Args:
        outcomes: In any order; those beyond the reference count nothing.
        min_accuracy: Percent; the reference's accuracy.
        max_param_ratio: The reference's parameter ratio.

    Returns:
        Points of accuracy × units of ratio.
    """
    points = [(o.final_accuracy, o.param_ratio) for o in outcomes if o.final_accuracy > min_accuracy and o.param_ratio < max_param_ratio]
    area, ceiling = 0.0, max_param_ratio
    for accuracy, ratio in sorted(points, key=lambda point: (-point[0], point[1])):
        if ratio < ceiling:
            area += (accuracy - min_accuracy) * (ceiling - ratio)
            ceiling = ratio
    return area


def _objectives(outcome: EpisodeOutcome) -> tuple[float, float, float]:
    return outcome.final_accuracy, -outcome.param_ratio, outcome.stability_score


def _is_contributing(seed: SeedStateReport) -> bool:
    return seed.metrics.contribution is not None and seed.metrics.contribution > 0.0
