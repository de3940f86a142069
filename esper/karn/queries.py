"""Typed answers about a run: how it learned, what grew where, how episodes ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from esper.karn.records import as_record

if TYPE_CHECKING:
    from esper.karn.store import Store


@dataclass(frozen=True, slots=True)
class LearningPoint:
    """One round. None is unmeasured."""

    round_idx: int
    """Counted from 1."""
    episodes: int
    """Completed in the run so far."""
    env_steps: int | None
    """Taken in the run so far."""
    utility: float | None
    """Mean over the round's episodes."""
    accuracy: float
    """Mean final accuracy, in percent."""
    reward: float
    """Mean episode reward."""
    explained_variance: float | None
    """Of the values that were used to collect the round: the first pass of its update."""
    entropy: float | None
    """Mean over the round's passes."""
    kl_divergence: float | None
    """Of the last pass."""
    clip_fraction: float | None
    env_steps_per_sec: float | None


@dataclass(frozen=True, slots=True)
class GrowthCell:
    """What came of one blueprint at one slot in one context."""

    split: str
    policy: str
    context: str
    slot_id: str
    blueprint_id: str
    num_planted: int
    num_kept: int
    mean_contribution: float | None
    """Leave-one-out worth of the kept ones, in points; None is unmeasured."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one episode ended. Accuracies in percent."""

    number: int
    """1, 2, 3 … in the order in which episodes were begun."""
    env_id: int
    episode_idx: int
    context: str
    split: str
    policy: str
    utility: float | None
    """Points; None in streams of earlier versions, which had none."""
    final_accuracy: float
    test_accuracy: float | None
    param_ratio: float
    num_fossilized: int
    episode_reward: float
    outcome_type: str
    kept: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunOverview:
    """A run at a glance. None is unknown: the run did not say, or is not over."""

    started_at: datetime | None
    task: str | None
    seed: int | None
    n_envs: int | None
    planned_episodes: int | None
    versions: dict[str, str]
    rounds: int
    episodes: int
    env_steps: int | None
    wall_sec: float | None
    env_steps_per_sec: float | None
    stop_reason: str | None
    mean_utility_last: float | None
    """Over the last tenth of training episodes, at least one."""
    num_anomalies: int
    dropped_events: int
    """Events that telemetry lost because its buffers were full, or because they could not be encoded."""
    rejected_events: int
    """Events that did not fit their table; they are kept in `rejected_batches`."""
    num_incidents: int
    """Times that the file could not be written or its log not be read; they are listed in `incidents`."""


def learning_curve(store: Store) -> list[LearningPoint]:
    """One point per round, in order."""
    sql = """
        WITH updates AS (
            SELECT group_id, batch,
                   arg_min(explained_variance, ppo_update_idx) AS explained_variance,
                   avg(entropy) AS entropy,
                   arg_max(kl_divergence, ppo_update_idx) AS kl_divergence,
                   avg(clip_fraction) AS clip_fraction
            FROM tamiyo_updates GROUP BY ALL
        )
        SELECT b.batch_idx AS round_idx, b.episodes_completed AS episodes, b.env_steps, b.avg_utility AS utility,
               b.avg_accuracy AS accuracy, b.avg_reward AS reward,
               CASE WHEN isfinite(u.explained_variance) THEN u.explained_variance END AS explained_variance,
               u.entropy, u.kl_divergence, u.clip_fraction, b.env_steps_per_sec
        FROM tolaria_batches AS b LEFT JOIN updates AS u ON u.group_id = b.group_id AND u.batch = b.batch_idx
        ORDER BY b.batch_idx, b.timestamp
    """
    return [as_record(LearningPoint, row) for row in store.rows(sql)]


def growth_table(store: Store, split: str | None = None) -> list[GrowthCell]:
    """What grew where over finished episodes, most kept first; of one split, or of all."""
    sql = """
        SELECT * FROM growth WHERE $1 IS NULL OR split = $1
        ORDER BY num_kept DESC, num_planted DESC, context, slot_id, blueprint_id
    """
    return [as_record(GrowthCell, row) for row in store.rows(sql, [split])]


def outcomes(store: Store, split: str | None = None) -> list[Outcome]:
    """Every episode's end, in the order in which episodes were begun; of one split, or of all."""
    sql = """
        SELECT row_number() OVER (ORDER BY episode_idx, env_id, timestamp) AS number, *
        FROM episode_outcomes WHERE $1 IS NULL OR split = $1 ORDER BY number
    """
    return [as_record(Outcome, row | {"kept": tuple(row["kept"] or ())}) for row in store.rows(sql, [split])]


def run_overview(store: Store) -> RunOverview:
    """The run at a glance; of several starts (resumption), the first says when and the last says how."""
    starts = store.rows("SELECT * FROM runs ORDER BY timestamp")
    first, last = (starts[0], starts[-1]) if starts else ({}, {})
    rounds = store.rows("""
        SELECT count(*) AS num, max(episodes_completed) AS episodes, max(env_steps) AS env_steps, sum(wall_sec) AS wall_sec,
               sum(env_steps_per_sec * wall_sec) / sum(wall_sec) FILTER (env_steps_per_sec IS NOT NULL) AS env_steps_per_sec
        FROM tolaria_batches
    """)[0]
    losses = store.rows("SELECT coalesce(sum(dropped_events), 0)::BIGINT AS num FROM high_water_marks")[0]
    rejects = store.rows("SELECT coalesce(sum(num_events), 0)::BIGINT AS num FROM rejected_batches")[0]
    anomalies = store.rows("SELECT count(*) AS num FROM anomalies")[0]
    incidents = store.rows("SELECT count(*) AS num FROM incidents")[0]
    utilities = [outcome.utility for outcome in outcomes(store, "train") if outcome.utility is not None]
    recent = utilities[-max(len(utilities) // 10, 1) :]
    return RunOverview(
        started_at=first.get("timestamp"),
        task=last.get("task"),
        seed=last.get("seed"),
        n_envs=last.get("n_envs"),
        planned_episodes=last.get("n_episodes"),
        versions=dict(last.get("versions") or {}),
        rounds=rounds["num"],
        episodes=rounds["episodes"] or 0,
        env_steps=_first_known(last.get("env_steps"), rounds["env_steps"]),
        wall_sec=_first_known(_sum_if_known([start.get("wall_sec") for start in starts]), rounds["wall_sec"]),
        env_steps_per_sec=_first_known(rounds["env_steps_per_sec"], last.get("env_steps_per_sec")),
        stop_reason=last.get("stop_reason"),
        mean_utility_last=sum(recent) / len(recent) if recent else None,
        num_anomalies=anomalies["num"],
        dropped_events=losses["num"],
        rejected_events=rejects["num"],
        num_incidents=incidents["num"],
    )


def _sum_if_known(values: list[float | None]) -> float | None:
    """Over all lives of a run; None if one of them did not say."""
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _first_known(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
