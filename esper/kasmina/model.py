"""A host that grows: host, slots and seeds as one module, moved by decisions and by the end of every epoch.

What happens when is decided by the pure state machine; this module carries out what it says.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from esper.kasmina import lifecycle
from esper.kasmina.config import chosen_slots, growth_limits
from esper.kasmina.configurations import SharedPrefixes, StackedInputs
from esper.kasmina.faults import BackwardWatch
from esper.kasmina.gradients import read_gradients
from esper.kasmina.nursery import Nursery
from esper.kasmina.seed_state import SeedState, SlotStates, record_gradients
from esper.kasmina.slot import SeedSlot
from esper.kasmina.snapshot import Snapshot
from esper.kasmina.structure import Structure, copy_numbers
from esper.leyline.layer_ops import BlueprintError
from esper.leyline.stages import SeedStage

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from esper.kasmina.config import GrowthConfig
    from esper.kasmina.nursery import Modules
    from esper.leyline.actions import FactoredAction
    from esper.leyline.host import HostProtocol
    from esper.leyline.masks import ActionMasks
    from esper.leyline.ports import Catalogue
    from esper.leyline.reports import SeedStateReport, StageTransition
    from esper.leyline.rng import SeedTree


class MorphogeneticModel(nn.Module):
    """A host with slots.

        model.apply(action, val_accuracy=…)          # before an epoch
        loss = criterion(model(x), y); loss.backward()
        model.observe_gradients()                    # after the epoch's last backward pass
        model.tick(val_accuracy=…, contributions=…, solo=…)

    Whoever changes it wraps `apply`, `tick`, `prune_all` and `restore` in a `GrowthTransaction`.

    Args:
        host: The network that grows; also an `nn.Module`.
        catalogue: Where seeds come from.
        config: Rules of growth.
        seeds: Source of the seeds' initial weights.
    """

    def __init__(self, host: HostProtocol, catalogue: Catalogue, config: GrowthConfig, seeds: SeedTree) -> None:
        super().__init__()
        if not isinstance(host, nn.Module):
            raise TypeError(f"a host must be an nn.Module, got {type(host).__name__}")
        self.host: HostProtocol = host
        self.config = config
        self.specs = chosen_slots(config, host.injection_specs())
        self._watch: BackwardWatch[SeedSlot] = BackwardWatch()
        self._slots = tuple(SeedSlot(spec, self._watch) for spec in self.specs)
        self.slots = nn.ModuleList(self._slots)
        self._catalogue = catalogue
        self._limits = growth_limits(config, catalogue, host.family)
        self._nursery = Nursery(catalogue, host.family, seeds)
        self._states: SlotStates = (None,) * len(self.specs)
        self._epoch = 0
        self._val_accuracy = 0.0
        self._run_host = host.run
        self._computing: dict[int, tuple[int, ...]] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the host with its seeds; [B, classes] or [B, T, classes]."""
        return self._run_host(x, self._visit)

    def forward_configurations(self, x: Tensor, configurations: Sequence[frozenset[int] | tuple[int, ...]]) -> Tensor:
        """Logits under several choices of slots, [C, B, …], as in evaluation mode; nothing is mutated.

        Args:
            x: One batch.
            configurations: Slots left on in each; any other slot has alpha 0. One that is not live computes nothing
                either way.

        Raises:
            ValueError: If there is no configuration.
            IndexError: If a configuration names a slot that does not exist.
        """
        require_slots(configurations, len(self._slots))
        heard = {s: tuple(i for i in slots if not self._slots[i].is_incubating) for s, slots in self._computing.items()}
        kind: type[SharedPrefixes | StackedInputs] = SharedPrefixes if self.host.shares_prefixes else StackedInputs
        visits = kind([frozenset(configuration) for configuration in configurations], heard, self._run_slot)
        with evaluating(self):
            return visits.finish(self._run_host(visits.start(x), visits.visit))

    def trace(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits, and the value that every slot hands on, in slot order.

        Where gradients are on, every value takes part in them, even behind layers that are frozen.
        """
        values: list[Tensor | None] = [None] * len(self._slots)

        def visit(segment: int, value: Tensor) -> Tensor:
            for index, spec in enumerate(self.specs):
                if spec.segment == segment:
                    value = self._run_slot(index, value)
                    if torch.is_grad_enabled() and not value.requires_grad:
                        value = value.detach().requires_grad_()
                    values[index] = value
            return value

        logits = self._run_host(x, visit)
        return logits, tuple(value for value in values if value is not None)

    def apply(self, action: FactoredAction, *, val_accuracy: float) -> tuple[StageTransition, ...]:  # type: ignore[override]
        """Execute one decision; `nn.Module.apply` gives way to it.

        Args:
            action: What to do.
            val_accuracy: Latest validation accuracy in percent; a new seed remembers it.

        Raises:
            IllegalActionError: If `masks()` forbids it; nothing is changed then.
        """
        states, transitions = lifecycle.apply_action(self._states, action, self._context(val_accuracy))
        self._val_accuracy = val_accuracy
        self._become(states)
        return transitions

    def tick(self, *, val_accuracy: float, contributions: Mapping[int, float], solo: Mapping[int, float]) -> tuple[StageTransition, ...]:
        """End an epoch.

        Args:
            val_accuracy: Validation accuracy in percent.
            contributions: Leave-one-out contribution by slot, in points; absent is unmeasured.
            solo: Accuracy with that seed alone minus accuracy with none, by slot, in points.
        """
        context = self._context(val_accuracy)
        states, transitions = lifecycle.tick(self._states, context, contributions=contributions, solo=solo)
        self._epoch += 1
        self._val_accuracy = val_accuracy
        self._become(states)
        return transitions

    def prune_all(self, initiator: str) -> tuple[StageTransition, ...]:
        """Give up every seed that is not permanent, at once."""
        states, transitions = lifecycle.prune_all(self._states, initiator)
        self._become(states)
        return transitions

    def observe_gradients(self, norms: Mapping[Tensor, float] | None = None) -> None:
        """Read the seeds' gradients into their metrics; call it between a backward pass and the next `zero_grad`.

        Args:
            norms: Of the parameters, as `gradient_norms` gives them where they are known; None measures them.
        """
        if self.observes_gradients:
            host = list(self._host_module.parameters())
            readings = read_gradients(host, [list(slot.parameters()) for slot in self._slots], norms)
            self._states = record_gradients(self._states, readings)

    @property
    def observes_gradients(self) -> bool:
        """Whether there is a seed whose gradients are of interest."""
        return any(seed is not None and seed.has_module for seed in self._states)

    def masks(self) -> ActionMasks:
        """Legal choices now (B = 1)."""
        return lifecycle.legal_actions(self._states, self._context(self._val_accuracy))

    def seed_reports(self) -> tuple[SeedStateReport | None, ...]:
        """What is known of the seed in every slot; None where a slot is free."""
        return tuple(None if seed is None else seed.report() for seed in self._states)

    def live_slots(self) -> tuple[int, ...]:
        """Slots whose seed is heard: blending, holding or fossilized, with alpha above 0."""
        return tuple(i for i, seed in enumerate(self._states) if seed is not None and seed.is_live)

    def fossil_slots(self) -> tuple[int, ...]:
        """Slots whose seed is permanent."""
        return tuple(i for i, seed in enumerate(self._states) if seed is not None and _is_fossil(seed))

    @property
    def seed_slots(self) -> tuple[SeedSlot, ...]:
        """The slots, in slot order."""
        return self._slots

    def slot_layers(self) -> tuple[int, ...]:
        """For every slot, the index into the host's layers of the last one before it; 0 where none is."""
        segments = [layer.segment for layer in self.host.layer_specs()]
        return tuple(max((i for i, segment in enumerate(segments) if segment <= spec.segment), default=0) for spec in self.specs)

    @property
    def num_host_parameters(self) -> int:
        """Parameters of the host alone."""
        return _count(self._host_module)

    @property
    def num_seed_parameters(self) -> int:
        """Parameters of all seeds that have a module, gates and fossils included."""
        return _count(self.slots)

    @property
    def num_fossil_parameters(self) -> int:
        """Parameters of the permanent seeds, gates included."""
        return sum(_count(self._slots[i]) for i in self.fossil_slots())

    def snapshot(self) -> Snapshot:
        """Copy the weights of host and fossils."""
        return Snapshot.take(self._host_module, self._fossils())

    def with_fossils(self, snapshot: Snapshot) -> Snapshot:
        """A snapshot, and the weights of fossils that are younger than it as they are now."""
        return snapshot.with_fossils(self._fossils())

    def restore(self, snapshot: Snapshot) -> None:
        """Write a snapshot back. A fossil that is younger than the snapshot keeps its weights.

        Raises:
            ValueError: If the snapshot does not fit; nothing is changed then.
        """
        snapshot.write(self._host_module, self._fossils())

    def silence(self, slot_id: str) -> bool:
        """Let a slot compute nothing until the model changes; returns whether it computed until now."""
        slot = next(slot for slot in self._slots if slot.spec.slot_id == slot_id)
        computed, slot.computes = slot.computes, False
        self._route()
        return computed

    def naming_faults(self) -> AbstractContextManager[None]:
        """A block with a backward pass; what fails there in a seed is raised as a `BlueprintError`."""
        return self._watch.naming(lambda slot, error: self._failure(slot, error, doing="running backward"))

    def structure(self, *, keeps_numbers: bool = False) -> Structure:
        """Everything that a change could touch, for `reinstate`.

        Args:
            keeps_numbers: The change writes no number that is there already, as no `apply`, `tick` or `prune_all` does, so that
                none is copied.
        """
        return Structure(
            states=self._states,
            planted=tuple(slot.planted for slot in self._slots),
            requires_grad={parameter: parameter.requires_grad for parameter in self.parameters()},
            numbers={} if keeps_numbers else copy_numbers(self),
            epoch=self._epoch,
            val_accuracy=self._val_accuracy,
        )

    def reinstate(self, structure: Structure) -> None:
        """Undo every change since `structure` was taken."""
        for slot, planted in zip(self._slots, structure.planted, strict=True):
            slot.clear()
            if planted is not None:
                slot.plant(*planted)
        self._epoch, self._val_accuracy = structure.epoch, structure.val_accuracy
        self._become(structure.states)
        structure.write_back()

    @property
    def _host_module(self) -> nn.Module:
        return self.get_submodule("host")

    def _fossils(self) -> dict[str, nn.Module]:
        return {seed.seed_id: slot for slot, seed in zip(self._slots, self._states, strict=True) if seed is not None and _is_fossil(seed)}

    def _context(self, val_accuracy: float) -> lifecycle.LifecycleContext:
        return lifecycle.LifecycleContext(
            config=self.config,
            limits=self._limits,
            catalogue=self._catalogue,
            family=self.host.family,
            specs=self.specs,
            epoch=self._epoch,
            val_accuracy=val_accuracy,
        )

    def _become(self, states: SlotStates) -> None:
        """Make the modules what the states say; what a new seed needs is built before anything changes."""
        pairs = list(zip(self._slots, states, strict=True))
        grown = [self._modules_for(slot, state) if state is not None and state.has_module else None for slot, state in pairs]
        self._states = states
        like = next(self._host_module.parameters())
        for (slot, state), modules in zip(pairs, grown, strict=True):
            if state is None or modules is None:
                slot.clear()
                continue
            if slot.planted != modules:
                slot.plant(*modules)
                slot.to(device=like.device, dtype=like.dtype).train(self.training)
            slot.follow(state, isolates=self.config.isolate_blending)
        self._route()

    def _modules_for(self, slot: SeedSlot, state: SeedState) -> Modules:
        try:
            return self._nursery.modules(slot, state, epoch=self._epoch)
        except Exception as error:
            raise BlueprintError(state.blueprint_id, slot.spec.slot_id, "being built", repr(error)) from error

    def _failure(self, slot: SeedSlot, error: Exception, *, doing: str) -> BlueprintError:
        state = self._states[self._slots.index(slot)]
        assert state is not None
        return BlueprintError(state.blueprint_id, slot.spec.slot_id, doing, repr(error))

    def _visit(self, segment: int, x: Tensor) -> Tensor:
        for slot in self._computing.get(segment, ()):
            x = self._run_slot(slot, x)
        return x

    def _run_slot(self, index: int, x: Tensor) -> Tensor:
        slot = self._slots[index]
        try:
            return slot.forward(x)
        except Exception as error:
            raise self._failure(slot, error, doing=f"running on a value {list(x.shape)}") from error

    def _route(self) -> None:
        """Note once which slots a forward pass has to visit."""
        computing = [i for i, slot in enumerate(self._slots) if slot.computes]
        segments = {self.specs[i].segment for i in computing}
        self._computing = {s: tuple(i for i in computing if self.specs[i].segment == s) for s in segments}


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a block, so that dropout and batch statistics rest; every submodule gets its own mode back."""
    training = [part for part in module.modules() if part.training]
    try:
        for part in training:
            part.training = False
        yield
    finally:
        for part in training:
            part.training = True


def require_slots(configurations: Sequence[Collection[int]], num_slots: int) -> None:
    """Refuse choices of slots that nobody can run under.

    Raises:
        ValueError: If there is no configuration.
        IndexError: If a configuration names a slot that does not exist.
    """
    if not configurations:
        raise ValueError("a forward pass under configurations needs at least one")
    unknown = set().union(*configurations) - set(range(num_slots))
    if unknown:
        raise IndexError(f"slots {sorted(unknown)} do not exist; the host has {num_slots}")


def _is_fossil(seed: SeedState) -> bool:
    return seed.stage is SeedStage.FOSSILIZED


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
