"""State of a training system on the wire, as a policy service receives it. None is unknown."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import uuid4

from esper.leyline.stages import SeedStage

PACKET_VERSION = 1


@dataclass(frozen=True, slots=True)
class HardwareContext:
    """The device that trains."""

    device_type: str
    device_id: str
    total_memory_gb: float | None = None
    available_memory_gb: float | None = None
    temperature_celsius: float | None = None
    utilization_percent: float | None = None
    compute_capability: str | None = None


@dataclass(frozen=True, slots=True)
class SeedState:
    """One seed as the service sees it."""

    seed_id: str
    stage: SeedStage
    gradient_norm: float | None = None
    learning_rate: float | None = None
    layer_depth: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    age_epochs: int | None = None
    risk_score: float | None = None
    """0…1."""


@dataclass(frozen=True, slots=True)
class SystemStatePacket:
    """One moment of one training run. Accuracy in percent."""

    current_epoch: int
    validation_accuracy: float
    validation_loss: float
    version: int = PACKET_VERSION
    timestamp_ns: int = field(default_factory=time.time_ns)
    """Since the Unix epoch."""
    packet_id: str = field(default_factory=lambda: str(uuid4()))
    hardware_context: HardwareContext | None = None
    training_metrics: Mapping[str, float] = field(default_factory=dict)
    """Such as `loss`, `gradient_norm`, `samples_per_s`, `hook_latency_ms`."""
    seed_states: tuple[SeedState, ...] = ()
    global_step: int | None = None
    training_loss: float | None = None
    source_subsystem: str = "tolaria"
    training_run_id: str | None = None
    experiment_name: str | None = None
