"""The same input under several choices of slots, in one pass: which distinct prefixes exist behind every slot.

Configurations that agree so far share their values, so that the trunk runs once and equal configurations cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True, slots=True)
class Branches:
    """Values of G distinct prefixes, stacked along the batch."""

    x: Tensor
    """[G·B, …]"""
    rows: tuple[int, ...]
    """Prefix of every configuration, 0…G − 1."""

    @property
    def num_prefixes(self) -> int:
        """G."""
        return max(self.rows) + 1

    @staticmethod
    def trunk(x: Tensor, num_configurations: int) -> Branches:
        """All configurations on one prefix."""
        return Branches(x, (0,) * num_configurations)

    def along(self, segment: Callable[[Tensor], Tensor]) -> Branches:
        """Run what all configurations share."""
        return Branches(segment(self.x), self.rows)

    def split(self, slot: Callable[[Tensor], Tensor], is_on: Sequence[bool]) -> Branches:
        """Run a slot for the configurations that have it on, and pass it by for the others."""
        if all(is_on):
            return self.along(slot)
        if not any(is_on):
            return self
        choices = list(zip(self.rows, is_on, strict=True))
        off = sorted({row for row, on in choices if not on})
        on = sorted({row for row, on in choices if on})
        place = {(row, False): i for i, row in enumerate(off)} | {(row, True): len(off) + i for i, row in enumerate(on)}
        x = torch.cat([self._take(off), slot(self._take(on))])
        return Branches(x, tuple(place[choice] for choice in choices))

    def expand(self) -> Tensor:
        """Values of every configuration [C, B, …]."""
        grouped = self._grouped()
        return grouped if self.rows == tuple(range(self.num_prefixes)) else grouped[list(self.rows)]

    def _take(self, prefixes: list[int]) -> Tensor:
        if len(prefixes) == self.num_prefixes:
            return self.x
        return self._grouped()[prefixes].flatten(0, 1)

    def _grouped(self) -> Tensor:
        return self.x.view(self.num_prefixes, -1, *self.x.shape[1:])
