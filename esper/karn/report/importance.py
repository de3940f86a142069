"""Which parameters of a sweep mattered: permutation importance of a random forest (Breiman 2001), on trials it was not fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_TRIALS = 10
"""Below this the forest is not fitted."""
TRIALS_PER_PARAMETER = 3
"""And below so many for each parameter."""
NUM_FOLDS = 5
NUM_TREES = 100
NUM_REPEATS = 20


@dataclass(frozen=True, slots=True)
class Importance:
    """How much worse the forest predicts when one parameter's values are shuffled among trials."""

    key: str
    value: float
    """Mean loss of R²; 0 is no use, and what is below 0 is noise."""
    std: float
    """Over folds and shuffles."""


@dataclass(frozen=True)
class ImportanceReport:
    """Importances, or why there are none."""

    importances: tuple[Importance, ...] = ()
    """From most to least important; empty where `reason` is given."""
    r_squared: float | None = None
    """Of the forest on held-out trials."""
    reason: str | None = None

    @property
    def is_trustworthy(self) -> bool:
        """Whether the forest predicts held-out trials better than their mean does."""
        return self.r_squared is not None and self.r_squared > 0.0


def trials_needed(num_parameters: int) -> int:
    """Fewest trials from which importance is estimated."""
    return max(MIN_TRIALS, TRIALS_PER_PARAMETER * num_parameters)


def estimate_importance(keys: Sequence[str], positions: np.ndarray, scores: np.ndarray) -> ImportanceReport:
    """Fit a forest and shuffle one column at a time, on trials that were left out of the fit.

    Args:
        keys: P parameters.
        positions: [N, P] where each value lies in its range, 0…1, and -1 where a parameter does not apply.
        scores: [N] the metric, at the same number of rounds for every trial.

    Returns:
        One importance per parameter, or the reason why there is none.
    """
    needed = trials_needed(len(keys))
    if len(scores) < needed:
        return ImportanceReport(reason=f"{len(scores)} trials are too few; {needed} are needed for {len(keys)} parameters")
    if np.ptp(scores) == 0.0:
        return ImportanceReport(reason="all trials have the same score")
    from sklearn.ensemble import RandomForestRegressor  # takes long, and a sweep reports only when it has ended
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import KFold

    losses: list[np.ndarray] = []
    predicted = np.empty_like(scores, dtype=np.float64)
    for fold, (fitted, held_out) in enumerate(KFold(NUM_FOLDS, shuffle=True, random_state=0).split(positions)):
        forest = RandomForestRegressor(NUM_TREES, random_state=fold).fit(positions[fitted], scores[fitted])
        predicted[held_out] = forest.predict(positions[held_out])
        found = permutation_importance(
            forest,
            positions[held_out],
            scores[held_out],
            scoring="neg_mean_squared_error",
            n_repeats=NUM_REPEATS,
            random_state=fold,
        )
        losses.append(found.importances / scores.var())
    every = np.concatenate(losses, axis=1)
    importances = [Importance(key, float(row.mean()), float(row.std())) for key, row in zip(keys, every, strict=True)]
    r_squared = 1.0 - float(np.mean((scores - predicted) ** 2) / scores.var())
    return ImportanceReport(tuple(sorted(importances, key=lambda one: -one.value)), r_squared)
