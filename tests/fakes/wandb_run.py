"""A Weights & Biases run that keeps what it is told, and a training run's events as they reach the sink."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import wandb

from esper.leyline.telemetry.event import TelemetryEvent, TelemetryEventType
from esper.leyline.telemetry.schema import record_batch
from esper.leyline.telemetry.simic import RewardComputedPayload
from esper.nissa.wire import BatchId, stamp
from tests.fakes.telemetry import START, event, heartbeat, started, whole_run

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa
    import pytest

OF_NO_ROUND = (TelemetryEventType.TRAINING_STARTED, TelemetryEventType.RUN_FINISHED, TelemetryEventType.HEARTBEAT)


class FakeRun:
    """Stands in for what `wandb.init` returns."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.logged: list[dict[str, Any]] = []
        self.url = "https://wandb.invalid/run"
        self.is_finished = False

    def define_metric(self, *_: Any, **__: Any) -> None:
        """Nothing to keep."""

    def log(self, values: dict[str, Any]) -> None:
        """Keep a point."""
        self.logged.append(values)

    def log_artifact(self, artifact: Any) -> None:
        """Nothing to keep."""

    def finish(self) -> None:
        """Be over."""
        self.is_finished = True

    @property
    def points(self) -> list[dict[str, float]]:
        """What was logged while the run went on."""
        return [values for values in self.logged if not any(key.startswith("charts/") for key in values)]

    def chart(self, title: str) -> dict[str, Any]:
        """Arguments of a chart that was drawn at the end."""
        (found,) = (values[f"charts/{title}"] for values in self.logged if f"charts/{title}" in values)
        drawn: dict[str, Any] = found
        return drawn


def fake_wandb(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    """Let `wandb.init` make fakes, and charts be what they are made of; returns the list that they will be in."""
    runs: list[FakeRun] = []

    def init(**settings: Any) -> FakeRun:
        runs.append(FakeRun(settings))
        return runs[-1]

    monkeypatch.delenv("WANDB_DATA_DIR", raising=False)
    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb.plot, "line_series", lambda **arguments: arguments)
    return runs


def rounds_of_run(rounds: int, *, n_envs: int = 2) -> list[list[TelemetryEvent]]:
    """Events of each round in the order of time, with the groups that a real run gives them; the first begins with the start."""
    told: list[list[TelemetryEvent]] = [[event("TRAINING_STARTED", started(n_envs), -1.0)]]
    for one in whole_run(rounds, n_envs=n_envs):
        if one.group_id != "default" or one.event_type in OF_NO_ROUND or "DETECTED" in one.event_type.name:
            continue
        group_id, data = f"train/learned/{len(told) - 1}", one.data
        if isinstance(data, RewardComputedPayload):
            data = replace(data, inner_epoch=int((one.timestamp - START).total_seconds()) % 10)
        told[-1].append(replace(one, group_id=group_id, data=data))
        if one.event_type is TelemetryEventType.TOLARIA_BATCH_COMPLETED:
            told.append([heartbeat(10.0 * len(told) - 1.0)])
    told.pop()
    return [sorted(events, key=lambda one: one.timestamp) for events in told]


def batches_of(events: Iterable[TelemetryEvent], rows: int = 1) -> list[pa.RecordBatch]:
    """Stamped batches of a producer that ships, by type, whenever it holds so many events."""
    batches: list[pa.RecordBatch] = []
    remaining = list(events)
    while remaining:
        held, remaining = remaining[:rows], remaining[rows:]
        for event_type in dict.fromkeys(one.event_type for one in held):
            seq = len(batches) + 1
            batch = record_batch([one for one in held if one.event_type is event_type])
            batches.append(stamp(batch, BatchId("driver", 0, seq, seq - 1, event_type.name)))
    return batches
