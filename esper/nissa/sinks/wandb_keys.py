"""Names under which events appear in Weights & Biases, derived from the event's domain and its fields."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from esper.leyline.actions import HEAD_NAMES, LifecycleOp
from esper.leyline.schemas import RISK_LEVELS
from esper.leyline.telemetry.event import TelemetryEventType, event_domain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

STEP_KEY = "env_steps"
"""The x axis of every chart."""
_GROUP_OF_DOMAIN = {"tamiyo": "tamiyo", "tolaria": "tolaria", "simic": "simic", "kasmina": "kasmina", "infra": "infra", "run": "infra"}
_STEP_PREFIX = "simic/step"
"""Rewards of steps, apart from outcomes of episodes: both have a utility."""
_FIXED_NAMES = frozenset((*(op.name for op in LifecycleOp), *HEAD_NAMES, *(level.name for level in RISK_LEVELS)))
"""Entries of maps that are logged. Others, such as layers and slots, would make keys that differ from run to run."""
LOGGED_ROW_BY_ROW = frozenset(
    {
        TelemetryEventType.TAMIYO_POLICY_UPDATE,
        TelemetryEventType.TOLARIA_BATCH_COMPLETED,
        TelemetryEventType.RUN_FINISHED,
    }
)
"""Told by one process for all envs."""
_LOGGED_AS_MEANS = frozenset(
    {
        TelemetryEventType.TOLARIA_EPOCH_COMPLETED,
        TelemetryEventType.EPISODE_OUTCOME,
        TelemetryEventType.REWARD_COMPUTED,
        TelemetryEventType.INFRASTRUCTURE_SNAPSHOT,
    }
)
"""Many rows at once, one for each env or process: their means are logged, so that keys do not grow with envs."""
_NOT_METRICS = frozenset({"epoch", "env_id", "episode_idx", "inner_epoch", "incarnation", "seq", STEP_KEY})

CHARTS: Mapping[str, tuple[str, ...]] = {
    "Gradient health": ("tamiyo/pre_clip_grad_norm", "tamiyo/grad_norm"),
    "Trust region": ("tamiyo/kl_divergence", "tamiyo/approx_kl_max", "tamiyo/clip_fraction"),
    "Value quality": ("tamiyo/explained_variance", "tamiyo/value_target_correlation"),
    "Entropy by head": tuple(f"tamiyo/head_{head}_entropy" for head in HEAD_NAMES),
    "Infrastructure": (
        "infra/gpu_utilization_pct",
        "infra/cuda_memory_active_gb",
        "infra/compile_graph_breaks",
        "infra/cpu_utilization_pct",
        "infra/host_memory_used_gb",
        "infra/avg_forward_time_ms",
        "infra/avg_backward_time_ms",
        "infra/avg_optimizer_time_ms",
        "infra/avg_data_transfer_time_ms",
        "tolaria/env_steps_per_sec",
    ),
}
"""Charts drawn at a run's end: title → series."""
STACKED = "Entropy by head"
"""The chart whose series are areas on top of each other."""


def group(event_type: TelemetryEventType) -> str:
    """First part of the keys of an event type."""
    return _GROUP_OF_DOMAIN[event_domain(event_type)]


def prefix_of(event_type: TelemetryEventType) -> str:
    """What the keys of an event type begin with; no two types share a key."""
    return _STEP_PREFIX if event_type is TelemetryEventType.REWARD_COMPUTED else group(event_type)


def training_rows(table: pa.Table) -> pa.Table:
    """Rows of training, and those that belong to no episode; evaluation is another matter than the curve of a run."""
    groups = table.column("group_id")
    return table.filter(pc.or_(pc.starts_with(groups, "train/"), pc.invert(pc.match_substring(groups, "/"))))


def points(event_type: TelemetryEventType, rows: pa.Table | pa.RecordBatch) -> list[tuple[int | None, dict[str, float]]]:
    """What to log for rows of one event type: (env steps if the rows say so, key → value), oldest first.

    A map counts as numbers where its keys are operations, heads or levels of risk: `tamiyo/op_distribution/WAIT`. Types that are
    logged neither by row nor as means are counted, as `<group>/num_<event>`.
    """
    if not rows.num_rows:
        return []
    prefix = prefix_of(event_type)
    columns = _metrics(rows)
    steps = rows.column(STEP_KEY).to_pylist() if STEP_KEY in rows.schema.names else [None] * rows.num_rows
    if event_type in LOGGED_ROW_BY_ROW:
        values = {name: column.to_pylist() for name, column in columns.items()}
        found = [{name: column[i] for name, column in values.items()} for i in range(rows.num_rows)]
        return [(step, _finite(prefix, row)) for step, row in zip(steps, found, strict=True)]
    last_step = max((step for step in steps if step is not None), default=None)
    if event_type in _LOGGED_AS_MEANS:
        means = {name: pc.mean(column.cast(pa.float64())).as_py() for name, column in columns.items()}
        return [(last_step, _finite(prefix, means))]
    return [(last_step, {f"{prefix}/num_{event_type.name.lower()}": float(rows.num_rows)})]


def stacked(series: Mapping[str, list[tuple[int, float]]]) -> Iterator[tuple[str, list[tuple[int, float]]]]:
    """Upper edges of areas on top of each other, over the steps that all series have."""
    if not series:
        return
    common = set.intersection(*({step for step, _ in line} for line in series.values()))
    heights = dict.fromkeys(common, 0.0)
    for key, line in series.items():
        heights = {step: heights[step] + value for step, value in line if step in common}
        yield key, sorted(heights.items())


def _metrics(rows: pa.Table | pa.RecordBatch) -> dict[str, pa.Array | pa.ChunkedArray]:
    """Columns of numbers, and those that entries of maps make: `<field>/<entry>`."""
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    for i, field in enumerate(rows.schema):
        if field.name in _NOT_METRICS:
            continue
        if _is_number(field.type):
            columns[field.name] = rows.column(i)
        elif pa.types.is_map(field.type) and _is_number(field.type.item_type):
            columns |= {f"{field.name}/{name}": column for name, column in _entries(rows.column(i).to_pylist())}
    return columns


def _entries(maps: Sequence[Sequence[tuple[str, Any]] | None]) -> Iterator[tuple[str, pa.Array]]:
    """Entries with a fixed name: name → value in every row, None where it is absent."""
    found = [dict(pairs or ()) for pairs in maps]
    for name in sorted(_FIXED_NAMES & {name for pairs in found for name in pairs}):
        yield name, pa.array([pairs.get(name) for pairs in found])


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def _finite(prefix: str, row: Mapping[str, Any]) -> dict[str, float]:
    measured = {name: float(value) for name, value in row.items() if value is not None}
    return {f"{prefix}/{name}": value for name, value in measured.items() if math.isfinite(value)}
