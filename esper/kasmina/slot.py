"""The module at a slot: it carries a seed's modules and mixes their value into the host as the seed's state says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from esper.kasmina.blend import blend, straight_through
from esper.leyline.alpha import BlendOperator
from esper.leyline.stages import SeedStage

if TYPE_CHECKING:
    from esper.kasmina.blend import BlendGate
    from esper.kasmina.nursery import Modules
    from esper.kasmina.seed_state import SeedState
    from esper.leyline.host import InjectionSpec

INCUBATING_STAGES = frozenset({SeedStage.TRAINING, SeedStage.BLENDING})
"""Stages in which a seed at alpha 0 learns behind a straight-through estimator."""
GATE_SUFFIX = ":gate"


class SeedSlot(nn.Module):
    """One place in the host. Submodules are named by seed id, so that no two seeds ever share a parameter name."""

    def __init__(self, spec: InjectionSpec) -> None:
        super().__init__()
        self.spec = spec
        self.computes = False
        """Whether the slot does anything in a forward pass."""
        self.is_incubating = False
        """Whether the seed learns without being heard."""
        self._planted: Modules | None = None
        self._alpha = 0.0
        self._operator = BlendOperator.ADD
        self._isolates = False

    @property
    def planted(self) -> Modules | None:
        """Id, module and gate of the seed that is here; None where there is none."""
        return self._planted

    @property
    def seed_id(self) -> str | None:
        """The seed whose modules are here."""
        return self._planted[0] if self._planted else None

    def plant(self, seed_id: str, seed: nn.Module, gate: BlendGate | None) -> None:
        """Take in a seed's modules in place of those that are here."""
        self.clear()
        self._planted = (seed_id, seed, gate)
        self.add_module(seed_id, seed)
        if gate is not None:
            self.add_module(seed_id + GATE_SUFFIX, gate)

    def clear(self) -> None:
        """Let go of the modules and compute nothing."""
        for name in list(self._modules):
            del self._modules[name]
        self._planted = None
        self.computes = self.is_incubating = False

    def follow(self, state: SeedState, *, isolates: bool) -> None:
        """Compute as `state` says from now on.

        Args:
            state: The state of the seed that is planted here.
            isolates: Whether a blending seed's input is cut off from the host.
        """
        self._alpha = state.controller.alpha
        self._operator = state.operator
        self._isolates = isolates and state.stage is SeedStage.BLENDING
        self.is_incubating = self._alpha == 0.0 and state.stage in INCUBATING_STAGES
        self.computes = self.is_incubating or state.is_live
        if state.withering_for is not None:
            for parameter in self.parameters():
                parameter.requires_grad_(False)
                parameter.grad = None

    def forward(self, h: Tensor) -> Tensor:
        """The value that the next segment receives; shape of `h`.

        The seed's input is made contiguous where it is detached: GroupNorm's backward crashes in torch 2.13 (CPU) on a
        channels_last input without gradient.
        """
        if self._planted is None or not self.computes:
            return h
        _, seed, gate = self._planted
        if self.is_incubating:
            return straight_through(h, seed(h.detach().contiguous())) if self.training else h
        if self._isolates:
            source = h.detach().contiguous()
            return blend(h, seed(source), self._alpha, self._operator, gate, reference=source)
        return blend(h, seed(h), self._alpha, self._operator, gate)
