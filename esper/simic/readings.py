"""Numbers that lie on a device, brought to the CPU together: every read waits for all that a GPU was asked before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def read(tensors: Sequence[Tensor]) -> list[list[float]]:
    """The numbers of every tensor, flattened; exact for all floats up to 64 bits and for integers up to 2⁵³."""
    if not tensors:
        return []
    flat = torch.cat([tensor.detach().flatten().double() for tensor in tensors]).tolist()
    numbers, start = [], 0
    for tensor in tensors:
        numbers.append(flat[start : start + tensor.numel()])
        start += tensor.numel()
    return numbers
