"""Base observation: what an epoch of host training looks like as 27 bounded numbers.

`TrainingSignals` is the rich view with history and clock, `FastTrainingSignals` the fixed-size one that policies read.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

TENSOR_SCHEMA_VERSION = 1
"""Rises when the order or the scaling of the features changes."""
TENSOR_SCHEMA_SIZE = 27
HISTORY_LENGTH = 5
ABSENT = -1.0
"""Feature value of a loss or accuracy that does not exist yet; no finite loss ≥ 0 or accuracy maps to it."""

History = tuple[float | None, float | None, float | None, float | None, float | None]
NO_HISTORY: History = (None, None, None, None, None)


class TensorSchema(IntEnum):
    """Index of every base feature."""

    EPOCH = 0
    GLOBAL_STEP = 1
    TRAIN_LOSS = 2
    VAL_LOSS = 3
    LOSS_DELTA = 4
    TRAIN_ACCURACY = 5
    VAL_ACCURACY = 6
    ACCURACY_DELTA = 7
    PLATEAU_EPOCHS = 8
    BEST_VAL_ACCURACY = 9
    BEST_VAL_LOSS = 10
    LOSS_HIST_0 = 11
    LOSS_HIST_1 = 12
    LOSS_HIST_2 = 13
    LOSS_HIST_3 = 14
    LOSS_HIST_4 = 15
    ACC_HIST_0 = 16
    ACC_HIST_1 = 17
    ACC_HIST_2 = 18
    ACC_HIST_3 = 19
    ACC_HIST_4 = 20
    HAS_ACTIVE_SEED = 21
    SEED_STAGE = 22
    SEED_EPOCHS_IN_STAGE = 23
    SEED_ALPHA = 24
    SEED_IMPROVEMENT = 25
    AVAILABLE_SLOTS = 26


_LOSSES = np.array([2, 3, 10, 11, 12, 13, 14, 15])
_ACCURACIES = np.array([5, 6, 9, 16, 17, 18, 19, 20])
_LEVELS = np.concatenate([_LOSSES, _ACCURACIES])
_DELTAS = np.array([TensorSchema.ACCURACY_DELTA, TensorSchema.SEED_IMPROVEMENT])
_FRACTIONS = np.array([0, 1, 8, 21, 22, 23, 24, 26])
"""Epoch, step, plateau, has seed, stage, epochs in stage, alpha, available slots; offsets and divisors follow this order."""
_FRACTION_OFFSETS = np.array([0, 0, 0, 0, 1, 0, 0, 0])
_SYMLOG_RANGE = 7.0
_DELTA_RANGE = 10.0
_PLATEAU_RANGE_EPOCHS = 20.0
_LAST_GROWING_STAGE = 7


@dataclass(frozen=True, slots=True)
class SignalScale:
    """What the counts of a trial are divided by."""

    max_epochs: int
    max_steps: int
    """Host batches in an episode."""
    num_slots: int

    def __post_init__(self) -> None:
        """Refuse a scale that cannot divide.

        Raises:
            ValueError: If a field is below 1.
        """
        if min(self.max_epochs, self.max_steps, self.num_slots) < 1:
            raise ValueError(f"a signal scale counts from 1, got {self}")


class FastTrainingSignals(NamedTuple):
    """Nineteen fields, two of them five epochs of history (oldest first). None is unmeasured; accuracies in percent."""

    epoch: int = 0
    global_step: int = 0
    train_loss: float | None = None
    val_loss: float | None = None
    loss_delta: float | None = None
    """Previous minus current validation loss: positive is better."""
    train_accuracy: float | None = None
    val_accuracy: float | None = None
    accuracy_delta: float | None = None
    """Current minus previous validation accuracy, in points."""
    plateau_epochs: int = 0
    best_val_accuracy: float | None = None
    best_val_loss: float | None = None
    loss_history: History = NO_HISTORY
    accuracy_history: History = NO_HISTORY
    has_active_seed: bool = False
    seed_stage: int = 0
    """Number of the active seed's `SeedStage`; 0 without one."""
    seed_epochs_in_stage: int = 0
    seed_alpha: float = 0.0
    seed_improvement: float | None = None
    """Accuracy gained since the active seed's stage began, in points."""
    available_slots: int = 0

    def to_vector(self, scale: SignalScale) -> list[float]:
        """The 27 features in the order of `TensorSchema`, each in [-1, 1].

        Losses become symlog(x)/7, accuracies x/100, differences in points x/10, the loss difference symlog(x), counts
        shares of their maximum, the stage (stage − 1)/6; all are clipped. An absent loss or accuracy is −1, an absent
        difference 0 (its absence shows in the history and in `feature_mask`). A NaN counts as the worst value.
        """
        features: list[float] = features_of([self], scale)[0].tolist()
        return features

    def feature_mask(self) -> list[bool]:
        """Which of the 27 features were measured."""
        return [value is not None for value in self.flatten()]

    def flatten(self) -> tuple[float | None, ...]:
        """The 27 values before scaling, in the order of `TensorSchema`."""
        return (*self[:11], *self.loss_history, *self.accuracy_history, *self[13:])

    def to_tensor(self, scale: SignalScale, device: torch.device | str | None = None) -> torch.Tensor:
        """`to_vector` as a float32 tensor [27]."""
        return FastTrainingSignals.batch_to_tensor([self], scale, device)[0]

    @staticmethod
    def batch_to_tensor(
        signals: Sequence[FastTrainingSignals], scale: SignalScale, device: torch.device | str | None = None
    ) -> torch.Tensor:
        """Features of B trials at once, as a float32 tensor [B, 27]."""
        import torch

        return torch.from_numpy(features_of(signals, scale)).to(device=device, dtype=torch.float32)


def features_of(signals: Sequence[FastTrainingSignals], scale: SignalScale) -> np.ndarray:
    """Features of B trials as float64 [B, 27] in [-1, 1]; see `FastTrainingSignals.to_vector`."""
    rows = [signal.flatten() for signal in signals]
    present = np.array([[value is not None for value in row] for row in rows], dtype=bool).reshape(-1, TENSOR_SCHEMA_SIZE)
    raw = np.array([[0.0 if value is None else value for value in row] for row in rows], dtype=np.float64)
    raw = raw.reshape(-1, TENSOR_SCHEMA_SIZE)
    out = np.empty_like(raw)
    out[:, _LOSSES] = np.nan_to_num(_symlog(raw[:, _LOSSES]) / _SYMLOG_RANGE, nan=1.0)
    out[:, _ACCURACIES] = np.nan_to_num(raw[:, _ACCURACIES] / 100.0, nan=0.0)
    out[:, _DELTAS] = np.nan_to_num(raw[:, _DELTAS] / _DELTA_RANGE, nan=-1.0)
    out[:, TensorSchema.LOSS_DELTA] = np.nan_to_num(_symlog(raw[:, TensorSchema.LOSS_DELTA]), nan=-1.0)
    shares = np.nan_to_num((raw[:, _FRACTIONS] - _FRACTION_OFFSETS) / _divisors(scale), nan=0.0)
    out[:, _FRACTIONS] = np.clip(shares, 0.0, 1.0)
    out[:, _LEVELS] = np.where(present[:, _LEVELS], out[:, _LEVELS], ABSENT)
    return np.clip(out, -1.0, 1.0)


@dataclass(slots=True)
class TrainingMetrics:
    """Numbers of the current epoch. None is unmeasured; accuracies in percent."""

    epoch: int = 0
    global_step: int = 0
    train_loss: float | None = None
    val_loss: float | None = None
    loss_delta: float | None = None
    train_accuracy: float | None = None
    val_accuracy: float | None = None
    accuracy_delta: float | None = None
    plateau_epochs: int = 0
    best_val_accuracy: float | None = None
    best_val_loss: float | None = None


def _recent() -> deque[float]:
    return deque(maxlen=HISTORY_LENGTH)


@dataclass
class TrainingSignals:
    """An epoch with its history and surroundings, for people and logs."""

    metrics: TrainingMetrics = field(default_factory=TrainingMetrics)
    loss_history: deque[float] = field(default_factory=_recent)
    """Validation losses, newest last; of a longer history only the last five reach the policy."""
    accuracy_history: deque[float] = field(default_factory=_recent)
    has_active_seed: bool = False
    seed_stage: int = 0
    seed_epochs_in_stage: int = 0
    seed_alpha: float = 0.0
    seed_improvement: float | None = None
    available_slots: int = 0
    timestamp: datetime = field(default_factory=lambda: datetime.now(UTC))
    gpu_memory_used_gb: float | None = None
    gpu_utilization_frac: float | None = None

    def to_fast(self) -> FastTrainingSignals:
        """Reduce to the fixed-size tier; the clock and the GPU stay behind. Constant time, whatever the history's length."""
        m = self.metrics
        return FastTrainingSignals(
            epoch=m.epoch,
            global_step=m.global_step,
            train_loss=m.train_loss,
            val_loss=m.val_loss,
            loss_delta=m.loss_delta,
            train_accuracy=m.train_accuracy,
            val_accuracy=m.val_accuracy,
            accuracy_delta=m.accuracy_delta,
            plateau_epochs=m.plateau_epochs,
            best_val_accuracy=m.best_val_accuracy,
            best_val_loss=m.best_val_loss,
            loss_history=pad_history(self.loss_history),
            accuracy_history=pad_history(self.accuracy_history),
            has_active_seed=self.has_active_seed,
            seed_stage=self.seed_stage,
            seed_epochs_in_stage=self.seed_epochs_in_stage,
            seed_alpha=self.seed_alpha,
            seed_improvement=self.seed_improvement,
            available_slots=self.available_slots,
        )


def pad_history(values: Sequence[float]) -> History:
    """The last five values, newest last, with None in front where fewer exist."""
    a, b, c, d, e = (values[-back] if back <= len(values) else None for back in range(HISTORY_LENGTH, 0, -1))
    return (a, b, c, d, e)


def stage_scalar(stage: int) -> float:
    """(stage − 1)/6 clamped to [0, 1]: DORMANT is 0, FOSSILIZED and every later stage 1."""
    return min(max((stage - 1) / (_LAST_GROWING_STAGE - 1), 0.0), 1.0)


def _symlog(x: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.copysign(np.log1p(np.abs(x)), x)
    return result


def _divisors(scale: SignalScale) -> np.ndarray:
    return np.array(
        [scale.max_epochs, scale.max_steps, _PLATEAU_RANGE_EPOCHS, 1, _LAST_GROWING_STAGE - 1, scale.max_epochs, 1, scale.num_slots],
        dtype=np.float64,
    )
