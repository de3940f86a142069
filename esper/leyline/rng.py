"""Randomness as a tree of names: every generator of a run descends from one seed."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from torch import device


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
    def torch_scope(self, gpus: Sequence[device] = ()) -> Iterator[None]:
        """Run a block whose implicit torch randomness (module initialisation, dropout) comes from this node alone.

        Args:
            gpus: Those whose generators the block draws from as well; all generators are afterwards as they were before.
        """
        import torch

        with torch.random.fork_rng(devices=list(gpus)):
            torch.manual_seed(self.integer())
            yield
