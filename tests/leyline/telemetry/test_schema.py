"""Events as Arrow columns: every field has one, and the events come back as they were."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from esper.leyline.telemetry import (
    ENVELOPE_COLUMNS,
    PAYLOAD_CLASSES,
    SeedPrunedPayload,
    TelemetryEvent,
    TelemetryEventType,
    TolariaEpochPayload,
    event_schema,
    events_of,
    record_batch,
    table_name,
)
from esper.leyline.telemetry.payload import field_types
from esper.leyline.telemetry.schema import arrow_field

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("event_type", TelemetryEventType)
def test_every_event_comes_back_from_its_columns(event_type: TelemetryEventType, make_payload: Callable[..., Any]) -> None:
    events = [TelemetryEvent(event_type, data=make_payload(PAYLOAD_CLASSES[event_type], full=full)) for full in (True, False, True)]
    batch = record_batch(events)
    batch.validate(full=True)
    assert batch.num_rows == 3
    assert batch.schema.equals(event_schema(event_type), check_metadata=True)
    assert events_of(batch) == events


@pytest.mark.parametrize("event_type", TelemetryEventType)
def test_columns_are_the_envelope_and_each_field_once(event_type: TelemetryEventType) -> None:
    names = event_schema(event_type).names
    assert tuple(names[: len(ENVELOPE_COLUMNS)]) == ENVELOPE_COLUMNS
    assert len(set(names)) == len(names)
    assert set(names) == set(ENVELOPE_COLUMNS) | field_types(PAYLOAD_CLASSES[event_type]).keys()


def test_a_batch_survives_the_wire(make_payload: Callable[..., Any]) -> None:
    event = TelemetryEvent(TelemetryEventType.TOLARIA_EPOCH_COMPLETED, data=make_payload(TolariaEpochPayload, full=True))
    batch = record_batch([event])
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, batch.schema) as writer:
        writer.write_batch(batch)
    with pa.ipc.open_stream(buffer.getvalue()) as reader:
        assert events_of(reader.read_next_batch()) == [event]


def test_nan_and_infinity_are_not_null() -> None:
    payload = TolariaEpochPayload(env_id=0, val_accuracy=0.0, val_loss=math.nan, inner_epoch=1, train_loss=math.inf)
    batch = record_batch([TelemetryEvent(TelemetryEventType.TOLARIA_EPOCH_COMPLETED, data=payload)])
    assert math.isnan(batch.column("val_loss")[0].as_py())
    assert batch.column("train_loss")[0].as_py() == math.inf
    assert batch.column("train_accuracy")[0].as_py() is None


def test_times_are_utc_microseconds() -> None:
    moment = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)
    event = TelemetryEvent(TelemetryEventType.SEED_PRUNED, data=SeedPrunedPayload("r0c0", 1, "x"), timestamp=moment)
    batch = record_batch([event])
    assert batch.schema.field("timestamp").type == pa.timestamp("us", tz="UTC")
    assert batch.column("timestamp")[0].as_py() == moment


def test_a_batch_is_of_one_type() -> None:
    pruned = TelemetryEvent(TelemetryEventType.SEED_PRUNED, data=SeedPrunedPayload("r0c0", 1, "x"))
    epoch = TelemetryEvent(TelemetryEventType.TOLARIA_EPOCH_COMPLETED, data=TolariaEpochPayload(0, 1.0, 1.0, 1))
    with pytest.raises(ValueError, match="SEED_PRUNED, TOLARIA_EPOCH_COMPLETED"):
        record_batch([pruned, epoch])
    with pytest.raises(ValueError, match="none"):
        record_batch([])


def test_tables_are_named_after_their_events() -> None:
    assert table_name(TelemetryEventType.SEED_PRUNED) == "seed_pruned"
    assert len({table_name(t) for t in TelemetryEventType}) == len(TelemetryEventType)


class Colour(Enum):
    RED = 1


@dataclass(frozen=True)
class Point:
    x: float
    label: str | None = None


@pytest.mark.parametrize(
    ("kind", "column", "nullable"),
    [
        (bool, pa.bool_(), False),
        (int | None, pa.int64(), True),
        (float, pa.float32(), False),
        (Colour, pa.string(), False),
        (tuple[float, ...], pa.list_(pa.field("item", pa.float32(), nullable=False)), False),
        (Mapping[str, float] | None, pa.map_(pa.string(), pa.field("value", pa.float32(), nullable=False)), True),
        (Point, pa.struct([pa.field("x", pa.float32(), nullable=False), pa.field("label", pa.string())]), False),
    ],
)
def test_kinds_of_field_become_kinds_of_column(kind: Any, column: pa.DataType, nullable: bool) -> None:
    field = arrow_field("f", kind)
    assert field.type == column
    assert field.nullable is nullable


@pytest.mark.parametrize("kind", [dict[str, float], int | str, object])
def test_a_kind_without_a_column_is_refused(kind: Any) -> None:
    with pytest.raises(TypeError):
        arrow_field("f", kind)
