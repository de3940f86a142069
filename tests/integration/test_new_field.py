"""A field that somebody adds to a payload appears at every other end by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from esper.karn.store import Store
from esper.karn.views.catalogue import view_statements
from esper.leyline.telemetry import PAYLOAD_CLASSES, TelemetryEvent, TelemetryEventType, TolariaBatchPayload, event_schema, record_batch
from esper.nissa.config import TelemetryConfig
from esper.nissa.emitter import BufferedEmitter
from esper.nissa.sinks.duckdb import DuckDBSink
from esper.nissa.sinks.wandb_keys import points
from esper.nissa.transport import InProcessTransport
from tests.fakes.telemetry import event, record_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BATCH = TelemetryEventType.TOLARIA_BATCH_COMPLETED


@dataclass(frozen=True, slots=True)
class GrownPayload(TolariaBatchPayload):
    """A round, with one figure more."""

    mood: float | None = None
    moods: tuple[str, ...] = ()


GrownPayload.__module__ = TolariaBatchPayload.__module__  # where somebody would have added the field


@pytest.fixture
def grown(monkeypatch: pytest.MonkeyPatch) -> Iterator[TelemetryEvent]:
    """The event of a round whose payload has just got new fields."""
    classes = {**PAYLOAD_CLASSES, BATCH: GrownPayload}
    for module in ("event", "schema"):
        monkeypatch.setattr(f"esper.leyline.telemetry.{module}.PAYLOAD_CLASSES", classes)
    event_schema.cache_clear()
    yield TelemetryEvent(BATCH, GrownPayload(8, 1, 60.0, 0.0, 40, 4, env_steps=96, mood=0.0, moods=("calm",)))
    monkeypatch.undo()
    event_schema.cache_clear()


def emit(sink: DuckDBSink, incarnation: int, told: TelemetryEvent) -> None:
    emitter = BufferedEmitter("driver", incarnation, transport=InProcessTransport(sink), config=TelemetryConfig())
    emitter.emit(told)
    emitter.close()
    sink.close()


def test_it_is_an_arrow_column(grown: TelemetryEvent) -> None:
    batch = record_batch([grown])
    assert batch.column("mood").to_pylist() == [0.0]
    assert batch.schema.field("mood").nullable
    assert batch.column("moods").to_pylist() == [["calm"]]


def test_it_is_a_column_of_table_and_view(grown: TelemetryEvent, tmp_path: Path) -> None:
    emit(DuckDBSink(tmp_path / "telemetry.duckdb", views=view_statements()), 0, grown)
    with Store.open(tmp_path) as store:
        assert store.rows("SELECT mood, moods FROM tolaria_batches") == [{"mood": 0.0, "moods": ["calm"]}]
        assert store.rows("SELECT mood FROM batch_epochs") == [{"mood": 0.0}]


def test_a_file_from_before_gets_it_too(grown: TelemetryEvent, tmp_path: Path) -> None:
    plain = TolariaBatchPayload(4, 0, 50.0, 0.0, 40, 4)
    with pytest.MonkeyPatch.context() as past:
        for module in ("event", "schema"):
            past.setattr(f"esper.leyline.telemetry.{module}.PAYLOAD_CLASSES", PAYLOAD_CLASSES)
        event_schema.cache_clear()
        record_run(tmp_path, [[event(BATCH.name, plain)]])
    event_schema.cache_clear()
    emit(DuckDBSink(tmp_path / "telemetry.duckdb", views=view_statements()), 1, grown)
    with Store.open(tmp_path) as store:
        assert store.rows("SELECT batch_idx, mood FROM tolaria_batches ORDER BY batch_idx") == [
            {"batch_idx": 0, "mood": None},
            {"batch_idx": 1, "mood": 0.0},
        ]


def test_it_is_a_metric_of_weights_and_biases(grown: TelemetryEvent) -> None:
    ((env_steps, values),) = points(BATCH, record_batch([grown]))
    assert env_steps == 96
    assert values["tolaria/mood"] == 0.0
