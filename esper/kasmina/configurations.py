"""The same input under several choices of slots, in one pass, with the configurations stacked along the batch.

`SharedPrefixes` splits the batch slot by slot: configurations that agree so far share their values, so that the trunk
runs once. `StackedInputs` repeats the input for every distinct configuration, which any host bears. Equal
configurations cost nothing either way.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from esper.kasmina.transfer import bring

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


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
        return grouped if self.rows == tuple(range(self.num_prefixes)) else grouped[_index(self.rows, grouped)]

    def _take(self, prefixes: list[int]) -> Tensor:
        if len(prefixes) == self.num_prefixes:
            return self.x
        grouped = self._grouped()
        return grouped[_index(prefixes, grouped)].flatten(0, 1)

    def _grouped(self) -> Tensor:
        return self.x.view(self.num_prefixes, -1, *self.x.shape[1:])


class SharedPrefixes:
    """Visits of one pass that split the batch where configurations part.

    logits = visits.finish(host.run(visits.start(x), visits.visit))

    Args:
        configurations: Slots left on in each.
        slots: By segment, the slots behind it that are heard.
        run_slot: What a slot makes of a value.
    """

    def __init__(
        self, configurations: Sequence[frozenset[int]], slots: Mapping[int, tuple[int, ...]], run_slot: Callable[[int, Tensor], Tensor]
    ) -> None:
        self._configurations = configurations
        self._slots = slots
        self._run_slot = run_slot
        self._rows: tuple[int, ...] = (0,) * len(configurations)

    def start(self, x: Tensor) -> Tensor:
        """What the host is given: the input as it is."""
        return x

    def visit(self, segment: int, x: Tensor) -> Tensor:
        """Run the slots behind a segment, each for the configurations that have it on."""
        for index in self._slots.get(segment, ()):
            branches = Branches(x, self._rows).split(
                partial(self._run_slot, index), [index in configuration for configuration in self._configurations]
            )
            x, self._rows = branches.x, branches.rows
        return x

    def finish(self, logits: Tensor) -> Tensor:
        """Logits of every configuration [C, B, …]."""
        return Branches(logits, self._rows).expand()


class StackedInputs:
    """Visits of one pass in which every distinct configuration has had its own rows from the input on.

    logits = visits.finish(host.run(visits.start(x), visits.visit))

    Args:
        configurations: Slots left on in each.
        slots: By segment, the slots behind it that are heard.
        run_slot: What a slot makes of a value.
    """

    def __init__(
        self, configurations: Sequence[frozenset[int]], slots: Mapping[int, tuple[int, ...]], run_slot: Callable[[int, Tensor], Tensor]
    ) -> None:
        heard = frozenset(index for behind in slots.values() for index in behind)
        chosen = [configuration & heard for configuration in configurations]
        self._distinct = tuple(dict.fromkeys(chosen))
        self._rows = tuple(self._distinct.index(configuration) for configuration in chosen)
        self._slots = slots
        self._run_slot = run_slot

    def start(self, x: Tensor) -> Tensor:
        """What the host is given: the input once for every distinct configuration, [G·B, …]."""
        return x.repeat(len(self._distinct), *(1,) * (x.ndim - 1))

    def visit(self, segment: int, x: Tensor) -> Tensor:
        """Run the slots behind a segment on the rows of the configurations that have it on."""
        for index in self._slots.get(segment, ()):
            on = [group for group, configuration in enumerate(self._distinct) if index in configuration]
            if len(on) == len(self._distinct):
                x = self._run_slot(index, x)
            elif on:
                grouped = x.view(len(self._distinct), -1, *x.shape[1:])
                groups = _index(on, x)
                value = self._run_slot(index, grouped.index_select(0, groups).flatten(0, 1)).view(len(on), *grouped.shape[1:])
                x = grouped.index_copy(0, groups, value).flatten(0, 1)
        return x

    def finish(self, logits: Tensor) -> Tensor:
        """Logits of every configuration [C, B, …]."""
        return Branches(logits, self._rows).expand()


def _index(rows: Sequence[int], like: Tensor) -> Tensor:
    """Rows as an index on a tensor's device; a list would wait for a GPU."""
    return bring(torch.tensor(rows), like.device)
