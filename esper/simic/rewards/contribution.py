"""How much of the accuracy is owed to a seed, and signs that it only made itself indispensable.

c is the leave-one-out contribution, p the progress since germination, g the clean improvement: accuracy minus the
accuracy with every seed off. All in points; None is unmeasured, pays nothing and costs nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from esper.simic.attribution import pair_interactions

if TYPE_CHECKING:
    from esper.leyline.reports import TrialReport

RANSOM_CONTRIBUTION = 0.1
RANSOM_IMPROVEMENT = -0.2
MIN_IMPROVEMENT_FOR_RATIO = 0.1
SUSPICIOUS_RATIO = 5.0


def bounded_contribution(contribution: float, progress: float) -> float:
    """Credit that neither measure alone can inflate.

    c where c < 0; 0 where p ≤ 0; c where c < p; otherwise the harmonic mean 2pc/(p + c), which the smaller one bounds.
    """
    if contribution < 0.0:
        return contribution
    if progress <= 0.0:
        return 0.0
    if contribution < progress:
        return contribution
    return 2.0 * progress * contribution / (progress + contribution)


def improvement_discount(improvement: float | None, steepness: float) -> float:
    """1/(1 + exp(−steepness·g)) where g < 0, else 1: a seed that others came to depend on earns less."""
    if improvement is None or improvement >= 0.0:
        return 1.0
    return 1.0 / (1.0 + math.exp(min(-steepness * improvement, 60.0)))


def timing_discount(germination_epoch: int, *, floor: float, full_epoch: int) -> float:
    """From `floor` at epoch 0 in a straight line to 1 at `full_epoch`: early seeds share the host's own progress."""
    if full_epoch == 0 or germination_epoch >= full_epoch:
        return 1.0
    return floor + (1.0 - floor) * germination_epoch / full_epoch


def ratio_penalty(contribution: float, improvement: float | None, discount: float) -> float:
    """Penalty, at most 0.3, for a contribution far above the improvement it is said to have caused."""
    if improvement is None or contribution <= 1.0 or discount < 0.5:
        return 0.0
    if improvement <= MIN_IMPROVEMENT_FOR_RATIO:
        return -0.3 * min(1.0, contribution / 10.0)
    ratio = contribution / improvement
    return -min(0.3, 0.1 * max(ratio - SUSPICIOUS_RATIO, 0.0) / 5.0)


def is_ransomware(contribution: float | None, improvement: float | None) -> bool:
    """Does the network need a seed that made it worse?"""
    if contribution is None or improvement is None:
        return False
    return contribution > RANSOM_CONTRIBUTION and improvement < RANSOM_IMPROVEMENT


def synergy(interaction_sum: float, weight: float) -> float:
    """weight·tanh(½·Σ interactions)."""
    return weight * math.tanh(0.5 * interaction_sum)


def clean_improvement(report: TrialReport) -> float | None:
    """Accuracy minus the accuracy with every seed off, in points; None where that was not evaluated."""
    table = report.counterfactuals
    if table is None or () not in table.configurations:
        return None
    return report.val_accuracy - table.accuracy_of(())


def interaction_sum(report: TrialReport) -> float | None:
    """Σ f(ij) − f(i) − f(j) + f(∅) over the pairs that were evaluated, in points; None where there is none.

    Solo accuracies are used, since leave-one-out values would mix in the other seeds.
    """
    table = report.counterfactuals
    if table is None:
        return None
    slots = sorted({slot for configuration in table.configurations for slot in configuration})
    terms = pair_interactions(table, slots).values()
    return sum(terms) if terms else None
