"""Copies of many tensors at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Independent copies of the numbers, each on its tensor's own device; a GPU is neither waited for nor asked tensor by tensor."""
    sources = [tensor.detach() for tensor in tensors]
    made = [torch.empty_like(source) for source in sources]
    write(sources, into=made)
    return made


@torch.no_grad()
def write(numbers: Sequence[Tensor], *, into: Sequence[Tensor]) -> None:
    """Copy numbers into tensors of the same shapes, which keep their identity."""
    if numbers:
        torch._foreach_copy_(list(into), list(numbers))
