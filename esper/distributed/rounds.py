"""How far a run is, and what one of its rounds brought."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from esper.leyline.reports import EpisodeOutcome
from esper.simic.update_report import UpdateReport


@dataclass(slots=True)
class Counts:
    """How far a run is; saved with every checkpoint."""

    rounds: int = 0
    episodes: int = 0
    env_steps: int = 0


@dataclass(frozen=True, slots=True)
class RoundReport:
    """What one round brought."""

    counts: Counts
    outcomes: tuple[EpisodeOutcome, ...]
    update: UpdateReport
    wall_sec: float
    """Playing and learning."""

    @property
    def mean_utility(self) -> float:
        """Mean utility of the round's episodes on test data."""
        return statistics.fmean(outcome.utility for outcome in self.outcomes)

    @property
    def mean_accuracy(self) -> float:
        """Mean final accuracy of the round's episodes, in percent."""
        return statistics.fmean(outcome.final_accuracy for outcome in self.outcomes)

    @property
    def env_steps_per_sec(self) -> float:
        """Throughput, updates included."""
        return sum(outcome.episode_length for outcome in self.outcomes) / self.wall_sec
