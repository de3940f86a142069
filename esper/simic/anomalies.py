"""What is out of bounds in an update or a trial. Pure functions: they name findings, the caller tells them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from esper.leyline.telemetry.event import TelemetryEventType
from esper.leyline.telemetry.simic import RewardHackingSuspectedPayload
from esper.simic.rewards.contribution import RANSOM_CONTRIBUTION, SUSPICIOUS_RATIO, clean_improvement, is_ransomware

if TYPE_CHECKING:
    from collections.abc import Iterator

    from esper.leyline.reports import SeedStateReport, TrialReport
    from esper.simic.passes import PassReport
    from esper.simic.update_report import UpdateReport

MAX_RATIO = 5.0
MIN_RATIO = 0.1
MAX_VALUE_LOSS = 5.0
"""In squared standard deviations of the returns, so that 0.5 is a critic that knows only their mean."""
MAX_GRADIENT_NORM = 100.0


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One finding."""

    event_type: TelemetryEventType
    pass_index: int
    """1, 2, 3 … within the update."""
    detail: str
    evidence: Mapping[str, float] = field(default_factory=dict)


def update_anomalies(report: UpdateReport) -> tuple[Anomaly, ...]:
    """Everything wrong with an update, pass by pass. Explained variance is a diagnostic and raises no alarm."""
    return tuple(
        Anomaly(event_type, index, detail, evidence)
        for index, done in enumerate(report.passes, start=1)
        for event_type, detail, evidence in _findings(done)
    )


def suspected_reward_hacking(report: TrialReport) -> tuple[RewardHackingSuspectedPayload, ...]:
    """Seeds whose contribution cannot be explained by what the network gained from all seeds together.

    `ransomware` is a seed that the network needs although it is worse for having grown; `attribution_ratio` one that is
    credited with five times the whole improvement. Nothing is suspected of what was not measured.
    """
    improvement = clean_improvement(report)
    if improvement is None:
        return ()
    seeds = [slot.seed for slot in report.slots if slot.seed is not None]
    found = [_suspicion(report, seed, improvement) for seed in seeds]
    return tuple(payload for payload in found if payload is not None)


def _findings(done: PassReport) -> Iterator[tuple[TelemetryEventType, str, Mapping[str, float]]]:
    low, high = done.policy.ratio_min, done.policy.ratio_max
    if high is not None and high > MAX_RATIO:
        yield TelemetryEventType.RATIO_EXPLOSION_DETECTED, f"largest ratio {high:.3g} is above {MAX_RATIO}", {"ratio_max": high}
    if low is not None and low < MIN_RATIO:
        yield TelemetryEventType.RATIO_COLLAPSE_DETECTED, f"smallest ratio {low:.3g} is below {MIN_RATIO}", {"ratio_min": low}
    if done.value_loss > MAX_VALUE_LOSS:
        evidence = {"value_loss": done.value_loss}
        yield TelemetryEventType.VALUE_COLLAPSE_DETECTED, f"value loss {done.value_loss:.3g} is above {MAX_VALUE_LOSS}", evidence
    broken = done.gradients.nan_grad_count + done.gradients.inf_grad_count
    if broken or not math.isfinite(done.policy_loss + done.value_loss):
        counts = {"nan_grad_count": float(done.gradients.nan_grad_count), "inf_grad_count": float(done.gradients.inf_grad_count)}
        yield TelemetryEventType.NUMERICAL_INSTABILITY_DETECTED, f"{broken} gradient elements are not finite", counts
    norm = done.gradients.pre_clip_grad_norm
    if norm is not None and norm > MAX_GRADIENT_NORM:
        yield TelemetryEventType.GRADIENT_ANOMALY, f"gradient norm {norm:.3g} is above {MAX_GRADIENT_NORM}", {"pre_clip_grad_norm": norm}


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
