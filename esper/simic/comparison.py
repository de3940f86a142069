"""Which policy is better, and how sure that is (Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice").

Scores are paired: a column is one seed, played by every policy with the same data, host and batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Scores of P policies in C contexts on S seeds."""

    policies: tuple[str, ...]
    contexts: tuple[str, ...]
    scores: np.ndarray
    """[P, C, S], higher is better, all finite."""

    def __post_init__(self) -> None:
        """Check the shape.

        Raises:
            ValueError: If the array does not fit the labels, is empty, or holds what is not finite.
        """
        expected = (len(self.policies), len(self.contexts))
        if self.scores.ndim != 3 or self.scores.shape[:2] != expected or self.scores.shape[2] == 0:
            raise ValueError(f"scores of shape {self.scores.shape} do not hold {expected[0]} policies × {expected[1]} contexts × seeds")
        if not np.isfinite(self.scores).all():
            raise ValueError("scores should be finite; leave out a seed for every policy if one of them has no score")

    @classmethod
    def from_scores(cls, scores: Mapping[str, Mapping[str, list[float]]]) -> ScoreTable:
        """Read policy → context → one score per seed, seeds in the same order for every policy.

        Raises:
            ValueError: If policies were not played in the same contexts with the same number of seeds.
        """
        policies = tuple(scores)
        contexts = tuple(next(iter(scores.values()), {}))
        sizes = {(tuple(by_context), tuple(map(len, by_context.values()))) for by_context in scores.values()}
        if len(sizes) != 1 or len(set(next(iter(sizes))[1])) != 1:
            raise ValueError("every policy should have scores in the same contexts, with one number of seeds")
        return cls(policies, contexts, np.array([[scores[p][c] for c in contexts] for p in policies], dtype=np.float64))

    def of(self, policy: str) -> np.ndarray:
        """[C, S] scores of one policy.

        Raises:
            KeyError: If there is no such policy.
        """
        if policy not in self.policies:
            raise KeyError(f"no scores of {policy!r}; there are {', '.join(self.policies)}")
        found: np.ndarray = self.scores[self.policies.index(policy)]
        return found


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its 95 % bootstrap interval, which one seed per context says nothing about: None."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class PolicySummary:
    """How one policy did over all contexts."""

    policy: str
    mean: Estimate
    iqm: Estimate
    """Mean of the middle half of all runs."""
    by_context: Mapping[str, float]
    """Mean over seeds."""


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """One policy against another on the same seeds."""

    policy: str
    baseline: str
    difference: Estimate
    """Mean of policy − baseline."""
    probability_of_improvement: Estimate
    """Chance that a run of the policy beats a run of the baseline in the same context; ties count half."""

    @property
    def is_significant(self) -> bool:
        """Whether the interval of the difference is known and leaves 0 out."""
        low, high = self.difference.low, self.difference.high
        return low is not None and high is not None and (low > 0.0 or high < 0.0)


def iqm(scores: np.ndarray) -> float:
    """Interquartile mean: a quarter of the runs, rounded down, is cut from either end."""
    ordered = np.sort(scores, axis=None)
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def probability_of_improvement(policy: np.ndarray, baseline: np.ndarray) -> float:
    """Mean over contexts of P(X > Y) + ½·P(X = Y) for runs X, Y [C, S] of either (Mann–Whitney's U, scaled)."""
    x, y = policy[:, :, None], baseline[:, None, :]
    return float(np.mean((x > y) + 0.5 * (x == y)))


def summarise(table: ScoreTable, rng: np.random.Generator, *, num_resamples: int = NUM_RESAMPLES) -> tuple[PolicySummary, ...]:
    """Mean and interquartile mean of every policy with stratified bootstrap intervals, in the table's order."""
    return tuple(
        PolicySummary(
            policy=policy,
            mean=_bootstrap(lambda s: float(s[0].mean()), table.of(policy)[None], rng, num_resamples),
            iqm=_bootstrap(lambda s: iqm(s[0]), table.of(policy)[None], rng, num_resamples),
            by_context=dict(zip(table.contexts, table.of(policy).mean(axis=1).tolist(), strict=True)),
        )
        for policy in table.policies
    )


def compare(
    table: ScoreTable, policy: str, baseline: str, *, rng: np.random.Generator, num_resamples: int = NUM_RESAMPLES
) -> PairedComparison:
    """Compare two policies, resampling the seeds of each context for both at once.

    Raises:
        KeyError: If a policy is not in the table.
    """
    pair = np.stack([table.of(policy), table.of(baseline)])
    return PairedComparison(
        policy=policy,
        baseline=baseline,
        difference=_bootstrap(lambda s: float((s[0] - s[1]).mean()), pair, rng, num_resamples),
        probability_of_improvement=_bootstrap(lambda s: probability_of_improvement(s[0], s[1]), pair, rng, num_resamples),
    )


def stratified_resample(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw seeds with replacement within each context, the same for every policy: [P, C, S] → [P, C, S]."""
    _, num_contexts, num_seeds = scores.shape
    chosen = rng.integers(num_seeds, size=(num_contexts, num_seeds))
    drawn: np.ndarray = scores[:, np.arange(num_contexts)[:, None], chosen]
    return drawn


def _bootstrap(statistic: Callable[[np.ndarray], float], scores: np.ndarray, rng: np.random.Generator, num_resamples: int) -> Estimate:
    """Percentile interval (Efron 1979)."""
    if scores.shape[2] == 1:
        return Estimate(statistic(scores), None, None)
    draws = [statistic(stratified_resample(scores, rng)) for _ in range(num_resamples)]
    tail = 0.5 * (1.0 - CONFIDENCE)
    low, high = np.quantile(draws, [tail, 1.0 - tail])
    return Estimate(statistic(scores), float(low), float(high))
