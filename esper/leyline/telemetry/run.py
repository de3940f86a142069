"""Payloads about a run as a whole: its start, its resumption, its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from esper.leyline.telemetry.payload import Payload


@dataclass(frozen=True, slots=True)
class TrainingStartedPayload(Payload):
    """A run begins; everything a display needs to label it."""

    n_envs: int
    max_epochs: int
    """Epochs in an episode."""
    task: str
    host_params: int
    slot_ids: tuple[str, ...]
    seed: int
    n_episodes: int
    lr: float
    clip_ratio: float
    entropy_coef: float
    param_budget: int
    policy_device: str
    env_devices: tuple[str, ...]
    episode_id: str = ""
    resume_path: str = ""
    reward_mode: str = ""
    start_episode: int = 0
    max_batches: int | None = None
    """Rounds planned."""
    entropy_anneal: Mapping[str, float] | None = None
    world_size: int = 1
    """Env actors."""
    rank: int = 0
    """Index of the actor."""
    local_rank: int = 0
    amp_enabled: bool = False
    amp_dtype: str | None = None
    """`float16` or `bfloat16`."""
    compile_enabled: bool = False
    compile_backend: str | None = None
    compile_mode: str | None = None
    config_digest: str | None = None
    versions: Mapping[str, str] | None = None
    """Package → version."""


@dataclass(frozen=True, slots=True)
class CheckpointLoadedPayload(Payload):
    """A run goes on from a checkpoint."""

    path: str
    start_episode: int
    source: str = "resume"
    avg_accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class PartFaultPayload(Payload):
    """A process of the run was lost, or one has taken its place."""

    part: str
    """`env-3`, `learner`, `sink` or `queue`."""
    fault: str
    """`died`, `hung`, or `data_lost` where what it had handed over vanished with its node."""
    remedy: str
    """`restart`, `drop` (the run goes on smaller), `regrow` (a dropped one is tried again) or `give_up`."""
    num_faults: int
    """Of this part so far."""
    life: int
    """Incarnation that was lost, or that begins."""
    delay_sec: float | None = None
    """Pause until the remedy."""
    recovered_in_sec: float | None = None
    """From the loss until the part answered again."""
    lost: str = ""
    """Work that is done again: the group of episodes in flight, or the rounds since the last checkpoint."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RunFinishedPayload(Payload):
    """A run is over."""

    episodes: int
    env_steps: int
    wall_sec: float
    """Since the run began or was resumed."""
    env_steps_per_sec: float | None
    """Over the rounds played since then; None if there were none."""
    stop_reason: str
    """`completed`, `interrupted`, `failed`, or `stopped` where a sweep ended it."""
    checkpoint_path: str | None = None
    num_events_dropped: int | None = None
    num_parts_lost: int = 0
    """Processes that were lost since the run began or was resumed."""
    num_parts_recovered: int = 0
