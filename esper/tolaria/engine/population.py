"""The engine for many hosts of one shape: their trials' epochs, evaluations and probes run as one."""

from __future__ import annotations

import time
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from esper.kasmina.gradients import gradient_norms
from esper.kasmina.population.model import Population
from esper.kasmina.population.probe import probe_population
from esper.kasmina.transfer import bring
from esper.tolaria.engine.base import EpochResult, Evaluation, EvaluationSplit
from esper.tolaria.engine.batching import join, training_batches
from esper.tolaria.engine.clock import StepClock
from esper.tolaria.engine.flat_optimizer import FlatOptimizer
from esper.tolaria.engine.sequential import guesses, learning_rate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from esper.kasmina.grad_probe import HostProbe
    from esper.tolaria.engine.base import Engine

EVALUATION_NUMBERS = 1 << 21
"""Numbers in the widest value of one evaluation pass, all members together and forks apart: about what a core's caches hold."""
EVALUATION_SAMPLES = 64
"""Of which a pass holds a multiple, so that how a sample is rounded does not depend on the number of members."""


class PopulationEngine:
    """Trains and evaluates members that are alike; numbers are those of each member's own engine, up to rounding.

    Args:
        members: Engines of single hosts with equal plans, settings, hosts' configurations and shapes of data. They may be
            used alone at any time between calls.

    Raises:
        ValueError: If the hosts cannot run as one.
    """

    def __init__(self, members: Sequence[Engine]) -> None:
        self.members = tuple(members)
        self._population = Population([member.model for member in members])
        self._optimizer: FlatOptimizer | None = None

    def train_epoch(self, epoch: int, *, is_timed: bool = False) -> list[EpochResult]:
        """Train every member through its data once."""
        started, clock = time.perf_counter(), StepClock(self.members[0].dataset.train_x.device, is_running=is_timed)
        first, size = self.members[0], len(self.members)
        self._refresh()
        for member in self.members:
            if not member.model.training:
                member.model.train()
        num_batches, streams = -(-len(first.dataset.train_y) // first.plan.batch_size), _Streams(self.members, epoch)
        device = first.dataset.train_x.device
        total_loss, num_correct = torch.zeros(size, device=device), torch.zeros(size, dtype=torch.long, device=device)
        num_labels, num_steps, rate = 0, 0, first.plan.learning_rate
        optimizer, norms = self._own_optimizer(), None
        try:
            clock.lap()
            for x, y in self._batches(epoch):
                rate = learning_rate(first.config, first.plan, (epoch + num_steps / num_batches) / first.plan.max_epochs)
                clock.lap("transfer")
                logits = self._population.forward(self._population.arrange(x), streams.of)
                losses = _losses(logits, y).mean(1)
                clock.lap("forward")
                norms = self._update(optimizer, losses.sum(), clock, rate=rate, is_last=num_steps + 1 == num_batches)
                num_steps += 1
                with torch.no_grad():
                    total_loss += losses.detach() * y[0].numel()
                    num_correct += (guesses(logits) == y).flatten(1).sum(1)
                    num_labels += y[0].numel()
                clock.lap()
        finally:
            optimizer.hand_back(rate)
        assert norms is not None
        self._observe_gradients()
        figures = torch.stack([total_loss.double() / num_labels, 100.0 * num_correct.double() / num_labels, norms.double()]).tolist()
        wall_sec, times = (time.perf_counter() - started) / size, clock.times()
        share = None if times is None else times.divided_by(size)
        return [
            EpochResult(loss, accuracy, norm, learning_rate=rate, num_batches=num_batches, wall_sec=wall_sec, step_times=share)
            for loss, accuracy, norm in zip(*figures, strict=True)
        ]

    @torch.no_grad()
    def evaluate(self, split: EvaluationSplit, configurations: Sequence[Sequence[tuple[int, ...]]]) -> list[Evaluation]:
        """Accuracy and loss of every member under its own configurations; what they share is computed once."""
        started = time.perf_counter()
        self._refresh()
        parts = [(m.dataset.val_x, m.dataset.val_y) if split == "val" else (m.dataset.test_x, m.dataset.test_y) for m in self.members]
        chunk = max(EVALUATION_NUMBERS // (len(self.members) * self._widest() * EVALUATION_SAMPLES), 1) * EVALUATION_SAMPLES
        hits: list[Tensor] = []
        losses: list[Tensor] = []
        places: list[list[int]] = []
        for start in range(0, len(parts[0][0]), chunk):
            x, y = (join([part[i][start : start + chunk] for part in parts], len(parts)) for i in (0, 1))
            logits, places = self._population.evaluate(self._population.arrange(x), configurations)
            owners = bring(torch.tensor(_owners(places)), y.device)
            labels = y.index_select(0, owners)
            hits.append((guesses(logits) == labels).flatten(1))
            losses.append(_losses(logits, labels))
        correct, count = torch.cat(hits, 1).sum(1), parts[0][1].numel()
        accuracies, means = (100.0 * correct / count).tolist(), torch.cat(losses, 1).mean(1).tolist()
        wall_sec = (time.perf_counter() - started) / len(self.members)
        return [Evaluation(tuple(accuracies[i] for i in rows), tuple(means[i] for i in rows), wall_sec) for rows in places]

    def probe(self) -> list[HostProbe]:
        """Measure layers and slots of every member on its first training samples."""
        self._refresh()
        count = self.members[0].config.probe_samples
        x, y = (join([part[:count] for part in parts], len(parts)) for parts in zip(*self._training_data(), strict=True))
        return probe_population(self._population, x, y)

    def _widest(self) -> int:
        """Numbers of one sample where it has the most."""
        specs = self.members[0].model.host.injection_specs()
        return max(self.members[0].dataset.val_x.shape[1:].numel(), *(spec.channels * spec.positions for spec in specs))

    def _training_data(self) -> list[tuple[Tensor, Tensor]]:
        return [(member.dataset.train_x, member.dataset.train_y) for member in self.members]

    def _refresh(self) -> None:
        """Begin anew where a member has grown or lost a seed, or its numbers were taken elsewhere."""
        models = [member.model for member in self.members]
        if not self._population.is_current(models):
            self._population = Population(models)
            self._optimizer = None

    def _own_optimizer(self) -> FlatOptimizer:
        """The members' optimizers as one; taken over anew after a member took steps by itself."""
        if self._optimizer is None or not self._optimizer.is_in_step():
            first, optimizers = self.members[0], [member.optimizer for member in self.members]
            self._optimizer = FlatOptimizer(self._population.storage, optimizers, first.config, first.plan.learning_rate)
        return self._optimizer

    def _observe_gradients(self) -> None:
        """Let every member read its seeds' gradients, all of them measured at once."""
        observing = [member.model for member in self.members if member.model.observes_gradients]
        norms = gradient_norms(chain.from_iterable(model.parameters() for model in observing))
        for model in observing:
            model.observe_gradients(norms)

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Training samples in each member's order."""
        count = len(self.members[0].dataset.train_y)
        orders = [torch.randperm(count, generator=member.seeds.child("order", epoch).torch()) for member in self.members]
        generators = [member.seeds.child("augmentation", epoch).torch() for member in self.members]
        datasets = [member.dataset for member in self.members]
        return training_batches(datasets, torch.stack(orders), self.members[0].plan.batch_size, generators)

    def _update(self, optimizer: FlatOptimizer, loss: Tensor, clock: StepClock, *, rate: float, is_last: bool) -> Tensor | None:
        """Take one step; returns each member's gradient norm before clipping, where it is known or the step is the last."""
        storage, limit = self._population.storage, self.members[0].config.max_grad_norm
        (gradient,) = torch.autograd.grad(loss, storage.leaf)
        clock.lap("backward")
        norms = storage.square_sums(gradient, len(self.members)).sqrt() if is_last or limit is not None else None
        if norms is not None and limit is not None:
            storage.scale(gradient, (limit / (norms + 1e-6)).clamp(max=1.0))
        optimizer.step(gradient, rate, storage.unheard())
        clock.lap("optimizer")
        if is_last:
            storage.hand_out(gradient)
        return norms


class _Streams:
    """Torch's ambient generator for every member by itself, as the member's own engine sets it for an epoch."""

    def __init__(self, members: Sequence[Engine], epoch: int) -> None:
        self._nodes = [member.seeds.child("layers", epoch) for member in members]
        self._states: dict[int, list[Tensor]] = {}
        device = members[0].dataset.train_y.device
        self._gpus = [device] if device.type == "cuda" else []

    @contextmanager
    def of(self, member: int) -> Iterator[None]:
        """A block that draws where the member's last one ended; what it raises is told whose it is."""
        node = self._nodes[member]
        with node.torch_scope(self._gpus):
            if member in self._states:
                self._write(self._states[member])
            try:
                yield
            except Exception as error:
                error.add_note(f"in the host whose randomness is {'/'.join(str(key) for key in node.path)}")
                raise
            self._states[member] = [torch.random.get_rng_state(), *(torch.cuda.get_rng_state(gpu) for gpu in self._gpus)]

    def _write(self, states: Sequence[Tensor]) -> None:
        """Of the CPU's generator and of the GPU's, if there is one."""
        torch.random.set_rng_state(states[0])
        for gpu, state in zip(self._gpus, states[1:], strict=True):
            torch.cuda.set_rng_state(state, gpu)


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of everything that has a label in nats, [R, labels]; logits [R, …, classes] and labels [R, …]."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view(len(logits), -1)


def _owners(places: Sequence[Sequence[int]]) -> list[int]:
    """Member of every row."""
    owner = {row: member for member, rows in enumerate(places) for row in rows}
    return [owner[row] for row in range(len(owner))]
