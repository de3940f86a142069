"""What a population was before an epoch that the modules of a user could break off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor, nn

    from esper.tolaria.engine.flat_optimizer import FlatOptimizer

PLAIN = (bool, int, float, str, type(None))
"""What a module may keep for itself, as a counter, beside tensors."""


class Safeguard:
    """Copies of all numbers of a population, to be taken between epochs.

    Args:
        flat: The members' parameters.
        optimizer: What is remembered of them.
        modules: Those that run member by member; their buffers, their frozen parameters and their plain attributes are theirs alone.
    """

    def __init__(self, flat: Tensor, optimizer: FlatOptimizer, modules: Sequence[nn.Module]) -> None:
        self._flat, self._numbers = flat, flat.clone()
        self._optimizer, self._memory = optimizer, optimizer.remember()
        parts = list({part: None for module in modules for part in module.modules()})
        self._tensors = [(part, name, own, own.detach().clone()) for part in parts for name, own in _own_tensors(part)]
        self._attributes = [(part, {key: own for key, own in vars(part).items() if isinstance(own, PLAIN)}) for part in parts]

    @torch.no_grad()
    def restore(self) -> None:
        """Make everything what it was."""
        self._flat.copy_(self._numbers)
        self._optimizer.restore(self._memory)
        for part, name, own, numbers in self._tensors:
            own.copy_(numbers)
            setattr(part, name, own)
        for part, attributes in self._attributes:
            vars(part).update(attributes)


def _own_tensors(part: nn.Module) -> Iterable[tuple[str, Any]]:
    """Of one module, without its submodules', what lies in no population's storage."""
    yield from part.named_buffers(recurse=False)
    yield from ((name, own) for name, own in part.named_parameters(recurse=False) if not own.requires_grad)
