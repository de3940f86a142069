"""Payloads about host training: epochs, rounds and rollbacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from esper.leyline.telemetry.kasmina import SeedSnapshot
from esper.leyline.telemetry.payload import Payload


@dataclass(frozen=True, slots=True)
class TolariaEpochPayload(Payload):
    """One trial finished an epoch. Accuracies in percent; None is unmeasured."""

    env_id: int
    val_accuracy: float
    val_loss: float
    inner_epoch: int
    """Epoch within the episode, from 1."""
    seeds: Mapping[str, SeedSnapshot] | None = None
    """Slot id → the seed living there; empty slots are absent."""
    episode_idx: int | None = None
    max_epochs: int | None = None
    train_loss: float | None = None
    train_accuracy: float | None = None
    committed_accuracy: float | None = None
    """Validation accuracy with fossils alone."""
    host_grad_norm_pre_clip: float | None = None
    """L2 norm over everything that trains, host and seeds, at the epoch's last step."""
    host_lr: float | None = None
    host_params: int | None = None
    seed_params: int | None = None
    fossil_params: int | None = None
    num_fossils: int | None = None
    host_epoch_time_ms: float | None = None
    evaluation_time_ms: float | None = None
    forward_time_ms: float | None = None
    backward_time_ms: float | None = None
    optimizer_step_time_ms: float | None = None
    data_transfer_time_ms: float | None = None
    """Picking and augmenting batches and bringing them to the device. Times of steps are sums over the epoch, taken in sampled epochs."""
    grad_norm_per_layer: Mapping[str, float] | None = None
    """Layer or seed → gradient norm before clipping, in sampled epochs as are the next three."""
    grad_zero_fraction: float | None = None
    """Share of gradient elements that are exactly 0."""
    grad_norm_ratio: float | None = None
    """Largest over smallest norm of a layer that has a gradient."""
    grad_nan_layers: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class TolariaBatchPayload(Payload):
    """A round ended: every env has played its episodes."""

    episodes_completed: int
    """In the run so far."""
    batch_idx: int
    """Number of the round."""
    avg_accuracy: float
    """Mean final accuracy of the round's episodes, in percent."""
    avg_reward: float
    """Mean episode reward."""
    total_episodes: int
    """Planned for the run."""
    n_envs: int
    rolling_accuracy: float | None = None
    """Mean of `avg_accuracy` over the latest rounds."""
    env_accuracies: tuple[float, ...] | None = None
    start_episode: int | None = None
    requested_episodes: int | None = None
    """Of this round."""
    avg_utility: float | None = None
    num_pareto: int | None = None
    """Episodes of the round that no other dominates in accuracy, parameter ratio and stability."""
    hypervolume: float | None = None
    """Area of (accuracy, parameter ratio) that the round's episodes dominate, up to 0 % and ratio 2."""
    rollback_count: int | None = None
    env_steps: int | None = None
    """Taken in the run so far."""
    env_steps_per_sec: float | None = None
    """Over this round, updates included."""
    wall_sec: float | None = None
    """Duration of this round."""


@dataclass(frozen=True, slots=True)
class TolariaRollbackPayload(Payload):
    """The governor stopped a trial and restored its last healthy state."""

    env_id: int
    device: str
    reason: str
    loss_at_panic: float
    """NaN where a seed failed before there was a loss."""
    loss_threshold: float | None
    """None before there was enough history to have one."""
    consecutive_panics: int
    panic_reason: str | None = None
    """`governor_nan`, `governor_lobotomy`, `governor_divergence`, `governor_blueprint` or `governor_rollback`."""
    penalty: float | None = None
    """In reward units."""
    penalty_normalised: float | None = None
    missing_keys: tuple[str, ...] = ()
    unexpected_keys: tuple[str, ...] = ()
    episode_idx: int | None = None
