"""Measured numbers are told in single precision, as they are measured, and read as the shortest decimal number that stands for them."""

from __future__ import annotations

from typing import TypeVar

import pyarrow as pa

Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)


def as_double(rows: Rows) -> Rows:
    """The rows with double precision wherever it has single, also within lists, maps and structs: 0.1 told is 0.1 read."""
    if not any(_has_single(kind) for kind in rows.schema.types):
        return rows
    return rows.cast(_replaced(rows.schema, pa.string())).cast(_replaced(rows.schema, pa.float64()))


def _replaced(schema: pa.Schema, single: pa.DataType) -> pa.Schema:
    return pa.schema([field.with_type(_with(field.type, single)) for field in schema], metadata=schema.metadata)


def _with(kind: pa.DataType, single: pa.DataType) -> pa.DataType:
    """`kind` with `single` in place of single precision."""
    if pa.types.is_map(kind):
        return pa.map_(kind.key_type, _field(kind.item_field, single))
    if pa.types.is_list(kind):
        return pa.list_(_field(kind.value_field, single))
    if pa.types.is_struct(kind):
        return pa.struct([_field(field, single) for field in kind])
    return single if pa.types.is_float32(kind) else kind


def _field(field: pa.Field, single: pa.DataType) -> pa.Field:
    return field.with_type(_with(field.type, single))


def _has_single(kind: pa.DataType) -> bool:
    return bool(_with(kind, pa.string()) != kind)
