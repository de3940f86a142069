"""A user's own images or token sequences from `train.parquet` and `test.parquet`."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, UnidentifiedImageError

from esper.leyline.load import ConfigError
from esper.tolaria.data import Dataset
from esper.tolaria.tasks.parts import deal, standardised

if TYPE_CHECKING:
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
        ConfigError: If a file, a column or enough rows are missing, or values are not as described.
    """
    drawn = _draw(counts, seeds, data_dir, _Expected(*columns, _is_image, "PNG or JPEG bytes, or lists [H][W] or [H][W][C] of numbers"))
    images = [[_image(cell, columns[0]) for cell in part.to_pylist()] for part in drawn.inputs]
    shapes = sorted({image.shape for part in images for image in part})
    if len(shapes) > 1:
        raise ConfigError(f"column {columns[0]!r} has images of {len(shapes)} shapes, e.g. {shapes[0]} and {shapes[1]}; make them equal")
    train_x, val_x, test_x = standardised([np.stack(part).transpose(0, 3, 1, 2) for part in images])
    train_y, val_y, test_y = drawn.labels
    return Dataset(train_x, train_y, val_x, val_y, test_x, test_y, num_classes=drawn.num_classes, kind="image", augmentation="crop_flip")


def make_parquet_tokens(counts: SampleCounts, seeds: SeedTree, *, data_dir: str, columns: tuple[str, str]) -> Dataset:
    """Token sequences of one length with a class each; the vocabulary reaches to the largest token in either file.

    Args:
        counts: As for images.
        seeds: Which rows are drawn.
        data_dir: Folder of the two files.
        columns: Names of the token column (lists of whole numbers from 0) and of the label column (whole numbers from 0).

    Raises:
        ConfigError: If a file, a column or enough rows are missing, or values are not as described.
    """
    drawn = _draw(counts, seeds, data_dir, _Expected(*columns, _is_token_list, "lists of whole numbers from 0"))
    lengths = sorted({len(row) for part in drawn.inputs for row in part})
    if len(lengths) != 1 or lengths[0] == 0:
        raise ConfigError(f"column {columns[0]!r} has lists of lengths {lengths[:5]}; bring them to one length above 0")
    every = np.concatenate([_flat(column) for column in drawn.whole])
    if every.min() < 0:
        raise ConfigError(f"column {columns[0]!r} has the negative token {every.min()}; tokens count from 0")
    train_x, val_x, test_x = (torch.from_numpy(_flat(part)).view(-1, lengths[0]) for part in drawn.inputs)
    train_y, val_y, test_y = drawn.labels
    vocab_size = int(every.max()) + 1
    return Dataset(train_x, train_y, val_x, val_y, test_x, test_y, num_classes=drawn.num_classes, kind="tokens", vocab_size=vocab_size)


@dataclass(frozen=True, slots=True)
class _Expected:
    """What the columns should hold."""

    input_column: str
    label_column: str
    accepts: Callable[[pa.DataType], bool]
    right: str


@dataclass(frozen=True, slots=True)
class _Drawn:
    """An episode's rows as (train, val, test), and what the files say beyond them."""

    inputs: tuple[pa.ChunkedArray, ...]
    labels: tuple[torch.Tensor, ...]
    whole: tuple[pa.ChunkedArray, ...]
    """The input column of either file, complete."""
    num_classes: int


def _draw(counts: SampleCounts, seeds: SeedTree, data_dir: str, expected: _Expected) -> _Drawn:
    train, test = (_read(Path(data_dir) / f"{part}.parquet", expected) for part in ("train", "test"))
    rows = deal(train.num_rows, test.num_rows, counts, seeds.child("deal").numpy())
    tables = [table.take(pa.array(index)) for table, index in zip((train, train, test), rows, strict=True)]
    label = expected.label_column
    every = np.concatenate([table.column(label).to_numpy() for table in (train, test)])
    if every.min() < 0:
        raise ConfigError(f"column {label!r} has the negative label {every.min()}; classes count from 0")
    return _Drawn(
        inputs=tuple(table.column(expected.input_column) for table in tables),
        labels=tuple(torch.from_numpy(table.column(label).to_numpy().astype(np.int64)) for table in tables),
        whole=tuple(table.column(expected.input_column) for table in (train, test)),
        num_classes=int(every.max()) + 1,
    )


def _read(path: Path, expected: _Expected) -> pa.Table:
    columns = [expected.input_column, expected.label_column]
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; put train.parquet and test.parquet with the columns {columns} into task.data_dir")
    schema = pq.read_schema(path)
    for name in columns:
        if name not in schema.names:
            raise ConfigError(f"{path} has no column {name!r}; it has {', '.join(schema.names)} (see the settings task.*_column)")
    found = schema.field(expected.input_column).type
    if not expected.accepts(found):
        raise ConfigError(f"{path}: column {expected.input_column!r} is {found}; it should hold {expected.right}")
    if not pa.types.is_integer(schema.field(expected.label_column).type):
        found = schema.field(expected.label_column).type
        raise ConfigError(f"{path}: column {expected.label_column!r} is {found}; it should hold whole numbers from 0")
    table = pq.read_table(path, columns=columns)
    for name in columns:
        if table.column(name).null_count:
            raise ConfigError(f"{path}: column {name!r} has {table.column(name).null_count} empty cells; fill or drop those rows")
    return table


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    is_nested = _is_list(kind) and _is_list(kind.value_type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or is_nested)


def _is_token_list(kind: pa.DataType) -> bool:
    return bool(_is_list(kind) and pa.types.is_integer(kind.value_type))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    """All tokens of a column of lists, one after the other."""
    return np.concatenate([chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]).astype(np.int64)


def _image(cell: Any, column: str) -> np.ndarray:
    """One cell as [H, W, C]."""
    if isinstance(cell, dict):
        cell = cell["bytes"]
    if isinstance(cell, bytes):
        try:
            with Image.open(io.BytesIO(cell)) as image:
                pixels = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
        except UnidentifiedImageError as error:
            raise ConfigError(f"column {column!r} has bytes that are no PNG or JPEG: they begin with {cell[:8]!r}") from error
    else:
        pixels = _from_lists(cell, column)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _from_lists(cell: list[Any], column: str) -> np.ndarray:
    try:
        pixels = np.asarray(cell, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"column {column!r} has lists that are ragged or no numbers; they should be [H][W] or [H][W][C]") from error
    if pixels.ndim not in (2, 3):
        raise ConfigError(f"column {column!r} has lists of {pixels.ndim} levels; they should be [H][W] or [H][W][C]")
    return pixels
