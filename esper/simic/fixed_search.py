"""The best fixed plan that a given number of episodes can find: the baseline that a learned policy has to beat.

A plan germinates the same blueprints in the same slots at the same epochs, whatever it sees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_PROBABILITY = 0.05
"""Share of the draws that stay uniform, so that an early fluke can be undone."""
NOTHING_AT_FIRST = 1.0 / 3.0
"""Probability at first that a place holds nothing, without which small plans would hardly be tried."""


class Germination(NamedTuple):
    """One entry of a plan."""

    epoch: int
    slot: int
    blueprint_place: int


Plan = tuple[Germination, ...]
"""Ordered by epoch, one germination per slot; empty is never growing."""


class FixedPlanSearch:
    """Cross-entropy method over plans (Rubinstein 1999).

        while budget:
            plans = search.ask(n)
            search.tell([play(plan) for plan in plans])
        plan = search.best()

    Each of the plan's places holds nothing or one slot × blueprint × epoch, drawn from categorical distributions of their own
    that move towards the best share of every generation.
    """

    def __init__(
        self, rng: np.random.Generator, *, num_slots: int, blueprints: Sequence[int], num_epochs: int, max_germinations: int = 2
    ) -> None:
        """Start from uniform distributions, apart from a fair chance of growing nothing.

        Args:
            rng: Drawn from by `ask` alone.
            num_slots: S.
            blueprints: Catalogue places on offer.
            num_epochs: Epochs at which a plan may germinate, from 0.
            max_germinations: Places in a plan.
        """
        self._rng = rng
        self._blueprints = tuple(blueprints)
        self._num_slots = num_slots
        num_choices = num_slots * len(self._blueprints) + 1
        self._choice = np.full((max_germinations, num_choices), (1.0 - NOTHING_AT_FIRST) / (num_choices - 1))
        self._choice[:, 0] = NOTHING_AT_FIRST
        self._epoch = np.full((max_germinations, num_epochs), 1.0 / num_epochs)
        self._asked: list[Plan] = []
        self._scores: dict[Plan, list[float]] = {}

    def ask(self, count: int) -> tuple[Plan, ...]:
        """Plans to be played, one episode each."""
        self._asked = [self._draw() for _ in range(count)]
        return tuple(self._asked)

    def tell(self, scores: Sequence[float], *, elite_frac: float = 0.25, smoothing: float = 0.4) -> None:
        """Learn from the last plans asked for.

        Args:
            scores: One per plan, higher is better.
            elite_frac: Share of the generation that the distributions move towards.
            smoothing: How far they move, 0…1.

        Raises:
            ValueError: If the scores are not one finite number per plan asked for.
        """
        if len(scores) != len(self._asked) or not np.isfinite(scores).all():
            raise ValueError(f"{len(self._asked)} plans were asked for; got {len(scores)} scores, which should be finite")
        for plan, score in zip(self._asked, scores, strict=True):
            self._scores.setdefault(plan, []).append(float(score))
        values = [self.value_of(plan) for plan in self._asked]
        num_elite = max(1, round(elite_frac * len(values)))
        elite = [self._asked[i] for i in np.argsort(values, kind="stable")[::-1][:num_elite]]
        self._choice = _toward(self._choice, self._choice_counts(elite), smoothing)
        self._epoch = _toward(self._epoch, self._epoch_counts(elite), smoothing)
        self._asked = []

    def value_of(self, plan: Plan) -> float:
        """Mean score of a plan, drawn towards the mean of all by two episodes' worth, so that luck does not win.

        Raises:
            KeyError: If the plan was never played.
        """
        own = self._scores[plan]
        everything = [score for scores in self._scores.values() for score in scores]
        prior = 2.0
        return (sum(own) + prior * float(np.mean(everything))) / (len(own) + prior)

    def best(self) -> Plan:
        """The plan with the highest value so far.

        Raises:
            ValueError: If nothing was played.
        """
        if not self._scores:
            raise ValueError("no plan was played; ask and tell at least once")
        return max(sorted(self._scores), key=self.value_of)

    @property
    def num_episodes(self) -> int:
        """Episodes spent."""
        return sum(map(len, self._scores.values()))

    def _draw(self) -> Plan:
        chosen: dict[int, Germination] = {}
        for choice_prob, epoch_prob in zip(self._choice, self._epoch, strict=True):
            choice = int(self._rng.choice(len(choice_prob), p=choice_prob))
            epoch = int(self._rng.choice(len(epoch_prob), p=epoch_prob))
            if choice > 0:
                slot, blueprint = divmod(choice - 1, len(self._blueprints))
                chosen.setdefault(slot, Germination(epoch, slot, self._blueprints[blueprint]))
        return tuple(sorted(chosen.values()))

    def _choice_counts(self, plans: Sequence[Plan]) -> np.ndarray:
        counts = np.zeros_like(self._choice)
        for plan in plans:
            for place in range(len(counts)):
                counts[place, self._index(plan[place]) if place < len(plan) else 0] += 1.0
        return counts

    def _epoch_counts(self, plans: Sequence[Plan]) -> np.ndarray:
        counts = np.zeros_like(self._epoch)
        for plan in plans:
            for place, germination in enumerate(plan):
                counts[place, germination.epoch] += 1.0
        return counts

    def _index(self, germination: Germination) -> int:
        return 1 + germination.slot * len(self._blueprints) + self._blueprints.index(germination.blueprint_place)


def _toward(prob: np.ndarray, counts: np.ndarray, smoothing: float) -> np.ndarray:
    """Move each row towards its counts; a row without any stays, and no choice dies out."""
    totals = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, totals, out=prob.copy(), where=totals > 0)
    moved = np.maximum((1.0 - smoothing) * prob + smoothing * share, MIN_PROBABILITY / prob.shape[1])
    result: np.ndarray = moved / moved.sum(axis=1, keepdims=True)
    return result
