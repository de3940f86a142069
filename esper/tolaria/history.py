"""A trial's memory of its own losses and accuracies, from which the base observation is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.leyline.signals import FastTrainingSignals, pad_history
from esper.leyline.stages import SeedStage, is_active_stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.leyline.reports import SeedStateReport, SlotReport

PLATEAU_TOLERANCE = 0.5
"""Points of validation accuracy that an epoch must gain on the best so far not to count as plateau."""


class SignalHistory:
    """Collects one trial's epochs. Losses in nats, accuracies in percent."""

    def __init__(self) -> None:
        self._val_losses: list[float] = []
        self._val_accuracies: list[float] = []
        self._train_loss: float | None = None
        self._train_accuracy: float | None = None
        self._num_batches = 0
        self._num_plateau = 0

    @property
    def last_validation(self) -> tuple[float, float]:
        """Accuracy and loss of the latest validation."""
        return self._val_accuracies[-1], self._val_losses[-1]

    def record_training(self, loss: float, accuracy: float, num_batches: int) -> None:
        """Add an epoch's training figures."""
        self._train_loss, self._train_accuracy = loss, accuracy
        self._num_batches += num_batches

    def record_validation(self, loss: float, accuracy: float) -> None:
        """Add an epoch's validation figures."""
        has_gained = not self._val_accuracies or accuracy > max(self._val_accuracies) + PLATEAU_TOLERANCE
        self._num_plateau = 0 if has_gained else self._num_plateau + 1
        self._val_losses.append(loss)
        self._val_accuracies.append(accuracy)

    def signals(self, epoch: int, slots: Sequence[SlotReport]) -> FastTrainingSignals:
        """The base observation after `epoch` epochs; of several active seeds the youngest unfinished one is shown."""
        seed = _seed_in_focus(slots)
        losses, accuracies = self._val_losses, self._val_accuracies
        return FastTrainingSignals(
            epoch=epoch,
            global_step=self._num_batches,
            train_loss=self._train_loss,
            val_loss=losses[-1],
            loss_delta=losses[-2] - losses[-1] if len(losses) > 1 else None,
            train_accuracy=self._train_accuracy,
            val_accuracy=accuracies[-1],
            accuracy_delta=accuracies[-1] - accuracies[-2] if len(accuracies) > 1 else None,
            plateau_epochs=self._num_plateau,
            best_val_accuracy=max(accuracies),
            best_val_loss=min(losses),
            loss_history=pad_history(losses),
            accuracy_history=pad_history(accuracies),
            has_active_seed=seed is not None,
            seed_stage=int(seed.stage) if seed else 0,
            seed_epochs_in_stage=seed.epochs_in_stage if seed else 0,
            seed_alpha=seed.alpha if seed else 0.0,
            seed_improvement=seed.metrics.improvement_since_stage_start if seed else None,
            available_slots=sum(slot.seed is None for slot in slots),
        )


def _seed_in_focus(slots: Sequence[SlotReport]) -> SeedStateReport | None:
    active = [slot.seed for slot in slots if slot.seed is not None and is_active_stage(slot.seed.stage)]
    return min(active, key=lambda seed: (seed.stage is SeedStage.FOSSILIZED, seed.age_epochs), default=None)
