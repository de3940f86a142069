"""What every host training engine offers: train one epoch, evaluate configurations, measure slots."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from esper.kasmina.grad_probe import HostProbe
from esper.leyline.load import setting
from esper.leyline.tf32 import tf32
from esper.tolaria.engine.clock import StepTimes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from esper.kasmina.model import MorphogeneticModel
    from esper.leyline.rng import SeedTree
    from esper.tolaria.data import Dataset


EvaluationSplit = Literal["val", "test"]


@dataclass(frozen=True)
class EngineConfig:
    """How hosts are trained, whatever the task."""

    kind: Literal["auto", "sequential", "population"] = setting(
        "auto", "train hosts one by one or those of one shape as one; auto takes what was measured to be faster"
    )
    optimizer: Literal["adamw", "sgd"] = setting("adamw", "host optimizer; sgd has momentum 0.9")
    weight_decay: float = setting(0.0, "decoupled weight decay", ge=0.0)
    hold_frac: float = setting(0.5, "share of the episode at peak learning rate; then it falls linearly to final_lr_frac", ge=0.0, le=1.0)
    final_lr_frac: float = setting(0.1, "learning rate at the end of the episode over the peak", ge=0.0, le=1.0)
    max_grad_norm: float | None = setting(
        None, "clip the gradient norm of host and seeds that are heard, and that of every other seed by itself; none leaves them", gt=0.0
    )
    memory_format: Literal["auto", "contiguous", "channels_last"] = setting(
        "auto", "how values of image hosts that train one by one lie in memory; auto takes what was measured to be faster on a CPU"
    )
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "auto",
        "arithmetic of forward and backward passes of hosts that train one by one; weights and optimizer stay fp32; "
        "auto takes bf16 where the CPU has instructions for it and was measured to be faster",
    )
    compile: Literal["auto", "off", "on"] = setting(
        "auto",
        "torch.compile of training steps of hosts that train one by one; auto compiles once a host was trained for as many steps as it "
        "takes to pay, with as many still to come. The population engine is always eager, and fp32",
    )
    tf32: bool = setting(
        False,
        "let a GPU round what hosts multiply and convolve to TF32, in both engines; otherwise both compute in full fp32, where torch "
        "itself would round in convolutions alone",
    )
    cuda_graphs: bool = setting(
        False, "record training steps of hosts that run as one as CUDA graphs and repeat them; refused where hosts are trained on no GPU"
    )
    probe_samples: int = setting(64, "training samples of the probe that measures slots and layers", unit="samples", ge=2)


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What a task asks of the training of its hosts."""

    max_epochs: int
    batch_size: int
    learning_rate: float
    """Peak learning rate of host and seeds."""


@dataclass(frozen=True, slots=True)
class ClippedNorms:
    """L2 norms of gradients at the last step, before clipping, by what is clipped together."""

    heard: float
    """Of the host and the seeds that are heard."""
    incubating: tuple[tuple[int, float], ...]
    """Slot and norm of every seed that learns without being heard; each is clipped by itself, so as not to disturb the host."""


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
    wall_sec: float = field(compare=False)
    """This host's share of the time it took."""
    step_times: StepTimes | None = field(default=None, compare=False)
    """This host's share of the parts of its steps; None if they were not to be timed."""
    clipped: ClippedNorms | None = None
    """None where nothing is clipped."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Every configuration on one split, in the order asked for."""

    accuracies: tuple[float, ...]
    """Percent."""
    losses: tuple[float, ...]
    """Mean cross-entropy in nats."""
    wall_sec: float = field(compare=False)
    """This host's share of the time it took."""


@dataclass(frozen=True, slots=True)
class TrainEpoch:
    """Asks an engine to train through the data once; answered by an `EpochResult`."""

    epoch: int
    is_timed: bool = False
    """Also tell how long the parts of its steps took."""


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Asks an engine for accuracies and losses; answered by an `Evaluation`."""

    split: EvaluationSplit
    configurations: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """Asks an engine to measure slots and layers; answered by a `HostProbe`."""


Call = TrainEpoch | Evaluate | Probe
Answer = EpochResult | Evaluation | HostProbe


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

    @property
    def dataset(self) -> Dataset:
        """What it is trained on."""
        ...

    @property
    def config(self) -> EngineConfig:
        """How hosts are trained."""
        ...

    @property
    def plan(self) -> TrainingPlan:
        """What the task asks of the training."""
        ...

    @property
    def seeds(self) -> SeedTree:
        """Source of data order, augmentation and what layers draw."""
        ...

    def train_epoch(self, epoch: int, *, is_timed: bool = False) -> EpochResult:
        """Train through the data once; `epoch` counts from 0 and selects order, augmentation and learning rate."""
        ...

    def evaluate(self, split: EvaluationSplit, configurations: Sequence[tuple[int, ...]]) -> Evaluation:
        """Accuracy and loss with only the named slots on; nothing is mutated."""
        ...

    def probe(self) -> HostProbe:
        """Measure layers and slots on one fixed batch; nothing is mutated."""
        ...


def answer(engine: Engine, call: Call) -> Answer | Exception:
    """Let an engine do what is asked of it; what it raises is the answer, and concerns nobody else."""
    try:
        return _answer(engine, call)
    except Exception as error:  # noqa: BLE001 - whoever asked for this member raises it again in the member's own turn
        return error


def _answer(engine: Engine, call: Call) -> Answer:
    with tf32(engine.dataset.train_x.device, is_allowed=engine.config.tf32):
        match call:
            case TrainEpoch(epoch, is_timed):
                return engine.train_epoch(epoch, is_timed=is_timed)
            case Evaluate(split, configurations):
                return engine.evaluate(split, configurations)
            case Probe():
                return engine.probe()


class Trainer(Protocol):
    """Answers the calls of several trials at once."""

    def answer(self, calls: Sequence[tuple[Engine, Call]]) -> list[Answer | Exception]:
        """One answer per call, in their order; all calls are of one kind.

        What fails in one member is that member's answer, and the others' are as if it had not been there. Anything that is
        raised concerns all of them.
        """
        ...


class OneByOne:
    """Lets every host's own engine answer."""

    def answer(self, calls: Sequence[tuple[Engine, Call]]) -> list[Answer | Exception]:
        """One answer per call, in their order."""
        return [answer(engine, call) for engine, call in calls]
