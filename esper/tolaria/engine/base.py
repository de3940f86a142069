"""What every host training engine offers: train one epoch, evaluate configurations, measure slots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from esper.leyline.load import setting

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from esper.kasmina.grad_probe import HostProbe
    from esper.kasmina.model import MorphogeneticModel


@dataclass(frozen=True)
class EngineConfig:
    """How hosts are trained, whatever the task."""

    optimizer: Literal["adamw", "sgd"] = setting("adamw", "host optimizer; sgd has momentum 0.9")
    weight_decay: float = setting(0.0, "decoupled weight decay", ge=0.0)
    hold_frac: float = setting(0.5, "share of the episode at peak learning rate; then it falls linearly to final_lr_frac", ge=0.0, le=1.0)
    final_lr_frac: float = setting(0.1, "learning rate at the end of the episode over the peak", ge=0.0, le=1.0)
    max_grad_norm: float | None = setting(None, "clip the gradient norm of host and seeds together; none leaves it", gt=0.0)
    probe_samples: int = setting(64, "training samples of the probe that measures slots and layers", unit="samples", ge=2)


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What a task asks of the training of its hosts."""

    max_epochs: int
    batch_size: int
    learning_rate: float
    """Peak learning rate of host and seeds."""


@dataclass(frozen=True, slots=True)
class EpochResult:
    """One epoch of training."""

    loss: float
    accuracy: float
    """Percent, averaged while the weights moved."""
    gradient_norm: float | None
    """L2 norm over all trainable parameters at the last step, before clipping."""
    learning_rate: float
    num_batches: int
    wall_sec: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Every configuration on one split, in the order asked for."""

    accuracies: tuple[float, ...]
    """Percent."""
    losses: tuple[float, ...]
    """Mean cross-entropy in nats."""


class Engine(Protocol):
    """Trains one morphogenetic model on one data set.

    result = engine.train_epoch(epoch)
    evaluation = engine.evaluate("val", configurations)
    """

    @property
    def model(self) -> MorphogeneticModel:
        """The model that is trained."""
        ...

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Its optimizer, for growth transactions."""
        ...

    def train_epoch(self, epoch: int) -> EpochResult:
        """Train through the data once; `epoch` counts from 0 and selects order, augmentation and learning rate."""
        ...

    def evaluate(self, split: Literal["val", "test"], configurations: Sequence[tuple[int, ...]]) -> Evaluation:
        """Accuracy and loss with only the named slots on; nothing is mutated."""
        ...

    def probe(self) -> HostProbe:
        """Measure layers and slots on one fixed batch; nothing is mutated."""
        ...
