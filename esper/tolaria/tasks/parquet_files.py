"""What the cells of a pair of Parquet files hold, as arrays: checked and decoded whole, a thousand rows at a time."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from esper.leyline.load import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_ROWS = 1024
"""Decoded at a time."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns that are read."""

    inputs: str
    labels: str


def decode_images(train: Path, test: Path, columns: Columns) -> dict[str, np.ndarray]:
    """Images [N, C, H, W] and classes [N] of two files.

    Returns:
        `train_x`, `test_x`: uint8 if all values of both files are whole numbers in 0…255, otherwise float32; `train_y`,
        `test_y`: int64; `num_classes`: [1].

    Raises:
        ConfigError: If a column is missing or holds something else, or images differ in shape.
    """
    labels = _read_labels(train, test, columns)
    parts = {"train_x": _read_images(train, columns.inputs), "test_x": _read_images(test, columns.inputs)}
    _check_shapes({images.shape[1:] for images in parts.values()}, columns.inputs)
    if all(_holds_bytes(images) for images in parts.values()):
        parts = {name: images.astype(np.uint8, copy=False) for name, images in parts.items()}
    return {**parts, **labels}


def decode_tokens(train: Path, test: Path, columns: Columns) -> dict[str, np.ndarray]:
    """Tokens [N, T] and classes [N] of two files, all int64.

    Returns:
        `train_x`, `train_y`, `test_x`, `test_y`; `num_classes` and `vocab_size`: [1] one more than the largest in either file.

    Raises:
        ConfigError: If a column is missing or holds something else, or lists differ in length.
    """
    labels = _read_labels(train, test, columns)
    lengths: set[int] = set()
    flat: dict[str, list[np.ndarray]] = {"train_x": [], "test_x": []}
    for path, chunks in zip((train, test), flat.values(), strict=True):
        for cells in _cells(path, columns.inputs, _is_token_list, "lists of whole numbers from 0"):
            lengths.update(pc.list_value_length(cells).unique().to_pylist())
            chunks.append(_tokens(cells, columns.inputs))
    if len(lengths) != 1 or 0 in lengths:
        raise ConfigError(f"column {columns.inputs!r} has lists of lengths {sorted(lengths)[:5]}; bring them to one length above 0")
    parts = {name: np.concatenate(chunks).reshape(-1, min(lengths)) for name, chunks in flat.items()}
    largest = _largest(list(parts.values()), f"column {columns.inputs!r} has the negative token", "tokens")
    return {**parts, "vocab_size": np.array([largest + 1]), **labels}


def _read_labels(train: Path, test: Path, columns: Columns) -> dict[str, np.ndarray]:
    name, parts = columns.labels, {}
    for part, path in (("train_y", train), ("test_y", test)):
        chunks = list(_cells(path, name, pa.types.is_integer, "whole numbers from 0"))
        parts[part] = np.concatenate([chunk.to_numpy(zero_copy_only=False).astype(np.int64) for chunk in chunks])
    largest = _largest(list(parts.values()), f"column {name!r} has the negative label", "classes")
    return {**parts, "num_classes": np.array([largest + 1])}


def _largest(parts: list[np.ndarray], complaint: str, what: str) -> int:
    """The largest of numbers that count from 0."""
    lowest = min(int(part.min()) for part in parts)
    if lowest < 0:
        raise ConfigError(f"{complaint} {lowest}; {what} count from 0")
    return max(int(part.max()) for part in parts)


def _cells(path: Path, name: str, accepts: Callable[[pa.DataType], bool], right: str) -> Iterator[pa.Array]:
    """A column, some rows at a time, none of them empty."""
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        if name not in schema.names:
            raise ConfigError(f"{path} has no column {name!r}; it has {', '.join(schema.names)} (see the settings task.*_column)")
        kind = schema.field(name).type
        if not accepts(kind):
            raise ConfigError(f"{path}: column {name!r} is {kind}; it should hold {right}")
        if file.metadata.num_rows == 0:
            raise ConfigError(f"{path} has no rows")
        first = 0
        for batch in file.iter_batches(_ROWS, columns=[name]):
            cells = batch.column(name)
            if cells.null_count:
                where = f"{cells.null_count} empty cells in rows {first}…{first + len(cells) - 1}"
                raise ConfigError(f"{path}: column {name!r} has {where}; fill or drop those rows")
            first += len(cells)
            yield cells


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    is_nested = _is_list(kind) and _is_list(kind.value_type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or is_nested)


def _is_token_list(kind: pa.DataType) -> bool:
    return bool(_is_list(kind) and pa.types.is_integer(kind.value_type))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _tokens(cells: pa.Array, column: str) -> np.ndarray:
    """All tokens of some lists, one after the other."""
    tokens = cells.flatten()
    if tokens.null_count:
        raise ConfigError(f"column {column!r} has {tokens.null_count} empty tokens; fill them")
    flat: np.ndarray = tokens.to_numpy(zero_copy_only=False).astype(np.int64)
    return flat


def _read_images(path: Path, column: str) -> np.ndarray:
    """[N, C, H, W] uint8 from pictures, float32 from lists."""
    whole: np.ndarray | None = None
    first = 0
    for cells in _cells(path, column, _is_image, "PNG or JPEG bytes, or lists [H][W] or [H][W][C] of numbers"):
        images = [_image(cell, column).transpose(2, 0, 1) for cell in cells.to_pylist()]
        _check_shapes({image.shape for image in images} | ({whole.shape[1:]} if whole is not None else set()), column)
        if whole is None:
            whole = np.empty((pq.read_metadata(path).num_rows, *images[0].shape), images[0].dtype)
        np.stack(images, out=whole[first : first + len(images)])
        first += len(images)
    assert whole is not None
    return whole


def _check_shapes(shapes: set[tuple[int, ...]], column: str) -> None:
    if len(shapes) > 1:
        some = sorted(shapes)
        raise ConfigError(f"column {column!r} has images of {len(some)} shapes, e.g. {some[0]} and {some[1]} [C, H, W]; make them equal")


def _holds_bytes(images: np.ndarray) -> bool:
    """Whether all values are whole numbers in 0…255."""
    if images.dtype == np.uint8:
        return True
    return all(bool(((image >= 0) & (image <= 255) & (image == np.rint(image))).all()) for image in images)


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
