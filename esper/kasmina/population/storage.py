"""One flat tensor that holds the parameters of a whole population.

The members' own parameters are views of it: whoever reads or restores one member needs not know that there are others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from esper.kasmina.population.columns import Column, Stack, cut, make_column, make_stacked_column
from esper.kasmina.population.product import ALIGNMENT_BYTES
from esper.kasmina.transfer import bring

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Block:
    """Members whose parameters have the same shapes, one row each."""

    members: tuple[int, ...]
    rows: tuple[tuple[nn.Parameter, ...], ...]
    learns: bool
    num_apart: int = 0
    """How many parameters of a row, from the first, are cut row by row, because each member uses them in its own way."""
    incubating: tuple[int | None, ...] = ()
    """Of every row, the slot whose seed it is, if that seed learns without being heard; empty where none does."""

    @property
    def shapes(self) -> tuple[torch.Size, ...]:
        """Shape of every parameter of a row."""
        return tuple(parameter.shape for parameter in self.rows[0])

    @property
    def widths(self) -> tuple[int, ...]:
        """Numbers reserved for every parameter of a row: its own, rounded up to whole lines of memory."""
        return tuple(_whole_lines(parameter) for parameter in self.rows[0])

    @property
    def row_size(self) -> int:
        """Numbers reserved for a row."""
        return sum(self.widths)

    @property
    def size(self) -> int:
        """Numbers reserved for all rows."""
        return len(self.rows) * self.row_size


@dataclass(frozen=True, slots=True)
class Place:
    """Where a parameter lies in the leaf."""

    member: int
    parameter: nn.Parameter
    start: int
    width: int
    """Numbers reserved, at least as many as the parameter has."""


class Storage:
    """Takes over the parameters of `blocks`: from now on they are views of `flat`.

    Blocks that learn come first, so that everything that is trained is one leaf for autograd. Every parameter begins at a
    line of memory of its own, so that vectorised kernels treat its numbers alike whoever stands before it; the numbers in
    between are 0 and so is their gradient.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        order = sorted(range(len(blocks)), key=lambda i: not blocks[i].learns)
        self._order = order
        self.blocks = tuple(blocks[i] for i in order)
        parameters = [parameter for block in self.blocks for row in block.rows for parameter in row]
        widths = [width for block in self.blocks for _ in block.rows for width in block.widths]
        self.flat = parameters[0].detach().new_zeros(sum(widths))
        views = _views(self.flat, parameters, widths)
        torch._foreach_copy_(views, [parameter.detach() for parameter in parameters])
        for parameter, view in zip(parameters, views, strict=True):
            parameter.data = view
            parameter.grad = None
        self._addresses = [(parameter, parameter.data_ptr()) for parameter in parameters]
        self.places = _places(self.blocks)
        """Of every parameter that learns, in the order in which they lie in `leaf`."""
        self._learning = [place.parameter for place in self.places]
        self._widths = [place.width for place in self.places]
        self.num_learning = sum(self._widths)
        self.leaf = self.flat[: self.num_learning].detach().requires_grad_()
        """What is trained, as a leaf for autograd."""
        self._columns, self._places_of = _columns(self.blocks)
        self._num_learning_columns = sum(_num_columns(block) for block in self.blocks if block.learns)
        self._heard = [True] * self._num_learning_columns
        self._resting = [column.of(self.flat) for column in self._columns[self._num_learning_columns :]]
        self._learning_blocks = [block for block in self.blocks if block.learns and block.size]
        self._members = [bring(torch.tensor(block.members), self.flat.device) for block in self._learning_blocks]
        self.incubating = tuple((member, slot) for block in self._learning_blocks for member, slot in _incubating(block))
        """Member and slot of every seed that learns without being heard."""
        self._apart: list[Tensor] | None = None
        self._handed: tuple[Tensor, list[Tensor]] | None = None

    def is_in_use(self) -> bool:
        """Whether the parameters are still views of it; casting a module, or another storage, takes them away."""
        return all(parameter.data_ptr() == address for parameter, address in self._addresses)

    def parts(self, values: Tensor) -> list[Tensor]:
        """Views of a tensor shaped as `leaf`: what belongs to the parameter of every place, in its shape."""
        return _views(values, self._learning, self._widths)

    def stacked(self, *, with_grad: bool) -> list[list[Stack]]:
        """Parameters of every block as [rows, …], or as one tensor a row, in the order in which the blocks were given.

        Args:
            with_grad: Whether those that learn are to be differentiated with respect to `leaf`.
        """
        return self.cut(self.leaf if with_grad else self.leaf.detach())

    def cut(self, learning: Tensor) -> list[list[Stack]]:
        """The same of any tensor in the place of `leaf`, as of a gradient; blocks that do not learn are what they are."""
        pieces = iter([*cut(learning, self._columns[: self._num_learning_columns], self._heard), *self._resting])
        tensors: list[list[Stack]] = [[] for _ in self.blocks]
        for i, block in zip(self._order, self.blocks, strict=True):
            apart = [tuple(next(pieces) for _ in block.rows) for _ in range(block.num_apart)]
            tensors[i] = [*apart, *(next(pieces) for _ in block.rows[0][block.num_apart :])]
        return tensors

    def unheard(self) -> frozenset[int]:
        """Places on which nothing depended that the last gradient was taken of; optimizers leave such parameters alone."""
        if all(self._heard):
            return frozenset()
        return frozenset(place for places, heard in zip(self._places_of, self._heard, strict=False) if not heard for place in places)

    def hand_out(self, gradient: Tensor) -> None:
        """Give every parameter that was heard its part of the last gradient with respect to `leaf`, until the next is handed out."""
        if self._handed is None:
            whole = torch.empty_like(gradient)
            self._handed = whole, self.parts(whole)
        whole, parts = self._handed
        whole.copy_(gradient)
        unheard = self.unheard()
        for place, (parameter, part) in enumerate(zip(self._learning, parts, strict=True)):
            parameter.grad = None if place in unheard else part

    def square_sums(self, values: Tensor, num_members: int) -> Tensor:
        """Sum of squares of what belongs to each member, [K], of a tensor shaped as `leaf`."""
        return self._square_sums(values, self._members, num_members)

    def square_sums_apart(self, values: Tensor, num_members: int) -> Tensor:
        """The same of what is heard, [K], and behind it of every seed in `incubating`, [I]."""
        return self._square_sums(values, self._groups(num_members), num_members + len(self.incubating))

    def scale_apart(self, values: Tensor, factors: Tensor, num_members: int) -> None:
        """Multiply, in place, what is heard of each member by its factor, and every seed in `incubating` by its own, [K + I]."""
        for groups, piece in zip(self._groups(num_members), self._rows(values), strict=True):
            piece.mul_(factors.index_select(0, groups)[:, None])

    def _square_sums(self, values: Tensor, groups: Sequence[Tensor], num_groups: int) -> Tensor:
        total = values.new_zeros(num_groups)
        for own, piece in zip(groups, self._rows(values), strict=True):
            total.index_add_(0, own, piece.square().sum(1))
        return total

    def _groups(self, num_members: int) -> list[Tensor]:
        """Of every block that learns, the group of each row: its member's, or one of its own if it is not heard."""
        if not self.incubating:
            return self._members
        if self._apart is None:
            groups, last = [], num_members
            for block in self._learning_blocks:
                own = list(block.members)
                for row, slot in enumerate(block.incubating):
                    if slot is not None:
                        own[row], last = last, last + 1
                groups.append(bring(torch.tensor(own), self.flat.device))
            self._apart = groups
        return self._apart

    def _rows(self, values: Tensor) -> list[Tensor]:
        """Of every block that learns, what belongs to its rows [rows, numbers]."""
        pieces = values.split([block.size for block in self._learning_blocks])
        return [piece.view(len(block.rows), -1) for block, piece in zip(self._learning_blocks, pieces, strict=True)]


def _columns(blocks: Sequence[Block]) -> tuple[list[Column], list[list[int]]]:
    """Columns of all blocks, and whose places each of them covers."""
    columns: list[Column] = []
    places: list[list[int]] = []
    start = first = 0
    for block in blocks:
        size, num_rows, stride = len(block.shapes), len(block.rows), block.row_size
        own = [list(range(first + i, first + i + num_rows * size, size)) for i in range(size)]
        for i, (shape, width) in enumerate(zip(block.shapes, block.widths, strict=True)):
            if i < block.num_apart:
                columns += [make_column(shape, start + row * stride) for row in range(num_rows)]
                places += [[place] for place in own[i]]
            else:
                columns.append(make_stacked_column(num_rows, shape, start, stride=stride))
                places.append(own[i])
            start += width
        start += (num_rows - 1) * stride
        first += num_rows * size
    return columns, places


def _incubating(block: Block) -> list[tuple[int, int]]:
    """Member and slot of every row that learns without being heard."""
    return [(member, slot) for member, slot in zip(block.members, block.incubating, strict=False) if slot is not None]


def _num_columns(block: Block) -> int:
    return len(block.shapes) + block.num_apart * (len(block.rows) - 1)


def _whole_lines(parameter: Tensor) -> int:
    line = ALIGNMENT_BYTES // parameter.element_size()
    return parameter.numel() + -parameter.numel() % line


def _places(blocks: Sequence[Block]) -> tuple[Place, ...]:
    places, start = [], 0
    for block in (block for block in blocks if block.learns):
        for member, parameters in zip(block.members, block.rows, strict=True):
            for parameter, width in zip(parameters, block.widths, strict=True):
                places.append(Place(member, parameter, start, width))
                start += width
    return tuple(places)


def _views(values: Tensor, like: Sequence[Tensor], widths: Sequence[int]) -> list[Tensor]:
    """Views of what is reserved in `values` for tensors, each in the shape of its own."""
    pieces = values.split(list(widths))
    return [piece[: tensor.numel()].view(tensor.shape) for piece, tensor in zip(pieces, like, strict=True)]
