"""What a growing model looked like before a change, so that a change that fails leaves no trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from esper.kasmina.copies import copies, write
from esper.kasmina.nursery import Modules
from esper.kasmina.seed_state import SlotStates


@dataclass(frozen=True, slots=True)
class Structure:
    """Seeds and modules at one moment, and the numbers that may change. It refers to the live modules."""

    states: SlotStates
    planted: tuple[Modules | None, ...]
    """Seed id, seed and gate in every slot."""
    requires_grad: Mapping[nn.Parameter, bool]
    numbers: Mapping[Tensor, Tensor]
    """Live parameter or buffer → copy of its numbers; empty where the change writes none that are there."""
    epoch: int
    val_accuracy: float

    @property
    def trainable(self) -> frozenset[Tensor]:
        """Parameters that required a gradient."""
        return frozenset(parameter for parameter, is_trained in self.requires_grad.items() if is_trained)

    def write_back(self) -> None:
        """Give every tensor the numbers that were copied, and its `requires_grad`."""
        for parameter, is_trained in self.requires_grad.items():
            parameter.requires_grad_(is_trained)
        write(list(self.numbers.values()), into=list(self.numbers))


def copy_numbers(module: nn.Module) -> dict[Tensor, Tensor]:
    """Copies of all parameters and buffers on their own device, by the live tensor."""
    tensors = [*module.parameters(), *module.buffers()]
    return dict(zip(tensors, copies(tensors), strict=True))
