"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from the official binary files, which are never downloaded by themselves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from esper.leyline.load import ConfigError
from esper.tolaria.data import Dataset
from esper.tolaria.tasks.parts import deal, standardised

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.leyline.rng import SeedTree
    from esper.tolaria.tasks.base import SampleCounts

_SIDE = 32
_PIXEL_BYTES = 3 * _SIDE * _SIDE


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the official archive keeps what. A record is `label_bytes` labels, the last of them the class, then the pixels."""

    archive: str
    folder: str
    train_files: tuple[str, ...]
    test_file: str
    label_bytes: int
    num_classes: int


def make_cifar(counts: SampleCounts, seeds: SeedTree, *, data_dir: str, variant: Literal["cifar10", "cifar100"]) -> Dataset:
    """Draw an episode's images: training and validation from the official training files, test from the test file.

    Raises:
        ConfigError: If files are missing, damaged, or hold fewer images than asked for.
    """
    layout = _layout(variant)
    folder = _find_folder(Path(data_dir), layout)
    train_files = [_records(folder / name, layout) for name in layout.train_files]
    test_files = [_records(folder / layout.test_file, layout)]
    train_rows, val_rows, test_rows = deal(sum(map(len, train_files)), len(test_files[0]), counts, seeds.child("deal").numpy())
    parts = []
    for files, rows in ((train_files, train_rows), (train_files, val_rows), (test_files, test_rows)):
        records = _gather(files, rows)
        pixels = records[:, layout.label_bytes :].reshape(-1, 3, _SIDE, _SIDE)
        parts.append((pixels, records[:, layout.label_bytes - 1].astype(np.int64)))
    (train_x, val_x, test_x), labels = standardised([pixels for pixels, _ in parts]), [torch.from_numpy(y) for _, y in parts]
    return Dataset(
        train_x, labels[0], val_x, labels[1], test_x, labels[2], num_classes=layout.num_classes, kind="image", augmentation="crop_flip"
    )


def _layout(variant: Literal["cifar10", "cifar100"]) -> _Layout:
    if variant == "cifar10":
        names = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
        return _Layout("cifar-10-binary.tar.gz", "cifar-10-batches-bin", names, "test_batch.bin", 1, 10)
    return _Layout("cifar-100-binary.tar.gz", "cifar-100-binary", ("train.bin",), "test.bin", 2, 100)


def _find_folder(data_dir: Path, layout: _Layout) -> Path:
    folder = data_dir / layout.folder
    missing = [name for name in (*layout.train_files, layout.test_file) if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"{folder} lacks {', '.join(missing)}. Download {layout.archive} from https://www.cs.toronto.edu/~kriz/cifar.html "
            f"and unpack it: tar -xzf {layout.archive} -C {data_dir} (task.data_dir={str(data_dir)!r})"
        )
    return folder


def _records(path: Path, layout: _Layout) -> np.ndarray:
    """[N, labels + pixels] uint8, mapped rather than read."""
    size = layout.label_bytes + _PIXEL_BYTES
    num_bytes = path.stat().st_size
    if num_bytes == 0 or num_bytes % size:
        raise ConfigError(f"{path} has {num_bytes} bytes, which is no multiple of {size}; unpack {layout.archive} again")
    return np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, size)


def _gather(files: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Rows of several files as if they were one, in the order asked for."""
    ends = np.cumsum([len(file) for file in files])
    source = np.searchsorted(ends, rows, side="right")
    gathered = np.empty((len(rows), files[0].shape[1]), dtype=np.uint8)
    for index, file in enumerate(files):
        chosen = source == index
        gathered[chosen] = file[rows[chosen] - (ends[index] - len(file))]
    return gathered
