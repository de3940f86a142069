"""Names under which events appear in Weights & Biases, derived from the event's domain and its fields."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from esper.leyline.telemetry.event import TelemetryEventType, event_domain

if TYPE_CHECKING:
    from collections.abc import Mapping

STEP_KEY = "env_steps"
"""The x axis of every chart."""
_GROUP_OF_DOMAIN = {"tamiyo": "tamiyo", "tolaria": "tolaria", "simic": "simic", "kasmina": "kasmina", "infra": "infra", "run": "infra"}
_LOGGED_ROW_BY_ROW = frozenset(
    {
        TelemetryEventType.TAMIYO_POLICY_UPDATE,
        TelemetryEventType.TOLARIA_BATCH_COMPLETED,
        TelemetryEventType.INFRASTRUCTURE_SNAPSHOT,
        TelemetryEventType.RUN_FINISHED,
    }
)
_LOGGED_AS_MEANS = frozenset(
    {
        TelemetryEventType.TOLARIA_EPOCH_COMPLETED,
        TelemetryEventType.EPISODE_OUTCOME,
        TelemetryEventType.REWARD_COMPUTED,
    }
)
"""Many rows at once, one for each env: their means are logged, so that keys do not grow with envs."""
_NOT_METRICS = frozenset({"epoch", "env_id", "episode_idx", "inner_epoch", STEP_KEY})

CHARTS: Mapping[str, tuple[str, ...]] = {
    "Gradient health": ("tamiyo/pre_clip_grad_norm", "tamiyo/grad_norm"),
    "Trust region": ("tamiyo/kl_divergence", "tamiyo/approx_kl_max", "tamiyo/clip_fraction"),
    "Value quality": ("tamiyo/explained_variance", "tamiyo/value_target_correlation"),
    "Entropy by head": tuple(
        f"tamiyo/head_{head}_entropy"
        for head in ("op", "slot", "blueprint", "style", "tempo", "alpha_target", "alpha_speed", "alpha_curve")
    ),
    "Infrastructure": (
        "infra/gpu_utilization_pct",
        "infra/cuda_memory_active_gb",
        "infra/compile_graph_breaks",
        "tolaria/env_steps_per_sec",
    ),
}
"""Charts drawn at a run's end: title → series."""


def group(event_type: TelemetryEventType) -> str:
    """First part of the keys of an event type."""
    return _GROUP_OF_DOMAIN[event_domain(event_type)]


def points(event_type: TelemetryEventType, batch: pa.RecordBatch) -> list[tuple[int | None, dict[str, float]]]:
    """What to log for a batch: (env steps if the rows say so, key → value), oldest first.

    Types that are logged neither by row nor as means are counted, as `<group>/num_<event>`.
    """
    prefix = group(event_type)
    columns = {field.name: batch.column(i) for i, field in enumerate(batch.schema) if _is_metric(field)}
    steps = batch.column(STEP_KEY).to_pylist() if STEP_KEY in batch.schema.names else [None] * batch.num_rows
    if event_type in _LOGGED_ROW_BY_ROW:
        rows = pa.table(columns).to_pylist() if columns else []
        return [(step, _finite(prefix, row)) for step, row in zip(steps, rows, strict=True)]
    known_steps = [step for step in steps if step is not None]
    last_step = max(known_steps, default=None)
    if event_type in _LOGGED_AS_MEANS:
        means = {name: pc.mean(column.cast(pa.float64())).as_py() for name, column in columns.items()}
        return [(last_step, _finite(prefix, means))]
    return [(last_step, {f"{prefix}/num_{event_type.name.lower()}": float(batch.num_rows)})]


def _is_metric(field: pa.Field) -> bool:
    is_number = pa.types.is_floating(field.type) or pa.types.is_integer(field.type) or pa.types.is_boolean(field.type)
    return is_number and field.name not in _NOT_METRICS


def _finite(prefix: str, row: Mapping[str, Any]) -> dict[str, float]:
    measured = {name: float(value) for name, value in row.items() if value is not None}
    return {f"{prefix}/{name}": value for name, value in measured.items() if math.isfinite(value)}
