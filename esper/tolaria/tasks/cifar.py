"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from the official binary files, which are never downloaded by themselves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from esper.leyline.load import ConfigError
from esper.tolaria.data import Dataset
from esper.tolaria.shared_data import mapped
from esper.tolaria.tasks.parts import deal
from esper.tolaria.tasks.stored import StoredRows, standardised_rows

if TYPE_CHECKING:
    import numpy as np

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

    Images stay in the files, which all processes map; classes are copied.

    Raises:
        ConfigError: If files are missing, damaged, or hold fewer images than asked for.
    """
    layout = _layout(variant)
    folder = _find_folder(Path(data_dir), layout)
    train, test = ([_records(folder / name, layout) for name in names] for names in (layout.train_files, (layout.test_file,)))
    rows = deal(sum(map(len, train)), len(test[0]), counts, seeds.child("deal").numpy())
    images, classes = [], []
    for files, chosen in zip((train, train, test), rows, strict=True):
        images.append(StoredRows([file[:, layout.label_bytes :].reshape(-1, 3, _SIDE, _SIDE) for file in files], chosen))
        classes.append(StoredRows([file[:, layout.label_bytes - 1] for file in files], chosen)[:].to(torch.int64))
    train_x, val_x, test_x = standardised_rows(images)
    train_y, val_y, test_y = classes
    return Dataset(train_x, train_y, val_x, val_y, test_x, test_y, num_classes=layout.num_classes, kind="image", augmentation="crop_flip")


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
    return mapped(path).reshape(-1, size)
