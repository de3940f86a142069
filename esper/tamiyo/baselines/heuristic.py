"""The policy of a careful person: grow on a plateau, judge by counterfactuals, keep what helps."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esper.leyline.actions import FactoredAction, LifecycleOp
from esper.leyline.stages import SeedStage
from esper.tamiyo.baselines.legal import act_in, advance_or_wait, blueprints_on_offer, germinate, largest, legal_slots

if TYPE_CHECKING:
    import numpy as np

    from esper.leyline.reports import SeedStateReport, TrialReport


@dataclass(frozen=True, slots=True)
class HeuristicRules:
    """Thresholds. Spans of time are shares of the horizon, so that short and long episodes are treated alike."""

    plateau_epochs: int = 2
    """Epochs without progress that call for growth."""
    warmup_frac: float = 0.15
    """No growth before."""
    embargo_frac: float = 0.15
    """No growth for so long after a pruning."""
    patience_frac: float = 0.2
    """Time in HOLDING in which a seed has to earn its place."""
    ban_frac: float = 0.3
    """A pruned blueprint is passed over for so long; twice as long after its second pruning, and so on."""
    fossilize_points: float = 0.5
    """Contribution above which a seed is kept, in points."""


class HeuristicPolicy:
    """Plateau heuristic: each epoch the first rule that applies is played.

    1. fossilize a seed in HOLDING whose contribution is large enough;
    2. prune a seed that hurts, or whose patience in HOLDING ran out;
    3. on a plateau, after warm-up and embargo, germinate the next blueprint of the rotation in the slot with the largest
       gradient (in the first free one where none was measured);
    4. advance what may advance; else wait.
    """

    name = "heuristic"

    def __init__(self, blueprints: tuple[int, ...] = (), rules: HeuristicRules | None = None):
        """Rotate through `blueprints` (catalogue places; empty for all on offer)."""
        self.blueprints = blueprints
        self.rules = rules or HeuristicRules()
        self._turn = 0
        self._last_prune_epoch: int | None = None
        self._num_prunes: Counter[int] = Counter()
        self._banned_until: dict[int, int] = {}

    def reset(self, rng: np.random.Generator) -> None:  # noqa: ARG002
        """Forget rotation, embargo and bans."""
        self._turn = 0
        self._last_prune_epoch = None
        self._num_prunes.clear()
        self._banned_until.clear()

    def decide(self, report: TrialReport) -> FactoredAction:
        """Play the first rule that applies."""
        return self._fossilize(report) or self._prune(report) or self._germinate(report) or advance_or_wait(report)

    def _fossilize(self, report: TrialReport) -> FactoredAction | None:
        ripe = legal_slots(report, LifecycleOp.FOSSILIZE)
        best = largest(ripe, report, lambda s: None if s.seed is None else s.seed.metrics.contribution)
        if best is None or not _contribution(report, best) > self.rules.fossilize_points:
            return None
        return act_in(best, LifecycleOp.FOSSILIZE)

    def _prune(self, report: TrialReport) -> FactoredAction | None:
        patience = math.ceil(self.rules.patience_frac * report.max_epochs)
        for slot in legal_slots(report, LifecycleOp.PRUNE):
            seed = report.slots[slot].seed
            if seed is not None and self._is_failing(seed, patience):
                self._last_prune_epoch = report.epoch
                self._num_prunes[seed.blueprint_place] += 1
                ban = math.ceil(self.rules.ban_frac * report.max_epochs * self._num_prunes[seed.blueprint_place])
                self._banned_until[seed.blueprint_place] = report.epoch + ban
                return act_in(slot, LifecycleOp.PRUNE)
        return None

    def _is_failing(self, seed: SeedStateReport, patience: int) -> bool:
        contribution = seed.metrics.contribution
        if contribution is None:
            return False
        has_stalled = seed.stage is SeedStage.HOLDING and seed.epochs_in_stage >= patience
        return contribution < 0.0 or (has_stalled and contribution <= self.rules.fossilize_points)

    def _germinate(self, report: TrialReport) -> FactoredAction | None:
        embargo = math.ceil(self.rules.embargo_frac * report.max_epochs)
        is_embargoed = self._last_prune_epoch is not None and report.epoch - self._last_prune_epoch < embargo
        is_early = report.epoch < self.rules.warmup_frac * report.max_epochs
        free = legal_slots(report, LifecycleOp.GERMINATE)
        if is_embargoed or is_early or not free or report.signals.plateau_epochs < self.rules.plateau_epochs:
            return None
        places = [p for p in blueprints_on_offer(report, self.blueprints) if report.epoch >= self._banned_until.get(p, 0)]
        if not places:
            return None
        strongest = largest(free, report, lambda s: s.gradient_norm)
        place = places[self._turn % len(places)]
        self._turn += 1
        return germinate(report, free[0] if strongest is None else strongest, place)


def _contribution(report: TrialReport, slot: int) -> float:
    seed = report.slots[slot].seed
    contribution = None if seed is None else seed.metrics.contribution
    return -math.inf if contribution is None else contribution
