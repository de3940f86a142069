"""The policy that follows a schedule written in advance, whatever happens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from esper.leyline.actions import FactoredAction, LifecycleOp
from esper.tamiyo.baselines.legal import act_in, advance_or_wait, germinate, legal_slots

if TYPE_CHECKING:
    import numpy as np

    from esper.leyline.reports import TrialReport


@dataclass(frozen=True, slots=True)
class Germination:
    """One planned growth."""

    epoch: int
    """First epoch at which it is due."""
    slot: int
    blueprint: int
    """Catalogue place."""


class FixedSchedule:
    """Germinates each entry of a plan as soon as it is due and legal, and keeps everything that may be kept.

    Entries wait for one another only where they share a slot; one that is never legal is never played.
    """

    def __init__(self, plan: tuple[Germination, ...], *, name: str = "fixed"):
        """Follow `plan`, in order of epochs."""
        self.name = name
        self.plan = tuple(sorted(plan, key=lambda g: g.epoch))
        self._left = list(self.plan)

    def reset(self, rng: np.random.Generator) -> None:  # noqa: ARG002
        """Begin the plan anew."""
        self._left = list(self.plan)

    def decide(self, report: TrialReport) -> FactoredAction:
        """Germinate what is due, else fossilize, else advance, else wait."""
        free = legal_slots(report, LifecycleOp.GERMINATE)
        for entry in self._left:
            if entry.epoch <= report.epoch and entry.slot in free and report.masks.blueprint[0, entry.blueprint]:
                self._left.remove(entry)
                return germinate(report, entry.slot, entry.blueprint)
        ripe = legal_slots(report, LifecycleOp.FOSSILIZE)
        return act_in(ripe[0], LifecycleOp.FOSSILIZE) if ripe else advance_or_wait(report)
