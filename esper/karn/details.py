"""Typed answers about the parts of a run: passes, rewards, seeds, attribution, anomalies, and the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from esper.karn.records import IS_TRAINING, ROUND, as_record
from esper.leyline.reward import PARTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.karn.store import Store

REWARD_PARTS = (*PARTS, "stage_bonus")
"""Columns of `rewards` that add up to the total; the last one is 0 but in runs of earlier versions."""

_NEWEST = f"SELECT max({ROUND}) FROM tolaria_epochs WHERE {IS_TRAINING}"


@dataclass(frozen=True, slots=True)
class RewardRound:
    """What the rewards of one training round were made of."""

    round_idx: int
    """Counted from 1."""
    num_steps: int
    mean_total: float
    """Per step, reward units."""
    parts: Mapping[str, float]
    """Part → mean per step; parts that are 0 throughout the run are absent."""


@dataclass(frozen=True, slots=True)
class SeedEpoch:
    """How one seed stood at the end of a host epoch. None is unmeasured."""

    env_id: int
    episode_idx: int
    inner_epoch: int
    slot_id: str
    seed_id: str
    blueprint_id: str
    stage: str
    alpha: float
    num_parameters: int | None
    contribution: float | None
    """Points."""


@dataclass(frozen=True, slots=True)
class SeedFates:
    """Seeds planted, kept and removed in one training round."""

    round_idx: int
    """Counted from 1."""
    num_planted: int
    num_kept: int
    num_pruned: int


@dataclass(frozen=True, slots=True)
class BlueprintScore:
    """What became of one blueprint's seeds. None is unmeasured; points of accuracy."""

    blueprint_id: str
    num_planted: int
    num_kept: int
    num_pruned: int
    kept_frac: float | None
    mean_params: float | None
    mean_improvement: float | None
    mean_contribution: float | None
    mean_epochs: float | None


@dataclass(frozen=True, slots=True)
class SlotAttribution:
    """What seeds at one slot earned, by Shapley values at episodes' ends."""

    slot_id: str
    num_episodes: int
    mean_value: float
    """Points."""
    low: float
    """Lower quartile."""
    high: float
    """Upper quartile."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Agreement of reward and accuracy; None as context is all of them."""

    split: str
    policy: str
    context: str | None
    num_episodes: int
    pearson: float | None
    verdict: str


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One finding."""

    timestamp: datetime
    event_type: str
    severity: str
    group_id: str
    round_idx: int | None
    """Training round that it was found in, counted from 1; None outside of one."""
    env_id: int | None
    detail: str


@dataclass(frozen=True, slots=True)
class Incident:
    """One trouble of the telemetry file itself."""

    noticed_at: datetime
    kind: str
    """`refused`: it could not be written for a while; `unreadable_wal`: what was not yet folded in was set aside."""
    detail: str


@dataclass(frozen=True, slots=True)
class MachineReading:
    """One process at one time. None is unmeasured."""

    timestamp: datetime
    source: str
    cpu_utilization_pct: float | None
    host_memory_used_gb: float | None
    gpu_utilization_pct: float | None
    cuda_memory_active_gb: float | None
    compile_graph_breaks: int | None
    avg_forward_time_ms: float | None
    avg_backward_time_ms: float | None
    avg_optimizer_time_ms: float | None
    avg_data_transfer_time_ms: float | None


@dataclass(frozen=True, slots=True)
class ProcessLife:
    """Signs of life of one process."""

    source: str
    num_beats: int
    uptime_sec: float
    longest_silence_sec: float | None
    is_over: bool
    """It said that it stopped working."""
    num_events_emitted: int | None
    num_events_dropped: int | None
    most_batches_waiting: int | None
    most_batches_on_disk: int | None


def update_columns(store: Store, columns: Sequence[str], *, max_points: int = 2000) -> dict[str, list[Any]]:
    """Columns of `tamiyo_updates`, by `pass_idx`: the passes of the whole run counted from 1.

    Args:
        store: An open run.
        columns: Names of columns.
        max_points: Of longer runs every n-th pass is taken.
    """
    chosen = ", ".join(f'"{name}"' for name in columns)
    rows = store.rows(
        "WITH numbered AS (SELECT *, row_number() OVER (ORDER BY batch, ppo_update_idx, timestamp) AS pass_idx, count(*) OVER () AS num "
        f"FROM tamiyo_updates) SELECT pass_idx, batch, {chosen} FROM numbered "
        "WHERE (pass_idx - 1) % greatest(1, ceil(num / $1)::BIGINT) = 0 ORDER BY pass_idx",
        [max_points],
    )
    return {name: [row[name] for row in rows] for name in ("pass_idx", "batch", *columns)}


def reward_rounds(store: Store) -> list[RewardRound]:
    """Mean reward and its parts for every training round."""
    sums = ", ".join(f"avg({part}) AS {part}" for part in REWARD_PARTS)
    rows = store.rows(
        f"SELECT {ROUND} AS round_idx, count(*) AS num_steps, avg(total_reward) AS mean_total, {sums} FROM rewards "
        f"WHERE {IS_TRAINING} AND reward_components IS NULL GROUP BY ALL ORDER BY ALL"
    )
    used = [part for part in REWARD_PARTS if any(row[part] for row in rows)]
    return [RewardRound(row["round_idx"], row["num_steps"], row["mean_total"], {part: row[part] or 0.0 for part in used}) for row in rows]


def seed_fates(store: Store) -> list[SeedFates]:
    """Seeds planted, kept and removed in every training round."""
    sql = f"""
        SELECT {ROUND} AS round_idx,
               count(*) FILTER (event_type = 'SEED_GERMINATED') AS num_planted,
               count(*) FILTER (event_type = 'SEED_FOSSILIZED') AS num_kept,
               count(*) FILTER (event_type = 'SEED_PRUNED') AS num_pruned
        FROM seed_lifecycle WHERE {IS_TRAINING} GROUP BY ALL ORDER BY ALL
    """
    return [as_record(SeedFates, row) for row in store.rows(sql)]


def last_round_envs(store: Store) -> list[int]:
    """Environments that played in the newest training round, in order."""
    sql = f"SELECT DISTINCT env_id FROM tolaria_epochs WHERE {IS_TRAINING} AND {ROUND} = ({_NEWEST}) ORDER BY env_id"
    return [row["env_id"] for row in store.rows(sql)]


def last_round_seeds(store: Store, *, max_envs: int | None = None) -> list[SeedEpoch]:
    """Every seed at every epoch of the newest training round, of the first so many of `last_round_envs` or of all."""
    sql = f"""
        SELECT * FROM seed_states
        WHERE {IS_TRAINING} AND {ROUND} = ({_NEWEST}) AND list_contains($1, env_id)
        QUALIFY incarnation = max(incarnation) OVER (PARTITION BY env_id, episode_idx)
        ORDER BY env_id, slot_id, inner_epoch
    """
    return [as_record(SeedEpoch, row) for row in store.rows(sql, [last_round_envs(store)[:max_envs]])]


def blueprint_scores(store: Store) -> list[BlueprintScore]:
    """Every blueprint that was planted, the most kept first."""
    return [as_record(BlueprintScore, row) for row in store.rows("SELECT * FROM blueprint_scoreboard ORDER BY num_kept DESC, blueprint_id")]


def slot_attributions(store: Store) -> list[SlotAttribution]:
    """What the seeds at every slot earned."""
    sql = """
        SELECT slot_id, count(*) AS num_episodes, avg(shapley_value) AS mean_value,
               quantile_cont(shapley_value, 0.25) AS low, quantile_cont(shapley_value, 0.75) AS high
        FROM attributions GROUP BY slot_id ORDER BY slot_id
    """
    return [as_record(SlotAttribution, row) for row in store.rows(sql)]


def gains_by_size(store: Store) -> dict[int, list[float]]:
    """Number of seeds switched on → points of accuracy over none, of every set that was tried at an episode's end."""
    rows = store.rows(
        "SELECT num_on, list(gain ORDER BY gain) AS gains FROM counterfactuals "
        "WHERE gain IS NOT NULL AND num_on > 0 AND strategy <> 'ablation' GROUP BY num_on ORDER BY num_on"
    )
    return {row["num_on"]: row["gains"] for row in rows}


def calibrations(store: Store) -> list[Calibration]:
    """Whether reward and accuracy agree, all contexts together first."""
    sql = "SELECT * FROM reward_calibration ORDER BY split, policy, context NULLS FIRST"
    return [as_record(Calibration, row) for row in store.rows(sql)]


def anomalies(store: Store, *, limit: int = 200) -> list[Anomaly]:
    """The newest findings, newest first."""
    sql = f"SELECT *, CASE WHEN {IS_TRAINING} THEN {ROUND} END AS round_idx FROM anomalies ORDER BY timestamp DESC LIMIT $1"
    return [as_record(Anomaly, row) for row in store.rows(sql, [limit])]


def anomaly_counts(store: Store) -> dict[str, int]:
    """Event type → findings, the most first."""
    rows = store.rows("SELECT event_type, count(*) AS num FROM anomalies GROUP BY event_type ORDER BY num DESC, event_type")
    return {row["event_type"]: row["num"] for row in rows}


def incidents(store: Store) -> list[Incident]:
    """Troubles of the telemetry file, in order."""
    return [as_record(Incident, row) for row in store.rows("SELECT * FROM incidents ORDER BY noticed_at")]


def machine_readings(store: Store) -> list[MachineReading]:
    """Every infrastructure snapshot, in order."""
    return [as_record(MachineReading, row) for row in store.rows("SELECT * FROM infrastructure ORDER BY timestamp")]


def process_lives(store: Store) -> list[ProcessLife]:
    """Every process that gave a sign of life, in its last life."""
    sql = """
        SELECT source, count(*) AS num_beats, max(uptime_sec) AS uptime_sec, max(silence_sec) AS longest_silence_sec,
               bool_or(NOT training_thread_alive) AS is_over, max(num_events_emitted) AS num_events_emitted,
               max(num_events_dropped) AS num_events_dropped, max(num_batches_waiting) AS most_batches_waiting,
               max(num_batches_on_disk) AS most_batches_on_disk
        FROM (SELECT * FROM heartbeats QUALIFY incarnation = max(incarnation) OVER (PARTITION BY source))
        GROUP BY source ORDER BY source
    """
    return [as_record(ProcessLife, row) for row in store.rows(sql)]
