"""The policy that grows early where the loss pulls hardest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.leyline.actions import FactoredAction, LifecycleOp
from esper.tamiyo.baselines.legal import act_in, advance_or_wait, blueprints_on_offer, germinate, largest, legal_slots

if TYPE_CHECKING:
    import numpy as np

    from esper.leyline.reports import TrialReport


class GradientPolicy:
    """Germinates one blueprint, whenever legal, in the slot with the largest gradient norm; keeps what may be kept.

    The score follows GradMax (Evci et al. 2022): new units pay off most where the gradient with respect to them is largest.
    """

    name = "gradient"

    def __init__(self, blueprint: int, *, first_epoch: int = 0):
        """Grow `blueprint` (a catalogue place) from `first_epoch` on."""
        self.blueprint = blueprint
        self.first_epoch = first_epoch

    def reset(self, rng: np.random.Generator) -> None:
        """There is nothing to forget."""

    def decide(self, report: TrialReport) -> FactoredAction:
        """Fossilize, else germinate at the largest measured gradient, else advance, else wait."""
        ripe = legal_slots(report, LifecycleOp.FOSSILIZE)
        if ripe:
            return act_in(ripe[0], LifecycleOp.FOSSILIZE)
        free = legal_slots(report, LifecycleOp.GERMINATE)
        slot = largest(free, report, lambda s: s.gradient_norm)
        if slot is not None and report.epoch >= self.first_epoch and blueprints_on_offer(report, (self.blueprint,)):
            return germinate(report, slot, self.blueprint)
        return advance_or_wait(report)
