"""Where a run and its hosts are heading: accuracy over rounds, falls below what was usual, and hosts that have settled.

Rounds play different contexts and hosts, so that a difference counts only where chance does not explain it.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any

from esper.leyline.telemetry.event import TelemetryEventType
from esper.leyline.telemetry.simic import PerformanceDegradationPayload, TrendDetectedPayload
from esper.leyline.telemetry.tamiyo import TamiyoInitiatedPayload

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from esper.leyline.reports import EpisodeOutcome, TrialReport

WINDOW_ROUNDS = 4
"""Rounds in each of the two windows that are compared, and in the rolling mean that rounds report."""
PLATEAU_POINTS, TREND_POINTS = 0.5, 2.0
"""Change of the rolling mean below which accuracy has flattened, and beyond which it has risen or fallen."""
SURE_ERRORS = 2.0
"""Standard errors that a rise or a fall must exceed."""
DROP_FRAC = 0.1
"""Share of the rolling mean by which a round must fall short."""
DROP_ERRORS = 3.0
DROP_AFTER_FRAC = 0.1
"""Share of the run before which nothing is called a drop."""
CONTEXT_ROUNDS, MIN_CONTEXT_ROUNDS = 10, 3
"""Rounds that a context's rolling mean covers, and the fewest that make one."""
STABLE_EPOCHS = 3
STABLE_CHANGE = (-0.05, 0.03)
"""Improvement of the validation loss, as a share of it, within which a host counts as settled."""


class AccuracyTrend:
    """Accuracy of the rounds so far; each rise, fall or flattening is told once, when it begins."""

    def __init__(self) -> None:
        self._accuracies: deque[float] = deque(maxlen=2 * WINDOW_ROUNDS)
        self._state: TelemetryEventType | None = None

    def to_json(self) -> dict[str, Any]:
        """What a continued run needs to go on as this one would have."""
        return {"accuracies": list(self._accuracies), "state": self._state.name if self._state else None}

    def load_json(self, state: Mapping[str, Any]) -> None:
        """Go on from what `to_json` saved."""
        self._accuracies = deque(state["accuracies"], maxlen=2 * WINDOW_ROUNDS)
        self._state = TelemetryEventType[state["state"]] if state["state"] else None

    @property
    def rolling_accuracy(self) -> float | None:
        """Mean over the latest rounds; None before the first."""
        latest = list(self._accuracies)[-WINDOW_ROUNDS:]
        return statistics.fmean(latest) if latest else None

    def add(self, accuracy: float, *, batch_idx: int, episodes_completed: int) -> tuple[TelemetryEventType, TrendDetectedPayload] | None:
        """Note a round's mean accuracy in percent; returns the trend that begins with it, if one does."""
        self._accuracies.append(accuracy)
        if len(self._accuracies) < 2 * WINDOW_ROUNDS:
            return None
        rounds = list(self._accuracies)
        before, latest = rounds[:WINDOW_ROUNDS], rounds[WINDOW_ROUNDS:]
        found = trend_of(before, latest)
        is_news, self._state = found is not None and found is not self._state, found
        if found is None or not is_news:
            return None
        was, now = statistics.fmean(before), statistics.fmean(latest)
        payload = TrendDetectedPayload(
            batch_idx=batch_idx,
            episodes_completed=episodes_completed,
            rolling_delta=now - was,
            rolling_avg_accuracy=now,
            prev_rolling_avg_accuracy=was,
        )
        return found, payload


def trend_of(before: Sequence[float], latest: Sequence[float]) -> TelemetryEventType | None:
    """Judge two windows of accuracies in percent, each of at least two; None where neither can be said."""
    delta = statistics.fmean(latest) - statistics.fmean(before)
    error = math.sqrt(statistics.variance(before) / len(before) + statistics.variance(latest) / len(latest))
    if abs(delta) > max(TREND_POINTS, SURE_ERRORS * error):
        return TelemetryEventType.IMPROVEMENT_DETECTED if delta > 0 else TelemetryEventType.DEGRADATION_DETECTED
    if abs(delta) < PLATEAU_POINTS and error < TREND_POINTS:
        return TelemetryEventType.PLATEAU_DETECTED
    return None


class PerformanceWatch:
    """Compares each round's episodes with what their contexts have brought before."""

    def __init__(self) -> None:
        self._history: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=CONTEXT_ROUNDS))

    def to_json(self) -> dict[str, Any]:
        """What a continued run needs to go on as this one would have."""
        return {context: list(past) for context, past in self._history.items()}

    def load_json(self, state: Mapping[str, Any]) -> None:
        """Go on from what `to_json` saved."""
        self._history.clear()
        for context, past in state.items():
            self._history[context].extend(past)

    def add(self, outcomes: Sequence[EpisodeOutcome], *, progress: float) -> PerformanceDegradationPayload | None:
        """Note a round; returns its drop if it has one, told of the environment that fell most.

        Args:
            outcomes: Of the round's episodes.
            progress: Share of the run that is done, 0…1.
        """
        known = [(o, statistics.fmean(past)) for o in outcomes if len(past := self._history[o.context]) >= MIN_CONTEXT_ROUNDS]
        drops = [usual - outcome.final_accuracy for outcome, usual in known]
        for outcome in outcomes:
            self._history[outcome.context].append(outcome.final_accuracy)
        if progress < DROP_AFTER_FRAC or not _is_drop(drops, [usual for _, usual in known]):
            return None
        worst, usual = max(known, key=lambda pair: pair[1] - pair[0].final_accuracy)
        return PerformanceDegradationPayload(
            env_id=worst.env_id,
            current_acc=worst.final_accuracy,
            rolling_avg_acc=usual,
            drop_percent=100.0 * (usual - worst.final_accuracy) / usual,
            threshold_percent=100.0 * DROP_FRAC,
            training_progress=progress,
        )


def _is_drop(drops: Sequence[float], usual: Sequence[float]) -> bool:
    """Whether episodes fell short of their contexts' means by a tenth, and by more than chance explains."""
    if len(drops) < 2:
        return False
    mean, error = statistics.fmean(drops), statistics.stdev(drops) / math.sqrt(len(drops))
    return mean >= DROP_FRAC * statistics.fmean(usual) and mean > DROP_ERRORS * error


class SettlingWatch:
    """Says once, of one trial, when its host has settled, so that growth may be judged by what it adds."""

    def __init__(self) -> None:
        self._last_loss: float | None = None
        self._num_stable = 0
        self._has_told = False

    def look(self, report: TrialReport) -> TamiyoInitiatedPayload | None:
        """Note an epoch; returns the announcement if it is the one that settles the host."""
        before, self._last_loss = self._last_loss, report.val_loss
        if before is None or before <= 0.0 or self._has_told:
            return None
        low, high = STABLE_CHANGE
        is_stable = low <= (before - report.val_loss) / before <= high
        self._num_stable = self._num_stable + 1 if is_stable else 0
        if self._num_stable < STABLE_EPOCHS:
            return None
        self._has_told = True
        return TamiyoInitiatedPayload(
            env_id=report.env_id,
            epoch=report.epoch,
            stable_count=self._num_stable,
            stabilization_epochs=STABLE_EPOCHS,
            val_loss=report.val_loss,
        )
