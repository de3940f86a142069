"""Training steps that torch compiles: one graph for each structure of host and seeds, shared by all hosts that have it.

A graph takes host, seeds and how far they are blended in as its inputs, so that neither weights nor an alpha that moves on ask
for another. Validation and probes are never compiled: their batches come in many sizes.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from esper.kasmina.slot import Manner, pass_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from esper.kasmina.model import MorphogeneticModel
    from esper.leyline.host import HostProtocol
    from esper.tolaria.engine.layouts import LayoutChoice

    Run = Callable[[HostProtocol, Mapping[int, tuple["Visit", ...]], Tensor], Tensor]

MAX_GRAPHS_OF_A_HOST = 8
"""Structures of one host that are compiled; any further one stays eager."""
MAX_GRAPHS = 32
"""Graphs that are kept; the one that was not used for longest makes room."""
log = logging.getLogger(__name__)


class Visit(NamedTuple):
    """A seed that computes."""

    seed: nn.Module
    gate: nn.Module | None
    manner: Manner
    alpha: Tensor


def run_host(host: HostProtocol, visits: Mapping[int, tuple[Visit, ...]], x: Tensor) -> Tensor:
    """Logits of a host with seeds, as a function of both: what `MorphogeneticModel.forward` computes in training mode."""

    def visit(segment: int, value: Tensor) -> Tensor:
        for seed, gate, manner, alpha in visits.get(segment, ()):
            value = pass_seed(value, seed, gate, alpha=alpha, manner=manner)
        return value

    return host.run(x, visit)


def compile_run() -> Run:
    """A `run_host` of its own that torch compiles, whole, when it is first called."""
    compiled: Run = torch.compile(  # type: ignore[call-overload]  # the overloads do not know of isolate_recompiles
        run_host, fullgraph=True, dynamic=False, isolate_recompiles=True, options={"compile_threads": 1}
    )
    return compiled


class Graphs:
    """Compiled functions by structure; one collection serves all hosts of a process.

    Args:
        make: Makes a function that compiles itself when it is first called.
        limit: Most graphs kept.
    """

    def __init__(self, make: Callable[[], Run] = compile_run, limit: int = MAX_GRAPHS) -> None:
        self._make = make
        self._limit = limit
        self._runs: OrderedDict[Hashable, Run] = OrderedDict()

    def __len__(self) -> int:
        return len(self._runs)

    def run_for(self, structure: Hashable) -> Run:
        """The function of a structure, made if it is new or was given up."""
        if structure not in self._runs:
            self._runs[structure] = self._make()
        self._runs.move_to_end(structure)
        while len(self._runs) > self._limit:
            self._runs.popitem(last=False)
        return self._runs[structure]


class HostSteps:
    """Forward passes of one host's training steps, compiled where that was chosen; which ones depends on this host alone.

        steps.begin_epoch(choice, batch_size=…, steps_left=…)
        logits = steps.forward(x)

    Args:
        model: Host with its slots.
        graphs: Where compiled functions come from.
    """

    def __init__(self, model: MorphogeneticModel, graphs: Graphs) -> None:
        self._model = model
        self._compile_after: int | None = None
        self._must_pay = False
        self._graphs = graphs
        self._taken: Counter[Hashable] = Counter()
        self._compiled: set[Hashable] = set()
        self._refused: set[Hashable] = set()
        self._is_full = False
        self._structure: Hashable = None
        self._visits: Mapping[int, tuple[Visit, ...]] = {}
        self._batch_size = 0
        self._steps_left = 0

    def begin_epoch(self, choice: LayoutChoice, *, batch_size: int, steps_left: int) -> None:
        """Note what the model has become.

        Args:
            choice: When to compile.
            batch_size: Of a full batch; smaller ones are never compiled.
            steps_left: Training steps until the plan ends.
        """
        self._compile_after, self._must_pay = choice.compile_after, choice.must_pay
        self._batch_size, self._steps_left = batch_size, steps_left
        may_compile = self._compile_after is not None
        self._structure = structure_of(self._model) if may_compile else None
        self._visits = visits_of(self._model) if may_compile else {}

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a training batch."""
        if self._compile_after is None or len(x) != self._batch_size:
            self._steps_left -= 1
            logits: Tensor = self._model(x)
            return logits
        structure = (self._structure, tuple(x.shape), x.dtype, torch.is_autocast_enabled(x.device.type))
        is_compiled = structure in self._compiled or self._shall_compile(structure)
        self._taken[structure] += 1
        self._steps_left -= 1
        return self._run_compiled(structure, x) if is_compiled else self._model(x)

    def _shall_compile(self, structure: Hashable) -> bool:
        after = self._compile_after
        if after is None or structure in self._refused or self._taken[structure] < after:
            return False
        if self._must_pay and self._steps_left < after:
            return False
        if len(self._compiled) < MAX_GRAPHS_OF_A_HOST:
            return True
        if not self._is_full:
            log.warning("a host has had %d compiled structures; any further one stays eager", MAX_GRAPHS_OF_A_HOST)
        self._is_full = True
        return False

    def _run_compiled(self, structure: Hashable, x: Tensor) -> Tensor:
        run = self._graphs.run_for(structure)
        try:
            logits = run(self._model.host, self._visits, x)
        except RuntimeError as error:
            if structure in self._compiled and not _is_of_the_compiler(error):
                raise
            log.warning("a training step cannot be compiled and stays eager: %s", str(error).strip().splitlines()[0])
            self._compiled.discard(structure)
            self._refused.add(structure)
            logits = self._model(x)
        else:
            self._compiled.add(structure)
        return logits


def _is_of_the_compiler(error: RuntimeError) -> bool:
    """Whether a step was not run, because a seed that computes otherwise than before was to be compiled again."""
    from torch._dynamo.exc import TorchDynamoException  # loaded with the first graph

    return isinstance(error, TorchDynamoException)


def visits_of(model: MorphogeneticModel) -> dict[int, tuple[Visit, ...]]:
    """Seeds that compute in training mode, by segment, in slot order."""
    visits: dict[int, tuple[Visit, ...]] = {}
    for slot in model.seed_slots:
        manner, planted = slot.manner, slot.planted
        if manner is not None and planted is not None:
            like = next(slot.parameters(), None)
            alpha = torch.tensor(slot.alpha) if like is None else torch.tensor(slot.alpha, dtype=like.dtype, device=like.device)
            segment = slot.spec.segment
            visits[segment] = (*visits.get(segment, ()), Visit(planted[1], planted[2], manner, alpha))
    return visits


def structure_of(model: MorphogeneticModel) -> Hashable:
    """Equal for models whose training steps are one graph."""
    slots = tuple(
        None if slot.manner is None or slot.planted is None else (_form(slot.planted[1]), _form(slot.planted[2]), slot.manner, slot.spec)
        for slot in model.seed_slots
    )
    host: Any = model.host
    return _form(host), repr(getattr(host, "config", None)), slots


def _form(module: nn.Module | None) -> Hashable:
    if module is None:
        return None
    parameters = tuple((name, tuple(p.shape), p.dtype, p.device, p.requires_grad) for name, p in module.named_parameters())
    return type(module), str(module), parameters
