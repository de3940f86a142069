"""One flat tensor that holds the parameters of a whole population.

The members' own parameters are views of it: whoever reads or restores one member needs not know that there are others.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True, slots=True)
class Block:
    """Members whose parameters have the same shapes, one row each."""

    members: tuple[int, ...]
    rows: tuple[tuple[nn.Parameter, ...], ...]
    learns: bool

    @property
    def shapes(self) -> tuple[torch.Size, ...]:
        """Shape of every parameter of a row."""
        return tuple(parameter.shape for parameter in self.rows[0])

    @property
    def row_size(self) -> int:
        """Numbers in a row."""
        return sum(shape.numel() for shape in self.shapes)

    @property
    def size(self) -> int:
        """Numbers in all rows."""
        return len(self.rows) * self.row_size


@dataclass(frozen=True, slots=True)
class Row:
    """One member's part of a block."""

    member: int
    parameters: tuple[nn.Parameter, ...]
    start: int
    stop: int


class Storage:
    """Takes over the parameters of `blocks`: from now on they are views of `flat`.

    Blocks that learn come first, so that everything that is trained is one leaf for autograd.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        order = sorted(range(len(blocks)), key=lambda i: not blocks[i].learns)
        self._order = order
        self.blocks = tuple(blocks[i] for i in order)
        parameters = [parameter for block in self.blocks for row in block.rows for parameter in row]
        self.flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
        for parameter, view in zip(parameters, self.flat.split([parameter.numel() for parameter in parameters]), strict=True):
            parameter.data = view.view(parameter.shape)
            parameter.grad = None
        self.num_learning = sum(block.size for block in self.blocks if block.learns)
        self.leaf = self.flat[: self.num_learning].detach().requires_grad_()
        """What is trained, as a leaf for autograd."""

    def rows(self) -> Iterator[Row]:
        """Rows that learn, in the order in which they lie in `leaf`."""
        start = 0
        for block in self.blocks:
            if not block.learns:
                return
            for member, parameters in zip(block.members, block.rows, strict=True):
                yield Row(member, parameters, start, start + block.row_size)
                start += block.row_size

    def stacked(self, *, with_grad: bool) -> list[list[Tensor]]:
        """Parameters of every block as [rows, …], in the order in which the blocks were given.

        Args:
            with_grad: Whether those that learn are to be differentiated with respect to `leaf`.
        """
        return self.cut(self.leaf if with_grad else self.leaf.detach())

    def cut(self, learning: Tensor) -> list[list[Tensor]]:
        """The same of any tensor in the place of `leaf`, as of a gradient; blocks that do not learn are what they are."""
        sizes = [block.size for block in self.blocks]
        split = sum(block.learns for block in self.blocks)
        pieces = [*learning.split(sizes[:split]), *self.flat[self.num_learning :].split(sizes[split:])]
        tensors: list[list[Tensor]] = [[] for _ in self.blocks]
        for i, block, piece in zip(self._order, self.blocks, pieces, strict=True):
            tensors[i] = _columns(piece, block)
        return tensors

    def hand_out(self, gradient: Tensor) -> None:
        """Give every parameter that learns its part of a gradient with respect to `leaf`."""
        for row in self.rows():
            sizes = [parameter.numel() for parameter in row.parameters]
            for parameter, part in zip(row.parameters, gradient[row.start : row.stop].split(sizes), strict=True):
                parameter.grad = part.view(parameter.shape)

    def square_sums(self, values: Tensor, num_members: int) -> Tensor:
        """Sum of squares of what belongs to each member, [K], of a tensor shaped as `leaf`."""
        total = values.new_zeros(num_members)
        learning = [block for block in self.blocks if block.learns]
        for block, piece in zip(learning, values.split([block.size for block in learning]), strict=True):
            index = torch.tensor(block.members, device=values.device)
            total.index_add_(0, index, piece.view(len(block.rows), -1).square().sum(1))
        return total

    def scale(self, values: Tensor, factors: Tensor) -> None:
        """Multiply, in place, what belongs to each member by its factor [K]."""
        learning = [block for block in self.blocks if block.learns]
        for block, piece in zip(learning, values.split([block.size for block in learning]), strict=True):
            piece.view(len(block.rows), -1).mul_(factors[list(block.members), None])


def _columns(piece: Tensor, block: Block) -> list[Tensor]:
    """Cut rows [n · row_size] into one tensor [n, *shape] a parameter."""
    rows = piece.view(len(block.rows), block.row_size)
    stops = list(accumulate(shape.numel() for shape in block.shapes))
    if len(stops) == 1:
        return [rows.view(len(block.rows), *block.shapes[0])]
    columns = rows.split([shape.numel() for shape in block.shapes], dim=1)
    return [column.unflatten(1, shape) if len(shape) else column.squeeze(1) for column, shape in zip(columns, block.shapes, strict=True)]
