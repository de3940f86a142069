"""A user's own images or token sequences from `train.parquet` and `test.parquet`.

Both files are decoded once per machine, whole, into arrays that every process maps (`esper.tolaria.shared_data`): in `.esper`
beside them or, where that cannot be written to, in the user's cache. Episodes deal rows of those arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from esper.leyline.load import ConfigError
from esper.tolaria.data import Dataset
from esper.tolaria.shared_data import shared_arrays, shared_folders
from esper.tolaria.tasks.parquet_files import Columns, decode_images, decode_tokens
from esper.tolaria.tasks.parts import deal
from esper.tolaria.tasks.stored import StoredRows, standardised_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from esper.leyline.rng import SeedTree
    from esper.tolaria.tasks.base import SampleCounts


def make_parquet_images(counts: SampleCounts, seeds: SeedTree, *, data_dir: str, columns: tuple[str, str]) -> Dataset:
    """Images of one size with a class each, augmented by crops and mirroring.

    Args:
        counts: Training and validation samples are drawn from `train.parquet`, test samples from `test.parquet`.
        seeds: Which rows are drawn.
        data_dir: Folder of the two files.
        columns: Names of the image column (PNG or JPEG bytes, a struct with a field `bytes`, or lists [H][W] or [H][W][C]
            of numbers) and of the label column (whole numbers from 0).

    Raises:
        ConfigError: If a file, a column or enough rows are missing, values are not as described, or there is nowhere to keep
            what was decoded.
    """
    arrays = _decoded(data_dir, Columns(*columns), decode_images, recipe="images 1")
    drawn = _draw(counts, seeds, arrays)
    train_x, val_x, test_x = standardised_rows(drawn.inputs)
    train_y, val_y, test_y = drawn.labels
    num_classes = int(arrays["num_classes"][0])
    return Dataset(train_x, train_y, val_x, val_y, test_x, test_y, num_classes=num_classes, kind="image", augmentation="crop_flip")


def make_parquet_tokens(counts: SampleCounts, seeds: SeedTree, *, data_dir: str, columns: tuple[str, str]) -> Dataset:
    """Token sequences of one length with a class each; the vocabulary reaches to the largest token in either file.

    Args:
        counts: As for images.
        seeds: Which rows are drawn.
        data_dir: Folder of the two files.
        columns: Names of the token column (lists of whole numbers from 0) and of the label column (whole numbers from 0).

    Raises:
        ConfigError: As for images.
    """
    arrays = _decoded(data_dir, Columns(*columns), decode_tokens, recipe="tokens 1")
    drawn = _draw(counts, seeds, arrays)
    train_x, val_x, test_x = (part[:] for part in drawn.inputs)
    train_y, val_y, test_y = drawn.labels
    num_classes, vocab_size = int(arrays["num_classes"][0]), int(arrays["vocab_size"][0])
    return Dataset(train_x, train_y, val_x, val_y, test_x, test_y, num_classes=num_classes, kind="tokens", vocab_size=vocab_size)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """An episode's rows as (train, val, test)."""

    inputs: tuple[StoredRows, ...]
    labels: tuple[Tensor, ...]


def _draw(counts: SampleCounts, seeds: SeedTree, arrays: Mapping[str, np.ndarray]) -> _Drawn:
    rows = deal(len(arrays["train_y"]), len(arrays["test_y"]), counts, seeds.child("deal").numpy())
    parts = tuple(zip(("train", "train", "test"), rows, strict=True))
    return _Drawn(
        inputs=tuple(StoredRows([arrays[f"{file}_x"]], chosen) for file, chosen in parts),
        labels=tuple(torch.from_numpy(np.asarray(arrays[f"{file}_y"][chosen])) for file, chosen in parts),
    )


def _decoded(
    data_dir: str, columns: Columns, decode: Callable[[Path, Path, Columns], dict[str, np.ndarray]], *, recipe: str
) -> dict[str, np.ndarray]:
    """What `decode` makes of the two files, mapped; `recipe` stands for `decode`, and changes whenever that gives other arrays."""
    folder = Path(data_dir)
    train, test = folder / "train.parquet", folder / "test.parquet"
    for path in (train, test):
        if not path.is_file():
            names = [columns.inputs, columns.labels]
            raise ConfigError(f"{path} does not exist; put train.parquet and test.parquet with the columns {names} into task.data_dir")
    return shared_arrays(
        [train, test],
        lambda: decode(train, test, columns),
        folders=shared_folders(folder),
        recipe=f"{recipe} of {columns.inputs!r} and {columns.labels!r}",
    )
