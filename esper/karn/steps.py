"""Typed answers about single steps of a training round: host epochs, and what the policy chose after them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esper.karn.records import IS_TRAINING, ROUND, as_record

if TYPE_CHECKING:
    from typing import Any

    from esper.karn.store import Store


@dataclass(frozen=True, slots=True)
class HostEpoch:
    """One host after one epoch of training. None is unmeasured; accuracies in percent, times in ms."""

    round_idx: int
    """Counted from 1."""
    env_id: int
    episode_idx: int | None
    inner_epoch: int
    train_loss: float | None
    val_loss: float
    train_accuracy: float | None
    val_accuracy: float
    committed_accuracy: float | None
    """With fossils alone."""
    host_lr: float | None
    host_params: int | None
    seed_params: int | None
    fossil_params: int | None
    host_grad_norm_pre_clip: float | None
    grad_norm_per_layer: Mapping[str, float] | None
    """Layer or seed → l2 norm before clipping; None in epochs that were not sampled, as are the next three and times of steps."""
    grad_zero_fraction: float | None
    grad_norm_ratio: float | None
    grad_nan_layers: tuple[str, ...] | None
    host_epoch_time_ms: float | None
    evaluation_time_ms: float | None
    forward_time_ms: float | None
    """Sums over the epoch's steps, as are the next three."""
    backward_time_ms: float | None
    optimizer_step_time_ms: float | None
    data_transfer_time_ms: float | None


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy chose after one host epoch, and what else it could have chosen. None is unmeasured."""

    round_idx: int
    """Counted from 1."""
    env_id: int
    episode_idx: int | None
    inner_epoch: int | None
    action_name: str
    action_slot: str | None
    action_confidence: float
    """Joint probability of the action, 0…1."""
    decision_entropy: float | None
    """Of the distribution over operations, in nats."""
    value_estimate: float | None
    """As the learner scales rewards."""
    total_reward: float
    alternatives: Mapping[str, float]
    """Operation that was possible and not taken → its probability, the likeliest first."""


def host_epochs(store: Store, round_idx: int | None = None) -> list[HostEpoch]:
    """Every host's epochs of one training round, of the newest if None; of an episode that was played again, the last life's."""
    rows = store.rows(
        f"SELECT {ROUND} AS round_idx, * FROM tolaria_epochs WHERE {IS_TRAINING} AND {_chosen('tolaria_epochs')} "
        "QUALIFY incarnation = max(incarnation) OVER (PARTITION BY env_id, episode_idx) ORDER BY env_id, episode_idx, inner_epoch",
        [round_idx],
    )
    return [_host_epoch(row) for row in rows]


def decisions(store: Store, round_idx: int | None = None) -> list[Decision]:
    """Every rewarded decision of one training round, of the newest if None; of an episode that was played again, the last life's."""
    rows = store.rows(
        f"SELECT {ROUND} AS round_idx, * FROM reward_computed WHERE {IS_TRAINING} AND {_chosen('reward_computed')} "
        "QUALIFY incarnation = max(incarnation) OVER (PARTITION BY env_id, episode_idx) ORDER BY env_id, episode_idx, inner_epoch",
        [round_idx],
    )
    return [as_record(Decision, row | {"alternatives": _alternatives(row["alternatives"])}) for row in rows]


def _chosen(table: str) -> str:
    """Rows of the round that is asked for as $1, of the newest in `table` if that is NULL."""
    return f"{ROUND} = coalesce($1, (SELECT max({ROUND}) FROM {table} WHERE {IS_TRAINING}))"


def _host_epoch(row: dict[str, Any]) -> HostEpoch:
    norms, broken = row["grad_norm_per_layer"], row["grad_nan_layers"]
    nested = {"grad_norm_per_layer": None if norms is None else dict(norms), "grad_nan_layers": None if broken is None else tuple(broken)}
    return as_record(HostEpoch, row | nested)


def _alternatives(found: list[dict[str, Any]] | None) -> dict[str, float]:
    return {one["action_name"]: one["probability"] for one in found or ()}
