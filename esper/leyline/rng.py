"""Randomness as a tree of names: every generator of a run descends from one seed."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from torch import Tensor, device

TorchState: TypeAlias = "tuple[Tensor, ...]"
"""Of the CPU's generator, then of GPUs'."""


@dataclass(frozen=True, slots=True)
class SeedTree:
    """A node of the tree. Equal paths give equal randomness; different paths give independent randomness."""

    root: int
    path: tuple[int | str, ...] = ()

    def child(self, *keys: int | str) -> SeedTree:
        """Descend by names or indices, e.g. `tree.child("env", 3, "episode", 7)`."""
        return SeedTree(self.root, self.path + keys)

    def integer(self) -> int:
        """A 63-bit integer that stands for this node."""
        text = repr((self.root, *(key if isinstance(key, str) else int(key) for key in self.path)))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1

    def numpy(self) -> np.random.Generator:
        """A fresh NumPy generator for this node."""
        return np.random.default_rng(self.integer())

    def torch(self) -> torch.Generator:
        """A fresh CPU torch generator for this node."""
        import torch

        return torch.Generator().manual_seed(self.integer())

    @contextmanager
    def torch_scope(self, devices: Sequence[device] = (), state: TorchState | None = None) -> Iterator[None]:
        """Run a block whose implicit torch randomness (module initialisation, dropout) comes from this node alone.

        The generators of the CPU and of the GPUs that are named are seeded, and afterwards as they were before; no other is touched.

        Args:
            devices: Where the block draws besides the CPU; it may be named too.
            state: Where an earlier block of this node on these devices ended, to go on from there.
        """
        import torch

        gpus, before = _gpus(devices), torch_state(devices)
        try:
            if state is None:
                torch.default_generator.manual_seed(self.integer())
                for gpu in gpus:
                    with torch.cuda.device(gpu):
                        torch.cuda.manual_seed(self.integer())
            else:
                _write(state, gpus)
            yield
        finally:
            _write(before, gpus)


def torch_state(devices: Sequence[device] = ()) -> TorchState:
    """Of torch's generators: that of the CPU, then those of the GPUs among `devices`."""
    import torch

    return torch.random.get_rng_state(), *(torch.cuda.get_rng_state(gpu) for gpu in _gpus(devices))


def _write(state: TorchState, gpus: Sequence[device]) -> None:
    import torch

    torch.random.set_rng_state(state[0])
    for gpu, own in zip(gpus, state[1:], strict=True):
        torch.cuda.set_rng_state(own, gpu)


def _gpus(devices: Sequence[device]) -> list[device]:
    return [each for each in devices if each.type == "cuda"]
