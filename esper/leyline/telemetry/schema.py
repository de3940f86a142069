"""Arrow schemas and record batches, derived from the payload dataclasses: a new field needs no edit here."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, get_args, get_origin

import pyarrow as pa

from esper.leyline.telemetry.event import PAYLOAD_CLASSES, TelemetryEvent, TelemetryEventType, parse_event_type
from esper.leyline.telemetry.legacy import LEGACY_NAME_OF, TWIN_MESSAGE
from esper.leyline.telemetry.payload import field_types, to_plain, without_none
from esper.leyline.telemetry.precision import as_double

_ENVELOPE = {
    "event_id": pa.field("event_id", pa.string(), nullable=False),
    "event_type": pa.field("event_type", pa.string(), nullable=False),
    "timestamp": pa.field("timestamp", pa.timestamp("us", tz="UTC"), nullable=False),
    "seed_id": pa.field("seed_id", pa.string()),
    "slot_id": pa.field("slot_id", pa.string()),
    "epoch": pa.field("epoch", pa.int64()),
    "group_id": pa.field("group_id", pa.string(), nullable=False),
    "message": pa.field("message", pa.string(), nullable=False),
    "severity": pa.field("severity", pa.string(), nullable=False),
}
ENVELOPE_COLUMNS = tuple(_ENVELOPE)
"""Columns that every table begins with."""
ORIGIN_FIELDS = (
    pa.field("producer", pa.string()),
    pa.field("incarnation", pa.int64()),
    pa.field("seq", pa.int64()),
    pa.field("place", pa.int64()),
)
"""Columns that every stored table ends with: which batch a row came in, and its place there from 0 on."""
ORIGIN_COLUMNS = tuple(field.name for field in ORIGIN_FIELDS)
GIVEN_ID = "given_id"
"""Stored column for an event's id, NULL where the id only says where the event comes from, which `ORIGIN_COLUMNS` do."""
_SCALARS = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float32(),
    str: pa.string(),
    datetime: pa.timestamp("us", tz="UTC"),
}


def table_name(event_type: TelemetryEventType) -> str:
    """Table in which events of a type are stored."""
    return event_type.name.lower()


@cache
def event_schema(event_type: TelemetryEventType) -> pa.Schema:
    """Columns of a table: the envelope, then the payload's fields; a field that both have is one column."""
    kinds = field_types(PAYLOAD_CLASSES[event_type])
    own = [arrow_field(name, kind) for name, kind in kinds.items() if name not in _ENVELOPE]
    return pa.schema([*_ENVELOPE.values(), *own], metadata={"event_type": event_type.name})


def stored_schema(schema: pa.Schema) -> pa.Schema:
    """Columns of the table that holds batches of `schema`: timestamps as UTC without zone, ids only where they are given, the origin."""
    fields = [f.with_type(pa.timestamp(f.type.unit)) if pa.types.is_timestamp(f.type) else f for f in schema]
    given_id = pa.field(GIVEN_ID, pa.string())
    return pa.schema([*(given_id if f.name == "event_id" else f for f in fields), *ORIGIN_FIELDS])


def arrow_field(name: str, kind: Any) -> pa.Field:
    """Column for a dataclass field: nullable if None is allowed.

    Scalars keep their kind, floats in single precision; enums become their names, tuples lists, mappings maps with text keys,
    dataclasses structs.

    Raises:
        TypeError: If there is no column type for `kind`.
    """
    inner, is_optional = without_none(kind)
    return pa.field(name, _arrow_type(inner), nullable=is_optional)


def record_batch(events: Sequence[TelemetryEvent]) -> pa.RecordBatch:
    """Columns of one or more events of one type.

    Raises:
        ValueError: If there is no event, or if the types differ.
    """
    event_types = {event.event_type for event in events}
    if len(event_types) != 1:
        names = ", ".join(sorted(t.name for t in event_types)) or "none"
        raise ValueError(f"a record batch holds events of one type, got {names}")
    schema = event_schema(event_types.pop())
    columns = [pa.array(_column(events, column), type=column.type) for column in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def with_ids(batch: pa.RecordBatch, source: str, incarnation: int, seq: int) -> pa.RecordBatch:
    """The same events, those without an id named by where they come from.

    Args:
        batch: Made by `record_batch`.
        source: Its producer.
        incarnation: The producer's life.
        seq: Number of the batch within that.
    """
    index = batch.schema.get_field_index("event_id")
    ids = [given or f"{source}/{incarnation}/{seq}/{place}" for place, given in enumerate(batch.column(index).to_pylist())]
    return batch.set_column(index, batch.schema.field(index), pa.array(ids))


def legacy_twin(batch: pa.RecordBatch) -> pa.RecordBatch | None:
    """The same events under the name that their type had before; None if it had no other name.

    They keep their ids, and `TWIN_MESSAGE` tells them from events that really came under the old name.
    """
    event_type = batch.column("event_type")[0].as_py()
    old_name = LEGACY_NAME_OF.get(event_type)
    if old_name is None:
        return None
    for name, value in (("event_type", old_name), ("message", TWIN_MESSAGE)):
        index = batch.schema.get_field_index(name)
        batch = batch.set_column(index, batch.schema.field(index), pa.repeat(pa.scalar(value), batch.num_rows))
    return batch


def is_legacy_twin(batch: pa.RecordBatch) -> bool:
    """Whether a batch holds what `legacy_twin` made."""
    return batch.num_rows > 0 and bool(batch.column("message")[0].as_py() == TWIN_MESSAGE)


def events_of(batch: pa.RecordBatch) -> list[TelemetryEvent]:
    """Read back the events of a batch made by `record_batch`; columns that no field knows are an error.

    Raises:
        KeyError: If a required field has no column.
        ValueError: If a column is unknown.
    """
    return [_event(row) for row in as_double(batch).to_pylist()]


def _arrow_type(kind: Any) -> pa.DataType:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple:
        return pa.list_(arrow_field("item", arguments[0]))
    if origin is Mapping:
        return pa.map_(pa.string(), arrow_field("value", arguments[1]))
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return pa.struct([arrow_field(name, inner) for name, inner in field_types(kind).items()])
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return pa.string()
    if kind not in _SCALARS:
        raise TypeError(f"no column type for {kind}")
    return _SCALARS[kind]


def _column(events: Sequence[TelemetryEvent], column: pa.Field) -> list[Any]:
    name = column.name
    if name == "event_type":
        return [event.event_type.name for event in events]
    if name in _ENVELOPE:
        return [getattr(event, name) for event in events]
    values = [getattr(event.data, name) for event in events]
    if pa.types.is_nested(column.type):
        return [_nested(value) for value in values]
    return [value.name if isinstance(value, enum.Enum) else value for value in values]


def _nested(value: Any) -> Any:
    """Maps as lists of pairs, which is what Arrow reads."""
    if value is None or type(value) in _SCALARS:
        return value
    if dataclasses.is_dataclass(value):
        return {field.name: _nested(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return [(key, _nested(item)) for key, item in value.items()]
    if isinstance(value, (tuple, list)):
        return [_nested(item) for item in value]
    return to_plain(value)


def _event(row: Mapping[str, Any]) -> TelemetryEvent:
    event_type = parse_event_type(row["event_type"])
    kinds = field_types(PAYLOAD_CLASSES[event_type])
    own = {name: value for name, value in row.items() if name in kinds or name not in _ENVELOPE}
    payload = {name: _unpaired(kinds[name], value) if name in kinds else value for name, value in own.items()}
    envelope = {name: row[name] for name in ENVELOPE_COLUMNS if name != "event_type"}
    return TelemetryEvent(event_type, PAYLOAD_CLASSES[event_type].from_dict(payload), **envelope)


def _unpaired(kind: Any, value: Any) -> Any:
    """Maps as dicts again."""
    inner, _ = without_none(kind)
    if value is None:
        return None
    origin, arguments = get_origin(inner), get_args(inner)
    if origin is Mapping:
        return {key: _unpaired(arguments[1], item) for key, item in value}
    if origin is tuple:
        return [_unpaired(arguments[0], item) for item in value]
    if dataclasses.is_dataclass(inner):
        kinds = field_types(inner)
        return {name: _unpaired(kinds[name], item) for name, item in value.items()}
    return value
