"""Running mean and spread of returns, in whose units the value head works."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

STD_FLOOR = 1e-2
"""Returns that hardly vary are not blown up beyond this."""


@dataclass(frozen=True, slots=True)
class ReturnNormaliser:
    """Debiased exponential averages of G and G², advanced once a round (van Hasselt et al. 2016).

    normaliser = normaliser.updated(returns)
    target = normaliser.normalise(returns)
    """

    decay: float
    """Weight of the past, 0…1, per update."""
    num_updates: int = 0
    first_moment: float = 0.0
    second_moment: float = 0.0
    """Biased averages, as accumulated from zero."""

    @property
    def mean(self) -> float:
        """Mean in reward units; 0 before the first update."""
        return self.first_moment / self._debias() if self.num_updates else 0.0

    @property
    def std(self) -> float:
        """Standard deviation in reward units, floored; 1 before the first update."""
        if not self.num_updates:
            return 1.0
        variance = self.second_moment / self._debias() - self.mean**2
        return max(math.sqrt(max(variance, 0.0)), STD_FLOOR)

    def updated(self, returns: np.ndarray) -> ReturnNormaliser:
        """Take in a round's returns [M].

        Raises:
            ValueError: If there are none, or one is not finite.
        """
        values = np.asarray(returns, dtype=np.float64)
        if values.size == 0 or not np.isfinite(values).all():
            raise ValueError(f"returns should be finite and at least one, got {values.size} with {np.sum(~np.isfinite(values))} not finite")
        keep = self.decay
        return ReturnNormaliser(
            keep,
            self.num_updates + 1,
            keep * self.first_moment + (1.0 - keep) * float(values.mean()),
            keep * self.second_moment + (1.0 - keep) * float(np.square(values).mean()),
        )

    def normalise(self, returns: np.ndarray) -> np.ndarray:
        """Reward units → normalised units, float32."""
        return ((np.asarray(returns, dtype=np.float64) - self.mean) / self.std).astype(np.float32)

    def denormalise(self, values: np.ndarray) -> np.ndarray:
        """Normalised units → reward units, float32."""
        return (np.asarray(values, dtype=np.float64) * self.std + self.mean).astype(np.float32)

    def to_json(self) -> dict[str, float | int]:
        """State as plain numbers; floats survive JSON exactly."""
        return {
            "decay": self.decay,
            "num_updates": self.num_updates,
            "first_moment": self.first_moment,
            "second_moment": self.second_moment,
        }

    @classmethod
    def from_json(cls, state: Mapping[str, float | int]) -> ReturnNormaliser:
        """Undo `to_json`; KeyError names what is missing."""
        return cls(float(state["decay"]), int(state["num_updates"]), float(state["first_moment"]), float(state["second_moment"]))

    def with_decay(self, decay: float) -> ReturnNormaliser:
        """The same mean and spread, forgetting at another pace from now on; itself if the pace is the same."""
        if decay == self.decay:
            return self
        scale = (1.0 - decay**self.num_updates) / self._debias() if self.num_updates else 1.0
        return ReturnNormaliser(decay, self.num_updates, scale * self.first_moment, scale * self.second_moment)

    def _debias(self) -> float:
        return 1.0 - float(self.decay**self.num_updates)


def popart_correction(old: ReturnNormaliser, new: ReturnNormaliser) -> tuple[float, float]:
    """Scale and shift that make v·scale + shift in the new units mean what v meant in the old ones."""
    return old.std / new.std, (old.mean - new.mean) / new.std
