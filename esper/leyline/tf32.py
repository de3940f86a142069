"""How exactly a GPU multiplies: in full fp32, or with inputs rounded to the 10 bits of TF32, which is several times as fast."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch


@contextmanager
def tf32(device: torch.device, *, is_allowed: bool) -> Iterator[None]:
    """A block in which matrix products and convolutions on a GPU both may round their inputs to TF32, or neither may.

    By torch's own defaults convolutions may and products may not. The settings belong to the process and are afterwards as they
    were; backward passes obey them too, so that they belong into the block. On a CPU nothing is read or set.

    Args:
        device: Where the block computes.
        is_allowed: Whether to round.
    """
    if device.type != "cuda":
        yield
        return
    import torch

    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    try:
        products.allow_tf32 = convolutions.allow_tf32 = is_allowed
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
