"""The module at a slot: it carries a seed's modules and mixes their value into the host as the seed's state says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, is_grad_enabled, nn

from esper.kasmina.blend import blend, straight_through
from esper.kasmina.faults import BackwardWatch, require_value
from esper.leyline.alpha import BlendOperator
from esper.leyline.layer_ops import is_stackable
from esper.leyline.stages import SeedStage

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper.kasmina.blend import BlendGate
    from esper.kasmina.nursery import Modules
    from esper.kasmina.seed_state import SeedState
    from esper.leyline.host import InjectionSpec

INCUBATING_STAGES = frozenset({SeedStage.TRAINING, SeedStage.BLENDING})
"""Stages in which a seed at alpha 0 learns behind a straight-through estimator."""
GATE_SUFFIX = ":gate"


@dataclass(frozen=True, slots=True)
class Manner:
    """How a slot that computes treats its seed, its alpha apart."""

    is_incubating: bool
    """The seed learns without being heard."""
    isolates: bool
    """The seed's input is cut off from the host."""
    operator: BlendOperator
    learns: bool
    """False while a seed is blended out: its parameters stand still."""


class SeedSlot(nn.Module):
    """One place in the host. Submodules are named by seed id, so that no two seeds ever share a parameter name.

    Args:
        spec: Which place.
        watch: Is told of the backward passes of seeds that could fail, which are those without a formula.
    """

    def __init__(self, spec: InjectionSpec, watch: BackwardWatch[SeedSlot] | None = None) -> None:
        super().__init__()
        self._watch = watch
        self._is_watched = False
        self.spec = spec
        self.computes = False
        """Whether the slot does anything in a forward pass."""
        self.alpha = 0.0
        """How far the seed is blended in, 0…1."""
        self._planted: Modules | None = None
        self._manner = Manner(is_incubating=False, isolates=False, operator=BlendOperator.ADD, learns=True)

    @property
    def planted(self) -> Modules | None:
        """Id, module and gate of the seed that is here; None where there is none."""
        return self._planted

    @property
    def manner(self) -> Manner | None:
        """How the seed is treated; None where the slot does not compute."""
        return self._manner if self.computes else None

    @property
    def is_incubating(self) -> bool:
        """Whether a seed learns here without being heard."""
        return self.computes and self._manner.is_incubating

    def plant(self, seed_id: str, seed: nn.Module, gate: BlendGate | None) -> None:
        """Take in a seed's modules in place of those that are here."""
        self.clear()
        self._planted = (seed_id, seed, gate)
        self._is_watched = not is_stackable(seed)
        self.add_module(seed_id, seed)
        if gate is not None:
            self.add_module(seed_id + GATE_SUFFIX, gate)

    def clear(self) -> None:
        """Let go of the modules and compute nothing."""
        for name in list(self._modules):
            del self._modules[name]
        self._planted = None
        self.computes = False

    def follow(self, state: SeedState, *, isolates: bool) -> None:
        """Compute as `state` says from now on.

        Args:
            state: The state of the seed that is planted here.
            isolates: Whether a blending seed's input is cut off from the host.
        """
        self.alpha = state.controller.alpha
        self._manner = Manner(
            is_incubating=self.alpha == 0.0 and state.stage in INCUBATING_STAGES,
            isolates=isolates and state.stage is SeedStage.BLENDING,
            operator=state.operator,
            learns=state.withering_for is None,
        )
        self.computes = self._manner.is_incubating or state.is_live
        if not self._manner.learns:
            for parameter in self.parameters():
                parameter.requires_grad_(False)
                parameter.grad = None

    def forward(self, h: Tensor) -> Tensor:
        """The value that the next segment receives; shape of `h`."""
        if self._planted is None or not self.computes or (self.is_incubating and not self.training):
            return h
        _, seed, gate = self._planted
        if self._watch is None or not self._is_watched:
            return pass_seed(h, seed, gate, alpha=self.alpha, manner=self._manner)
        watch = self._watch
        watch.end_at(h)
        return pass_seed(h, lambda x: watch.begin_at(seed(x), self), gate, alpha=self.alpha, manner=self._manner)


def pass_seed(
    h: Tensor, seed: Callable[[Tensor], Tensor], gate: Callable[[Tensor], Tensor] | None, *, alpha: float | Tensor, manner: Manner
) -> Tensor:
    """The value behind a slot, of one model.

    Args:
        h: Host value.
        seed: What grows there.
        gate: Used by GATE alone.
        alpha: How far the seed is blended in.
        manner: How the slot treats its seed.

    Raises:
        TypeError: If the seed's value is no tensor.
        ValueError: If it has another shape than what the seed was given.
    """
    source = seed_input(h, manner)
    s = require_value(seed(source), source).to(h.dtype)  # autocast leaves some values in fp32
    return mix_in(h, s, source, gate, alpha=alpha, manner=manner)


def seed_input(h: Tensor, manner: Manner) -> Tensor:
    """What a seed is given of its host's value.

    It is made contiguous where a gradient would end at it: GroupNorm's backward crashes in torch 2.13 (CPU) on a channels_last
    input without gradient.
    """
    if manner.is_incubating or manner.isolates:
        return h.detach().contiguous()
    return h if h.requires_grad or not is_grad_enabled() else h.contiguous()


def mix_in(
    h: Tensor, s: Tensor, source: Tensor, gate: Callable[[Tensor], Tensor] | None, *, alpha: float | Tensor, manner: Manner
) -> Tensor:
    """Mix a seed's value into its host's; for one model, or for members on a leading axis.

    Args:
        h: Host value.
        s: Value that the seed made of `source`.
        source: What the seed was given.
        gate: Used by GATE alone.
        alpha: How far the seed is blended in; one number, or one per member that broadcasts over `h`.
        manner: How the slot treats its seed.
    """
    if manner.is_incubating:
        return straight_through(h, s)
    return blend(h, s, alpha, manner.operator, gate, reference=source)
