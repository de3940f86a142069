"""Settings of every test: shapes are checked, one thread, no network; and the fixtures that all suites share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import torch
from jaxtyping import install_import_hook

from esper.leyline.rng import SeedTree

if TYPE_CHECKING:
    from esper.leyline.telemetry import TelemetryEvent, TelemetryEventType

SHAPE_CHECKED_MODULES = [
    "esper.simic.returns",
    "esper.simic.losses",
    "esper.simic.diagnostics",
    "esper.tamiyo.gnn",
    "esper.tamiyo.distribution",
    "esper.kasmina.blend",
]
"""Tensor maths. Not the whole package: beartype resolves every annotation at run time and knows neither `typing.Self`
in a method nor names that are imported for type checkers alone."""

os.environ["WANDB_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - at Ray's 15, workers starve beside other tests
torch.set_num_threads(1)
install_import_hook(SHAPE_CHECKED_MODULES, "beartype.beartype")


class ListEmitter:
    """An `Emitter` that keeps what it was given."""

    def __init__(self) -> None:
        self.events: list[TelemetryEvent] = []

    def emit(self, event: TelemetryEvent) -> None:
        self.events.append(event)

    def of_type(self, event_type: TelemetryEventType) -> list[TelemetryEvent]:
        return [event for event in self.events if event.event_type is event_type]


@pytest.fixture
def seed_tree() -> SeedTree:
    """Root of all randomness in a test."""
    return SeedTree(20261121)


@pytest.fixture
def list_emitter() -> ListEmitter:
    """An emitter whose events can be read back."""
    return ListEmitter()
