"""How risky a state was, judged by what followed it, and how well the policy foresaw that.

Labels are made after the episode; nothing here acts on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int  # noqa: TC002
from torch import Tensor
from torch.nn import functional

from esper.leyline.schemas import RISK_LEVELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.leyline.reports import TrialReport

RISK_NAMES = tuple(level.name for level in RISK_LEVELS)
"""Classes of the risk head, mildest first."""
CRITICAL = len(RISK_NAMES) - 1
NUM_BINS = 10
"""Equal bins of confidence in the calibration error."""


@dataclass(frozen=True, slots=True)
class RiskDiagnostics:
    """Predicted risk against what followed, over the states of one pass.

    In the first pass each state is judged before the update learns from it, so its numbers are not flattered.
    """

    risk_calibration_error: float
    """Expected calibration error, 0…1: mean distance between confidence and accuracy over bins of confidence."""
    risk_brier_score: float
    """Mean squared distance of the probabilities from what followed, 0…2."""
    risk_class_shares: Mapping[str, float]
    """Class → share of states that it followed."""
    risk_predicted_shares: Mapping[str, float]
    """Class → mean probability that was given to it; equals the share above where the head is calibrated on the whole."""


def growth_regression(reports: Sequence[TrialReport]) -> float:
    """By how many points growth has set a trial back after its last report; 0 before the first seed is heard.

    Without growth the host would have kept at least the accuracy it had when the first seed was blended in, and would have at
    least the accuracy that it has now with every seed switched off. The larger of the two is the no-growth forecast; the second
    is measured on the same weights and data, so it carries little noise.

    Args:
        reports: From reset on, in order.
    """
    first = next((index for index, report in enumerate(reports) if _is_grown(report)), None)
    if first is None:
        return 0.0
    now, forecast = reports[-1], reports[first - 1].val_accuracy
    if now.counterfactuals is not None:
        forecast = max(forecast, now.counterfactuals.accuracy_of(()))
    return max(forecast - now.val_accuracy, 0.0)


def risk_labels(regression: np.ndarray, panicked: np.ndarray, *, window: int, thresholds: Sequence[float]) -> np.ndarray:
    """Class of each state by the worst that followed it.

    CRITICAL if the governor rolled the trial back; else RED, ORANGE or YELLOW by the largest regression, else GREEN.

    Args:
        regression: [T, B] points below the no-growth forecast after the step taken at t; NaN after a trial's end.
        panicked: [T, B] 1 where the governor rolled back in that step, 0 where not, NaN after a trial's end.
        window: Steps from t on that count.
        thresholds: Least regression of YELLOW, ORANGE and RED, in points.

    Returns:
        [T, B] int64 in 0…4, mildest first; what stands in cells after a trial's end means nothing.
    """
    worst, panic = (_worst_ahead(grid, window) for grid in (regression, panicked))
    labels: np.ndarray = np.where(panic > 0, CRITICAL, np.searchsorted(np.asarray(thresholds), worst, side="right")).astype(np.int64)
    return labels


def risk_loss(logits: Float[Tensor, "M C"], label: Int[Tensor, " M"]) -> Float[Tensor, ""]:  # noqa: F722
    """Mean cross-entropy; classes are not re-weighted, so that the probabilities stay calibrated.

    Args:
        logits: [M, 5] gradient flows here alone.
        label: [M] in 0…4.

    Raises:
        ValueError: If there is not one logit per class.
    """
    if logits.shape[1] != len(RISK_NAMES):
        raise ValueError(f"the risk head has {logits.shape[1]} classes, what followed is told in {len(RISK_NAMES)}: {RISK_NAMES}")
    return functional.cross_entropy(logits, label)


def risk_diagnostics(logits: Float[Tensor, "M C"], label: Int[Tensor, " M"]) -> RiskDiagnostics:  # noqa: F722
    """Compare predictions with what followed."""
    probs = logits.double().softmax(dim=1)
    truth = functional.one_hot(label, len(RISK_NAMES)).double()
    return RiskDiagnostics(
        risk_calibration_error=calibration_error(probs, label),
        risk_brier_score=float((probs - truth).square().sum(dim=1).mean()),
        risk_class_shares=dict(zip(RISK_NAMES, truth.mean(dim=0).tolist(), strict=True)),
        risk_predicted_shares=dict(zip(RISK_NAMES, probs.mean(dim=0).tolist(), strict=True)),
    )


def calibration_error(probs: Float[Tensor, "M C"], label: Int[Tensor, " M"]) -> float:  # noqa: F722
    """Expected calibration error of the likeliest class in equal bins of confidence (Guo et al. 2017, eq. 3).

    ECE = Σ_b |b|/M · |accuracy(b) − confidence(b)|
    """
    confidence, predicted = probs.max(dim=1)
    gap = (predicted == label).to(confidence.dtype) - confidence
    index = (confidence * NUM_BINS).long().clamp(max=NUM_BINS - 1)
    total = torch.zeros(NUM_BINS, dtype=confidence.dtype, device=confidence.device).index_add(0, index, gap)
    return float(total.abs().sum() / len(gap))


def _is_grown(report: TrialReport) -> bool:
    """Whether the full network had a seed that was heard when the report's accuracy was measured."""
    return report.counterfactuals is not None and bool(report.counterfactuals.configurations[0])


def _worst_ahead(grid: np.ndarray, window: int) -> np.ndarray:
    """[T, B] largest finite value in rows t … t + window − 1; 0 where there is none."""
    worst = np.zeros(grid.shape, dtype=grid.dtype)
    for offset in range(min(window, len(grid))):
        ahead = grid[offset:]
        worst[: len(ahead)] = np.fmax(worst[: len(ahead)], ahead)
    return worst
