"""The engine for many hosts of one shape: their trials' epochs, evaluations and probes run as one."""

from __future__ import annotations

import time
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from esper.kasmina.gradients import gradient_norms
from esper.kasmina.population.model import Population
from esper.kasmina.population.probe import probe_population
from esper.kasmina.transfer import bring
from esper.leyline.layer_ops import BlueprintError
from esper.leyline.rng import TorchState, torch_state
from esper.tolaria.engine.base import EpochResult, Evaluation, EvaluationSplit
from esper.tolaria.engine.batching import join, training_batches
from esper.tolaria.engine.clock import StepClock
from esper.tolaria.engine.flat_optimizer import FlatOptimizer
from esper.tolaria.engine.recording import CudaRecorder, RecordedSteps
from esper.tolaria.engine.safeguard import Safeguard
from esper.tolaria.engine.sequential import EVALUATION_MULTIPLE, guesses, learning_rate
from esper.tolaria.engine.step import TrainingStep, cross_entropies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from esper.kasmina.grad_probe import HostProbe
    from esper.tolaria.engine.base import Engine
    from esper.tolaria.engine.recording import Recorder

CACHED_NUMBERS = 1 << 21
"""Numbers in the widest value of one evaluation pass, all members together and forks apart: about what a core's caches hold."""


class PopulationEngine:
    """Trains and evaluates members that are alike; numbers are those of each member's own engine, up to rounding.

    Args:
        members: Engines of single hosts with equal plans, settings, hosts' configurations and shapes of data. They may be
            used alone at any time between calls.
        make_recorder: Makes what records training steps on a device, where the settings want `cuda_graphs`. The last step of an
            epoch, epochs that are timed, and those in which modules of a user run member by member are never recorded.

    Raises:
        ValueError: If the hosts cannot run as one.
        ConfigError: If steps are to be recorded and the device cannot.
    """

    def __init__(self, members: Sequence[Engine], make_recorder: Callable[[torch.device], Recorder] = CudaRecorder) -> None:
        self.members = tuple(members)
        self._population = Population([member.model for member in members])
        self._optimizer: FlatOptimizer | None = None
        self._step: TrainingStep | None = None
        self._recorded: RecordedSteps | None = None
        records = members[0].config.cuda_graphs
        self._recorder = make_recorder(members[0].dataset.train_x.device) if records else None

    def train_epoch(self, epoch: int, *, is_timed: bool = False) -> list[EpochResult]:
        """Train every member through its data once.

        Raises:
            BlueprintError: If a seed failed. Where it names members, all of them are as they were before.
        """
        started, clock = time.perf_counter(), StepClock(self.members[0].dataset.train_x.device, is_running=is_timed)
        self._refresh()
        for member in self.members:
            if not member.model.training:
                member.model.train()
        optimizer = self._own_optimizer()
        step = self._own_step(optimizer)
        own_modules = self._population.own_modules
        before = Safeguard(self._population.storage.flat, optimizer, own_modules) if own_modules else None
        try:
            rate = self._run_epoch(epoch, step, optimizer, clock)
        except BlueprintError as error:
            if before is None and step.tally.num_steps:
                raise error.for_members() from error  # some members' numbers have moved on, and nobody knows the old ones
            if before is not None:
                before.restore()
            raise
        self._observe_gradients()
        wall_sec, times = (time.perf_counter() - started) / len(self.members), clock.times()
        share = None if times is None else times.divided_by(len(self.members))
        return [
            EpochResult(loss, accuracy, norm, rate, num_batches=step.tally.num_steps, wall_sec=wall_sec, step_times=share, clipped=parts)
            for loss, accuracy, norm, parts in step.tally.figures()
        ]

    @torch.no_grad()
    def evaluate(self, split: EvaluationSplit, configurations: Sequence[Sequence[tuple[int, ...]]]) -> list[Evaluation]:
        """Accuracy and loss of every member under its own configurations; what they share is computed once."""
        started = time.perf_counter()
        self._refresh()
        parts = [(m.dataset.val_x, m.dataset.val_y) if split == "val" else (m.dataset.test_x, m.dataset.test_y) for m in self.members]
        # a whole multiple, so that how a sample is rounded does not depend on the number of members
        chunk = max(CACHED_NUMBERS // (len(self.members) * self._widest() * EVALUATION_MULTIPLE), 1) * EVALUATION_MULTIPLE
        hits: list[Tensor] = []
        losses: list[Tensor] = []
        places: list[list[int]] = []
        for start in range(0, len(parts[0][0]), chunk):
            x, y = (join([part[i][start : start + chunk] for part in parts], len(parts)) for i in (0, 1))
            logits, places = self._population.evaluate(self._population.arrange(x), configurations)
            owners = bring(torch.tensor(_owners(places)), y.device)
            labels = y.index_select(0, owners)
            hits.append((guesses(logits) == labels).flatten(1))
            losses.append(cross_entropies(logits, labels))
        correct, count = torch.cat(hits, 1).sum(1), parts[0][1].numel()
        accuracies, means = (100.0 * correct / count).tolist(), torch.cat(losses, 1).mean(1).tolist()
        wall_sec = (time.perf_counter() - started) / len(self.members)
        return [Evaluation(tuple(accuracies[i] for i in rows), tuple(means[i] for i in rows), wall_sec) for rows in places]

    def probe(self) -> list[HostProbe]:
        """Measure layers and slots of every member on its first training samples."""
        self._refresh()
        count = self.members[0].config.probe_samples
        x, y = (join([part[:count] for part in parts], len(parts)) for parts in zip(*self._training_data(), strict=True))
        with self._population.naming_faults():
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
            self._optimizer = self._step = self._recorded = None

    def _own_optimizer(self) -> FlatOptimizer:
        """The members' optimizers as one; taken over anew after a member took steps by itself."""
        if self._optimizer is None or not self._optimizer.is_in_step():
            first, optimizers = self.members[0], [member.optimizer for member in self.members]
            is_captured = self._recorder is not None
            self._optimizer = FlatOptimizer(
                self._population.storage, optimizers, first.config, first.plan.learning_rate, is_captured=is_captured
            )
            self._step = self._recorded = None
        return self._optimizer

    def _own_step(self, optimizer: FlatOptimizer) -> TrainingStep:
        if self._step is None:
            limit, holds_alphas = self.members[0].config.max_grad_norm, self._recorder is not None
            self._step = TrainingStep(self._population, optimizer, max_grad_norm=limit, holds_alphas=holds_alphas)
        return self._step

    def _recorded_steps(self, step: TrainingStep, optimizer: FlatOptimizer) -> RecordedSteps | None:
        """What takes the steps of full batches; None where they are not recorded, or run Python of a user that may draw numbers."""
        if self._recorder is None or self._population.own_modules:
            return None
        if self._recorded is None:
            self._recorded = RecordedSteps(self._recorder, step.compute, lambda: optimizer.num_divisions)
        return self._recorded

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

    def _run_epoch(self, epoch: int, step: TrainingStep, optimizer: FlatOptimizer, clock: StepClock) -> float:
        """Take the steps of an epoch; returns the last one's learning rate."""
        first, streams, tally = self.members[0], _Streams(self.members, epoch), step.tally
        num_batches, rate = -(-len(first.dataset.train_y) // first.plan.batch_size), first.plan.learning_rate
        recorded = None if clock.is_running else self._recorded_steps(step, optimizer)
        step.begin_epoch()
        try:
            clock.lap()
            for x, y in self._batches(epoch):
                rate = learning_rate(first.config, first.plan, (epoch + tally.num_steps / num_batches) / first.plan.max_epochs)
                optimizer.set_rate(rate)
                clock.lap("transfer")
                is_last = tally.num_steps + 1 == num_batches
                if recorded is None or is_last:
                    step.take(x, y, clock, streams.of, is_last=is_last)
                else:
                    recorded.take(x, y)
                step.count(y)
        finally:
            optimizer.hand_back(rate)
        return rate


class _Streams:
    """Torch's ambient generator for every member by itself, as the member's own engine sets it for an epoch."""

    def __init__(self, members: Sequence[Engine], epoch: int) -> None:
        self._nodes = [member.seeds.child("layers", epoch) for member in members]
        self._states: dict[int, TorchState] = {}
        self._device = members[0].dataset.train_y.device

    @contextmanager
    def of(self, member: int) -> Iterator[None]:
        """A block that draws where the member's last one ended; what it raises is told whose it is."""
        node = self._nodes[member]
        with node.torch_scope([self._device], state=self._states.get(member)):
            try:
                yield
            except Exception as error:
                error.add_note(f"in the host whose randomness is {'/'.join(str(key) for key in node.path)}")
                raise
            self._states[member] = torch_state([self._device])


def _owners(places: Sequence[Sequence[int]]) -> list[int]:
    """Member of every row."""
    owner = {row: member for member, rows in enumerate(places) for row in rows}
    return [owner[row] for row in range(len(owner))]
