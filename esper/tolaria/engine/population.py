"""The engine for many hosts of one shape: their trials' epochs, evaluations and probes run as one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from esper.kasmina.population.model import Population
from esper.kasmina.population.probe import probe_population
from esper.tolaria.data import draw_variation, vary
from esper.tolaria.engine.base import EpochResult, Evaluation, EvaluationSplit
from esper.tolaria.engine.flat_optimizer import FlatOptimizer
from esper.tolaria.engine.sequential import learning_rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.kasmina.grad_probe import HostProbe
    from esper.tolaria.engine.base import Engine

EVALUATION_NUMBERS = 1 << 21
"""Numbers in the widest value of one evaluation pass, all members together and forks apart: about what a core's caches hold."""


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

    def train_epoch(self, epoch: int) -> list[EpochResult]:
        """Train every member through its data once."""
        started = time.perf_counter()
        first, size = self.members[0], len(self.members)
        self._refresh()
        for member in self.members:
            if not member.model.training:
                member.model.train()
        batches = self._orders(epoch).split(first.plan.batch_size, dim=1)
        variations = [member.seeds.child("augmentation", epoch).torch() for member in self.members]
        device = first.dataset.train_x.device
        total_loss, num_correct = torch.zeros(size, device=device), torch.zeros(size, dtype=torch.long, device=device)
        num_labels, rate = 0, first.plan.learning_rate
        norms: Tensor | None = None
        for step, index in enumerate(batches):
            rate = learning_rate(first.config, first.plan, (epoch + step / len(batches)) / first.plan.max_epochs)
            x, y = self._batch(index, variations)
            logits = self._population.forward(self._population.arrange(x))
            losses = _losses(logits, y)
            norms = self._update(losses.sum(), rate, is_last=step + 1 == len(batches))
            with torch.no_grad():
                total_loss += losses.detach() * y[0].numel()
                num_correct += (logits.argmax(-1) == y).flatten(1).sum(1)
                num_labels += y[0].numel()
        assert self._optimizer is not None and norms is not None
        self._optimizer.hand_back(len(batches), rate)
        for member in self.members:
            member.model.observe_gradients()
        figures = torch.stack([total_loss.double() / num_labels, 100.0 * num_correct.double() / num_labels, norms.double()]).tolist()
        wall_sec = (time.perf_counter() - started) / size
        return [
            EpochResult(loss, accuracy, norm, learning_rate=rate, num_batches=len(batches), wall_sec=wall_sec)
            for loss, accuracy, norm in zip(*figures, strict=True)
        ]

    @torch.no_grad()
    def evaluate(self, split: EvaluationSplit, configurations: Sequence[Sequence[tuple[int, ...]]]) -> list[Evaluation]:
        """Accuracy and loss of every member under its own configurations; what they share is computed once."""
        started = time.perf_counter()
        self._refresh()
        parts = [(m.dataset.val_x, m.dataset.val_y) if split == "val" else (m.dataset.test_x, m.dataset.test_y) for m in self.members]
        chunk = max(EVALUATION_NUMBERS // (len(self.members) * self._widest()), 1)
        correct: Tensor | None = None
        loss: Tensor | None = None
        places: list[list[int]] = []
        for start in range(0, len(parts[0][0]), chunk):
            x, y = (torch.stack([part[i][start : start + chunk] for part in parts]) for i in (0, 1))
            logits, places = self._population.evaluate(self._population.arrange(x), configurations)
            owners = torch.tensor(_owners(places), device=y.device)
            labels = y.index_select(0, owners)
            found = (logits.argmax(-1) == labels).flatten(1).sum(1)
            losses = _losses(logits, labels) * labels[0].numel()
            correct, loss = (found, losses) if correct is None or loss is None else (correct + found, loss + losses)
        assert correct is not None and loss is not None
        count = parts[0][1].numel()
        accuracies, means = (100.0 * correct / count).tolist(), (loss / count).tolist()
        wall_sec = (time.perf_counter() - started) / len(self.members)
        return [Evaluation(tuple(accuracies[i] for i in rows), tuple(means[i] for i in rows), wall_sec) for rows in places]

    def probe(self) -> list[HostProbe]:
        """Measure layers and slots of every member on its first training samples."""
        self._refresh()
        count = self.members[0].config.probe_samples
        x, y = (torch.stack([part[:count] for part in parts]) for parts in zip(*self._training_data(), strict=True))
        return probe_population(self._population, x, y)

    def _widest(self) -> int:
        """Numbers of one sample where it has the most."""
        specs = self.members[0].model.host.injection_specs()
        return max(self.members[0].dataset.val_x[0].numel(), *(spec.channels * spec.positions for spec in specs))

    def _training_data(self) -> list[tuple[Tensor, Tensor]]:
        return [(member.dataset.train_x, member.dataset.train_y) for member in self.members]

    def _refresh(self) -> None:
        """Begin anew where a member has grown or lost a seed."""
        models = [member.model for member in self.members]
        if not self._population.is_current(models):
            self._population = Population(models)
            self._optimizer = None

    def _orders(self, epoch: int) -> Tensor:
        """Training samples in each member's order, [K, N]."""
        count = len(self.members[0].dataset.train_y)
        orders = [torch.randperm(count, generator=member.seeds.child("order", epoch).torch()) for member in self.members]
        return torch.stack(orders).to(self.members[0].dataset.train_y.device)

    def _batch(self, index: Tensor, variations: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Augmented inputs [K, B, …] and labels [K, B, …]."""
        pairs = [(x[own], y[own]) for (x, y), own in zip(self._training_data(), index, strict=True)]
        x, y = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        augmentation = self.members[0].dataset.augmentation
        drawn = [draw_variation(x.shape[1:], augmentation, generator) for generator in variations]
        moves = [one for one in drawn if one is not None]
        return (vary(x.flatten(0, 1), torch.cat(moves)).view_as(x) if moves else x), y

    def _update(self, loss: Tensor, rate: float, *, is_last: bool) -> Tensor | None:
        """Take one step; returns each member's gradient norm before clipping, where it is known or the step is the last."""
        storage, limit = self._population.storage, self.members[0].config.max_grad_norm
        if self._optimizer is None:
            optimizers = [member.optimizer for member in self.members]
            self._optimizer = FlatOptimizer(storage, optimizers, self.members[0].config, rate)
        (gradient,) = torch.autograd.grad(loss, storage.leaf)
        norms = storage.square_sums(gradient, len(self.members)).sqrt() if is_last or limit is not None else None
        if norms is not None and limit is not None:
            storage.scale(gradient, (limit / (norms + 1e-6)).clamp(max=1.0))
        self._optimizer.step(gradient, rate)
        if is_last:
            storage.hand_out(gradient)
        return norms


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of every row in nats, [R]; logits [R, …, classes] and labels [R, …]."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view(len(logits), -1).mean(1)


def _owners(places: Sequence[Sequence[int]]) -> list[int]:
    """Member of every row."""
    owner = {row: member for member, rows in enumerate(places) for row in rows}
    return [owner[row] for row in range(len(owner))]
