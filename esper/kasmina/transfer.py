"""The way of numbers from the CPU to where they are needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def bring(x: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on another device; a GPU is not waited for."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)
