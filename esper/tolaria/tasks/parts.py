"""Training, validation and test data: drawn by a rule or dealt from what is stored, and brought to one scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from esper.leyline.load import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from esper.leyline.rng import SeedTree
    from esper.tolaria.tasks.base import SampleCounts

Samples = tuple[np.ndarray, np.ndarray]
"""Inputs [N, …] and classes [N]."""
Sampler = Callable[[int, np.random.Generator], Samples]
"""Draws a number of samples."""


def draw_parts(counts: SampleCounts, seeds: SeedTree, sampler: Sampler) -> tuple[list[np.ndarray], list[Tensor]]:
    """Inputs and classes of the three parts, each drawn from a node of its own."""
    parts = [
        sampler(counts.train, seeds.child("train").numpy()),
        sampler(counts.val, seeds.child("val").numpy()),
        sampler(counts.test, seeds.child("test").numpy()),
    ]
    return [x for x, _ in parts], [torch.from_numpy(y.astype(np.int64)) for _, y in parts]


def deal(
    num_train_rows: int, num_test_rows: int, counts: SampleCounts, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row numbers of training and validation data, disjoint, within the training rows, and of test data within the test rows.

    Raises:
        ConfigError: If there are too few rows.
    """
    for wanted, rows, what in (
        (counts.train + counts.val, num_train_rows, "task.num_train + task.num_val"),
        (counts.test, num_test_rows, "task.num_test"),
    ):
        if wanted > rows:
            raise ConfigError(f"{what} = {wanted}, but there are {rows} samples to draw from; ask for at most that many")
    drawn = rng.permutation(num_train_rows)[: counts.train + counts.val]
    return drawn[: counts.train], drawn[counts.train :], rng.permutation(num_test_rows)[: counts.test]


def standardised(parts: Sequence[np.ndarray]) -> list[Tensor]:
    """Images [N, C, H, W] of each part with mean 0 and spread 1 per channel, both measured on the first part."""
    images = [torch.from_numpy(part.astype(np.float32)) for part in parts]
    mean = images[0].mean((0, 2, 3), keepdim=True)
    std = images[0].std((0, 2, 3), keepdim=True).clamp_min(1e-6)
    return [(image - mean) / std for image in images]
