"""The reference engine: one host at a time, any `nn.Module`."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from esper.kasmina.grad_probe import HostProbe, probe
from esper.kasmina.transfer import bring
from esper.leyline.layer_ops import is_stackable
from esper.leyline.uncompiled import SGD, AdamW
from esper.tolaria.data import Dataset, batches, move
from esper.tolaria.engine.base import ClippedNorms, EngineConfig, EpochResult, Evaluation, EvaluationSplit, TrainingPlan
from esper.tolaria.engine.batching import moves_of_an_epoch
from esper.tolaria.engine.clock import StepClock
from esper.tolaria.engine.compiled import Graphs, HostSteps
from esper.tolaria.engine.layouts import choices_for, host_traits, lay_out
from esper.tolaria.engine.schedule import hold_then_decay

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from esper.kasmina.model import MorphogeneticModel
    from esper.leyline.host import LayerSpec
    from esper.leyline.rng import SeedTree
    from esper.tolaria.engine.layouts import LayoutChoice

MOST_EVALUATED_ROWS = 2048
"""Most samples × configurations of one evaluation pass."""
MOST_EVALUATED_NUMBERS = 1 << 26
"""Most numbers in the widest value of one evaluation pass; 256 MiB in fp32."""
EVALUATION_MULTIPLE = 64
"""Of which a pass whose samples are fewer for their width holds a multiple: a rest of a few may be rounded differently."""


class SequentialEngine:
    """Trains one model; see `Engine`.

    Args:
        model: Host with its slots.
        dataset: Tensors on the model's device.
        config: Optimizer and schedule.
        plan: Length, batch size and learning rate that the task asks for.
        seeds: Source of the data order, the augmentation and what layers such as dropout draw.
        graphs: Compiled steps that hosts of one process share; None gives this host its own.
    """

    def __init__(
        self,
        model: MorphogeneticModel,
        dataset: Dataset,
        config: EngineConfig,
        *,
        plan: TrainingPlan,
        seeds: SeedTree,
        graphs: Graphs | None = None,
    ) -> None:
        self.model = model
        self.dataset = dataset
        self.config = config
        self.plan = plan
        self.seeds = seeds
        self.optimizer = make_optimizer([p for p in model.parameters() if p.requires_grad], config, plan.learning_rate)
        self.traits = host_traits(model, dataset, plan.batch_size)
        """What the choice of the layout depends on."""
        self._widest = max(self.traits.values // plan.batch_size, widest_output(model.host.layer_specs()))
        self._layouts = choices_for(self.traits, config)
        self._unmeasured = choices_for(replace(self.traits, is_like_measured=False), config)[True]
        self._steps = HostSteps(model, Graphs() if graphs is None else graphs)

    @property
    def layout(self) -> LayoutChoice:
        """How the host computes with the seeds that it has now, and why."""
        seeds = [slot.planted[1] for slot in self.model.seed_slots if slot.computes and slot.planted is not None]
        is_measured = all(is_stackable(seed) for seed in seeds)  # a user's own may take no other format than contiguous
        return self._layouts[bool(seeds)] if is_measured else self._unmeasured

    def train_epoch(self, epoch: int, *, is_timed: bool = False) -> EpochResult:
        """Train through the data once."""
        started, clock = time.perf_counter(), StepClock(self.dataset.train_x.device, is_running=is_timed)
        self.model.train()
        num_batches = -(-len(self.dataset.train_x) // self.plan.batch_size)
        total_loss = torch.zeros((), device=self.dataset.train_x.device)
        num_correct = torch.zeros((), dtype=torch.long, device=self.dataset.train_x.device)
        num_labels = 0
        norms: Sequence[Tensor] = ()
        layout, incubating = self.layout, self._incubating()
        self._steps.begin_epoch(layout, batch_size=self.plan.batch_size, steps_left=num_batches * (self.plan.max_epochs - epoch))
        with self.seeds.child("layers", epoch).torch_scope([self.dataset.train_x.device]):
            clock.lap()
            for step, (x, y) in enumerate(self._batches(epoch)):
                clock.lap("transfer")
                self._set_learning_rate((epoch + step / num_batches) / self.plan.max_epochs)
                with self._precision(layout):
                    logits = in_full(self._steps.forward(lay_out(x, layout.memory_format)))
                    loss = cross_entropy(logits, y)
                clock.lap("forward")
                norms = self._update(loss, incubating, clock, is_last=step + 1 == num_batches)
                with torch.no_grad():
                    total_loss += loss.detach() * y.numel()
                    num_correct += (guesses(logits) == y).sum()
                    num_labels += y.numel()
                clock.lap()
        self.model.observe_gradients()
        loss, hits, norm, *parts = torch.stack([x.double() for x in (total_loss, num_correct, *norms)]).tolist()
        return EpochResult(
            loss=loss / num_labels,
            accuracy=100.0 * hits / num_labels,
            gradient_norm=norm,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            num_batches=num_batches,
            wall_sec=time.perf_counter() - started,
            step_times=clock.times(),
            clipped=ClippedNorms(parts[0], tuple(zip(incubating, parts[1:], strict=True))) if parts else None,
        )

    @torch.no_grad()
    def evaluate(self, split: EvaluationSplit, configurations: Sequence[tuple[int, ...]]) -> Evaluation:
        """Accuracy and loss of every configuration, all of them in each batched pass."""
        started, layout = time.perf_counter(), self.layout
        x, y = (self.dataset.val_x, self.dataset.val_y) if split == "val" else (self.dataset.test_x, self.dataset.test_y)
        num_correct = torch.zeros(len(configurations), dtype=torch.long, device=x.device)
        total_loss = torch.zeros(len(configurations), device=x.device)
        chunk = self._evaluation_samples(len(configurations))
        for start in range(0, len(x), chunk):
            labels = y[start : start + chunk]
            inputs = lay_out(x[start : start + chunk], layout.memory_format)
            with self._precision(layout):
                logits = in_full(self.model.forward_configurations(inputs, configurations))
            num_correct += (guesses(logits) == labels).flatten(1).sum(1)
            flat = labels.expand(len(configurations), *labels.shape)
            losses = F.cross_entropy(logits.flatten(0, -2), flat.flatten(), reduction="none")
            total_loss += losses.view(len(configurations), -1).sum(1)
        return Evaluation(
            accuracies=tuple((100.0 * num_correct / y.numel()).tolist()),
            losses=tuple((total_loss / y.numel()).tolist()),
            wall_sec=time.perf_counter() - started,
        )

    def probe(self) -> HostProbe:
        """Measure layers and slots on the first training samples, in contiguous fp32 whatever the layout."""
        count = self.config.probe_samples
        with self.model.naming_faults():
            return probe(self.model, self.dataset.train_x[:count], self.dataset.train_y[:count])

    def _evaluation_samples(self, num_configurations: int) -> int:
        """Samples of one evaluation pass: what fits, though no fewer rows than training puts up with."""
        rows = max(MOST_EVALUATED_NUMBERS // self._widest, self.plan.batch_size)
        if rows >= MOST_EVALUATED_ROWS:
            return max(MOST_EVALUATED_ROWS // num_configurations, 1)
        samples = max(rows // num_configurations, 1)
        return samples - samples % EVALUATION_MULTIPLE if samples > EVALUATION_MULTIPLE else samples

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        data, size = self.dataset, self.plan.batch_size
        sizes = [min(size, len(data.train_y) - start) for start in range(0, len(data.train_y), size)]
        moves = moves_of_an_epoch(data, sizes, self.seeds.child("augmentation", epoch).torch())
        parts = [None] * len(sizes) if moves is None else bring(moves, data.train_y.device).split(size)
        for (x, y), own in zip(batches(data, size, self.seeds.child("order", epoch).torch()), parts, strict=True):
            yield x if own is None else move(x, own), y

    def _precision(self, layout: LayoutChoice) -> AbstractContextManager[object]:
        if layout.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.dataset.train_x.device.type, torch.bfloat16)

    def _incubating(self) -> dict[int, list[Tensor]]:
        """Parameters of every seed that learns without being heard, by slot."""
        own: dict[int, list[Tensor]] = {
            index: [p for p in slot.parameters() if p.requires_grad]
            for index, slot in enumerate(self.model.seed_slots)
            if slot.is_incubating
        }
        return {index: parameters for index, parameters in own.items() if parameters}

    def _update(self, loss: Tensor, incubating: Mapping[int, Sequence[Tensor]], clock: StepClock, *, is_last: bool) -> Sequence[Tensor]:
        """Take one step; returns gradient norms before clipping.

        Args:
            loss: Of the batch.
            incubating: Parameters of every seed that learns without being heard, by slot.
            clock: Is told what was done.
            is_last: Whether the step is the epoch's last.

        Returns:
            Norm of everything, and where it is clipped that of what is heard and of every seed that is not; nothing where they
            are not known.
        """
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.optimizer.zero_grad(set_to_none=True)
        with self.model.naming_faults():
            torch.autograd.backward(loss)
        clock.lap("backward")
        norms: tuple[Tensor, ...] = ()
        if self.config.max_grad_norm is not None:
            norms = clip_apart(parameters, list(incubating.values()), self.config.max_grad_norm)
        elif is_last:
            norms = (torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]),)
        self.optimizer.step()
        clock.lap("optimizer")
        return norms

    def _set_learning_rate(self, progress: float) -> None:
        rate = learning_rate(self.config, self.plan, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate


def widest_output(layers: Sequence[LayerSpec]) -> int:
    """About how many numbers of one sample the widest layer returns, 0 if none tells.

    A weight is multiplied once for every position at which its channel has a value, and an attention map counts for the positions
    that it costs.
    """
    return max((layer.output_channels * layer.flops // layer.num_parameters for layer in layers if layer.num_parameters), default=0)


def learning_rate(config: EngineConfig, plan: TrainingPlan, progress: float) -> float:
    """Rate at `progress` in 0…1 of an episode."""
    return plan.learning_rate * hold_then_decay(progress, hold_frac=config.hold_frac, final_frac=config.final_lr_frac)


def make_optimizer(parameters: Iterable[Tensor], config: EngineConfig, learning_rate: float) -> torch.optim.Optimizer:
    """A host optimizer; growth transactions keep it current."""
    if config.optimizer == "sgd":
        return SGD(parameters, lr=learning_rate, momentum=0.9, weight_decay=config.weight_decay)
    return AdamW(parameters, lr=learning_rate, weight_decay=config.weight_decay, fused=True)


def clip_apart(parameters: Sequence[Tensor], incubating: Sequence[Sequence[Tensor]], limit: float) -> tuple[Tensor, ...]:
    """Scale gradients down, each group of parameters by itself, to a norm of `limit`.

    Args:
        parameters: All of them.
        incubating: Those of every seed that learns without being heard; what is left is one group.
        limit: Largest norm of a group.

    Returns:
        Norms before: of everything, of what is left, and of each of `incubating`.
    """
    apart = {p for group in incubating for p in group}
    groups = [[p for p in parameters if p not in apart], *incubating]
    norms = [torch.nn.utils.clip_grad_norm_(group, limit).to(parameters[0].device) for group in groups]
    return (torch.linalg.vector_norm(torch.stack(norms)) if incubating else norms[0], *norms)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats; logits [..., classes] and labels [...]."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())


def guesses(logits: Tensor) -> Tensor:
    """The likeliest class, the first of several; what `argmax` gives, which takes ten times as long where classes lie apart."""
    return logits.max(-1).indices


def in_full(logits: Tensor) -> Tensor:
    """Logits that autocast has left in bf16, in fp32; others as they are."""
    return logits.float() if logits.dtype is torch.bfloat16 else logits
