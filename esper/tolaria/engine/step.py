"""One training step of a population, as work on tensors that stay where they are, and what is to be known of an epoch of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from esper.kasmina.population.seeds import no_surroundings
from esper.tolaria.engine.base import ClippedNorms
from esper.tolaria.engine.clock import StepClock
from esper.tolaria.engine.sequential import guesses

if TYPE_CHECKING:
    from collections.abc import Iterator

    from esper.kasmina.population.model import Population
    from esper.kasmina.population.seeds import Surroundings
    from esper.tolaria.engine.flat_optimizer import FlatOptimizer


class Tally:
    """What is known of an epoch so far.

    Args:
        size: Members.
        device: Where they are trained.
        incubating: Member and slot of the seeds whose squares are told behind those of the members; None where nothing is clipped.
    """

    def __init__(self, size: int, device: torch.device, incubating: tuple[tuple[int, int], ...] | None) -> None:
        self._incubating = incubating
        self._loss = torch.zeros(size, device=device)
        self._num_correct = torch.zeros(size, dtype=torch.long, device=device)
        self._num_labels = 0
        self.num_steps = 0
        self.square_sums: Tensor | None = None
        """Squares of gradient norms at the last step: of each member's, then of every seed that is clipped by itself."""

    def begin(self) -> None:
        """Forget the last epoch."""
        self._loss.zero_()
        self._num_correct.zero_()
        self._num_labels = self.num_steps = 0
        self.square_sums = None

    @torch.no_grad()
    def add(self, losses: Tensor, logits: Tensor, y: Tensor) -> None:
        """Add up a step on the device; mean losses [K], logits [K, …] and labels [K, …]."""
        self._loss += losses.detach() * y[0].numel()
        self._num_correct += (guesses(logits) == y).flatten(1).sum(1)

    def count(self, y: Tensor) -> None:
        """Count a step on these labels [K, …]."""
        self.num_steps += 1
        self._num_labels += y[0].numel()

    def figures(self) -> Iterator[tuple[float, float, float, ClippedNorms | None]]:
        """Loss, accuracy, gradient norm at the last step and its parts, of every member; all are read at once."""
        assert self.square_sums is not None
        size, norms = len(self._loss), self.square_sums.sqrt()
        loss, accuracy = self._loss.double() / self._num_labels, 100.0 * self._num_correct.double() / self._num_labels
        told = torch.cat([loss, accuracy, norms.double()]).tolist()
        heard, rest = told[2 * size : 3 * size], told[3 * size :]
        for member in range(size):
            if self._incubating is None:
                yield told[member], told[size + member], heard[member], None
                continue
            own = sorted((slot, norm) for (whose, slot), norm in zip(self._incubating, rest, strict=True) if whose == member)
            whole = math.sqrt(sum(norm * norm for norm in (heard[member], *(norm for _, norm in own)))) if own else heard[member]
            yield told[member], told[size + member], whole, ClippedNorms(heard[member], tuple(own))


class TrainingStep:
    """Takes one step of all members.

    Args:
        population: The members.
        optimizer: Theirs.
        max_grad_norm: Where gradients are clipped.
        holds_alphas: Read from tensors how far seeds are blended in, as a recorded step must.
    """

    def __init__(self, population: Population, optimizer: FlatOptimizer, *, max_grad_norm: float | None, holds_alphas: bool) -> None:
        storage = population.storage
        self.tally = Tally(len(population.models), storage.flat.device, None if max_grad_norm is None else storage.incubating)
        self._population = population
        self._optimizer = optimizer
        self._limit = max_grad_norm
        self._holds_alphas = holds_alphas
        self._unheard: frozenset[int] = frozenset()
        """Of the last step that was taken here: a repeated one, of which the storage is told nothing, leaves the same places out."""

    def begin_epoch(self) -> None:
        """Start counting afresh, and look how far seeds are blended in by now."""
        self.tally.begin()
        if self._holds_alphas:
            self._population.refresh_alphas()

    def take(self, x: Tensor, y: Tensor, clock: StepClock, surroundings: Surroundings, *, is_last: bool) -> None:
        """Forward pass, backward pass and update on inputs [K, B, …] and labels [K, B, …]; `count` it then.

        Args:
            x: Inputs.
            y: Labels.
            clock: Is told of the parts.
            surroundings: For seeds that run member by member.
            is_last: Give the gradient to the members, and tell its norms.
        """
        population = self._population
        logits = population.forward(population.arrange(x), surroundings, holds_alphas=self._holds_alphas)
        losses = cross_entropies(logits, y).mean(1)
        clock.lap("forward")
        self._update(losses.sum(), clock, is_last=is_last)
        self.tally.add(losses, logits, y)
        clock.lap()

    def compute(self, x: Tensor, y: Tensor) -> None:
        """Take a step of which nothing but its effect is asked for."""
        self.take(x, y, StepClock(x.device, is_running=False), no_surroundings, is_last=False)

    def count(self, y: Tensor) -> None:
        """Note a step on these labels, however it was taken."""
        self.tally.count(y)
        self._optimizer.count(self._unheard)

    def _update(self, loss: Tensor, clock: StepClock, *, is_last: bool) -> None:
        storage, size = self._population.storage, len(self._population.models)
        with self._population.naming_faults():
            (gradient,) = torch.autograd.grad(loss, storage.leaf)
        clock.lap("backward")
        if self._limit is not None:
            sums = storage.square_sums_apart(gradient, size)
            storage.scale_apart(gradient, (self._limit / (sums.sqrt() + 1e-6)).clamp(max=1.0), size)
            self.tally.square_sums = sums
        elif is_last:
            self.tally.square_sums = storage.square_sums(gradient, size)
        self._unheard = storage.unheard()
        self._optimizer.update(gradient, self._unheard)
        clock.lap("optimizer")
        if is_last:
            storage.hand_out(gradient)


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of everything that has a label in nats, [R, labels]; logits [R, …, classes] and labels [R, …]."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view(len(logits), -1)
