"""The load that many environments make."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from esper.nissa.sinks.tables import event_tables
from tests.fakes.telemetry import one_round

if TYPE_CHECKING:
    from esper.nissa.emitter import BufferedEmitter

COUNT_EVENTS = "SELECT " + " + ".join(f"(SELECT count(*) FROM {table})" for table in event_tables()) + " AS n"
"""Rows of every table of events in a telemetry file."""


def emit_load(emitter: BufferedEmitter, num_sec: float, *, steps_per_sec: float) -> int:
    """Emit rounds of 8 environments with 2 steps each, so many a second; returns the number of events."""
    rng, started, num_events, num_rounds = np.random.default_rng(0), time.monotonic(), 0, 0
    while time.monotonic() - started < num_sec:
        for one in one_round(num_rounds, rng=rng):
            emitter.emit(one)
            num_events += 1
        num_rounds += 1
        time.sleep(max(0.0, started + 16 * num_rounds / steps_per_sec - time.monotonic()))
    return num_events
