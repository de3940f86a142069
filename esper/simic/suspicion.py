"""Signs that a seed earns credit for what it did not bring. Pure; nothing is suspected of what was not measured."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from esper.leyline.stages import SeedStage
from esper.leyline.telemetry.simic import RewardHackingSuspectedPayload
from esper.simic.rewards.contribution import RANSOM_CONTRIBUTION, SUSPICIOUS_RATIO, clean_improvement, is_ransomware

if TYPE_CHECKING:
    from esper.leyline.reports import SeedStateReport, TrialReport

SETTLED_STAGES = frozenset({SeedStage.HOLDING, SeedStage.FOSSILIZED})
"""Stages in which a seed is fully heard; while it is blended in, accuracies are those of a network in transit."""
SUSPICIOUS_EPOCHS = 3
"""Epochs in a row that a seed must look suspicious to be told; one epoch's accuracies differ by chance."""


def suspected_reward_hacking(report: TrialReport) -> tuple[RewardHackingSuspectedPayload, ...]:
    """Settled seeds whose contribution cannot be explained by what the network gained from all seeds together.

    `ransomware` is a seed that the network needs although it is worse for having grown; `attribution_ratio` one that is
    credited with five times the whole improvement.
    """
    improvement = clean_improvement(report)
    if improvement is None:
        return ()
    seeds = [slot.seed for slot in report.slots if slot.seed is not None and slot.seed.stage in SETTLED_STAGES]
    found = [_suspicion(report, seed, improvement) for seed in seeds]
    return tuple(payload for payload in found if payload is not None)


class SuspicionWatch:
    """Tells of one trial's seeds what looked suspicious long enough, once each time."""

    def __init__(self) -> None:
        self._epochs: Counter[tuple[str, str]] = Counter()

    def look(self, report: TrialReport) -> tuple[RewardHackingSuspectedPayload, ...]:
        """Suspicions that the newest epoch has confirmed."""
        found = {_key(payload): payload for payload in suspected_reward_hacking(report)}
        self._epochs = Counter({key: self._epochs[key] + 1 for key in found})
        return tuple(payload for key, payload in found.items() if self._epochs[key] == SUSPICIOUS_EPOCHS)


def _key(payload: RewardHackingSuspectedPayload) -> tuple[str, str]:
    return payload.seed_id, payload.pattern


def _suspicion(report: TrialReport, seed: SeedStateReport, improvement: float) -> RewardHackingSuspectedPayload | None:
    contribution = seed.metrics.contribution
    if contribution is None:
        return None
    ratio = contribution / improvement if improvement != 0.0 else None
    if is_ransomware(contribution, improvement):
        pattern, threshold = "ransomware", RANSOM_CONTRIBUTION
    elif contribution > 1.0 and ratio is not None and ratio >= SUSPICIOUS_RATIO:
        pattern, threshold = "attribution_ratio", SUSPICIOUS_RATIO
    else:
        return None
    return RewardHackingSuspectedPayload(
        pattern=pattern,
        slot_id=seed.slot_id,
        seed_id=seed.seed_id,
        seed_contribution=contribution,
        total_improvement=improvement,
        ratio=ratio,
        threshold=threshold,
        env_id=report.env_id,
    )
