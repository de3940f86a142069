"""The governor: says from a trial's losses whether it is still healthy.

It only judges; restoring the last good state is the trial's business.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esper.leyline.load import ConfigError, setting
from esper.leyline.schemas import GovernorVerdict, PanicReason

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class GovernorConfig:
    """When a loss is called a panic."""

    window_epochs: int = setting(20, "healthy losses remembered", unit="epochs", ge=2)
    min_history_epochs: int = setting(10, "losses needed before lobotomy or divergence can be called", unit="epochs", ge=2)
    divergence_loss: float = setting(12.0, "a loss below this is never divergence (15 suits language models)", gt=0.0)
    divergence_sigmas: float = setting(6.0, "standard deviations above the mean that count as anomalous", gt=0.0)
    divergence_ratio: float = setting(3.0, "multiple of the mean that counts as anomalous", gt=1.0)
    divergence_patience_epochs: int = setting(3, "anomalous epochs in a row that make a panic", unit="epochs", ge=1)
    lobotomy_history_frac: float = setting(0.6, "mean loss below this share of ln(classes) proves the host had learned", gt=0.0, lt=1.0)
    lobotomy_tolerance_frac: float = setting(0.065, "distance to ln(classes), as a share of it, that means all is forgotten", gt=0.0)

    def __post_init__(self) -> None:
        """Refuse a memory too short for the panics that need one.

        Raises:
            ConfigError: If fewer losses are remembered than are needed.
        """
        if self.window_epochs < self.min_history_epochs:
            raise ConfigError(f"governor.window_epochs={self.window_epochs} is less than min_history_epochs={self.min_history_epochs}")


class TolariaGovernor:
    """Watches one trial.

    verdict = governor.judge(train_loss, val_loss)
    if verdict.panic: restore the last snapshot, end the trial
    elif verdict.is_healthy: take a new snapshot
    """

    def __init__(self, config: GovernorConfig, num_classes: int) -> None:
        self._config = config
        self._guess_loss = math.log(num_classes)
        self._history: list[float] = []
        self._num_anomalies = 0

    def condemn(self, failure: str, *, loss: float | None) -> GovernorVerdict:
        """The verdict on an epoch in which a seed failed; `loss` is that of training, None if it was not finished."""
        return GovernorVerdict(PanicReason.BLUEPRINT, math.nan if loss is None else loss, None, self._num_anomalies, failure)

    def judge(self, *losses: float) -> GovernorVerdict:
        """Judge one epoch by its losses (nats); the last one is compared with the history, all must be finite."""
        broken = [value for value in losses if not math.isfinite(value)]
        if broken:
            return GovernorVerdict(PanicReason.NAN, broken[0], None, self._num_anomalies)
        loss = losses[-1]
        if is_lobotomy(self._history, loss, self._guess_loss, self._config):
            return GovernorVerdict(PanicReason.LOBOTOMY, loss, self._guess_loss, self._num_anomalies)
        threshold = divergence_threshold(self._history, self._config)
        if threshold is not None and loss > threshold:
            self._num_anomalies += 1
            is_panic = self._num_anomalies >= self._config.divergence_patience_epochs
            return GovernorVerdict(PanicReason.DIVERGENCE if is_panic else None, loss, threshold, self._num_anomalies)
        self._num_anomalies = 0
        self._history = [*self._history, loss][-self._config.window_epochs :]
        return GovernorVerdict(None, loss, threshold, 0)


def divergence_threshold(history: Sequence[float], config: GovernorConfig) -> float | None:
    """Loss above which an epoch is anomalous: the largest of a floor, mean + kσ and a multiple of the mean.

    None before `min_history_epochs` losses.
    """
    if len(history) < config.min_history_epochs:
        return None
    mean, sigma = statistics.fmean(history), statistics.stdev(history)
    return max(config.divergence_loss, mean + config.divergence_sigmas * sigma, config.divergence_ratio * mean)


def is_lobotomy(history: Sequence[float], loss: float, guess_loss: float, config: GovernorConfig) -> bool:
    """Whether a host that had learned suddenly predicts no better than a random guess, ln(classes)."""
    if len(history) < config.min_history_epochs:
        return False
    had_learned = statistics.fmean(history) < config.lobotomy_history_frac * guess_loss
    return had_learned and abs(loss - guess_loss) < config.lobotomy_tolerance_frac * guess_loss
