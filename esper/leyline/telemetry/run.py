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
class RunFinishedPayload(Payload):
    """A run is over."""

    episodes: int
    env_steps: int
    wall_sec: float
    env_steps_per_sec: float
    stop_reason: str
    """`completed`, `interrupted` or `failed`."""
    checkpoint_path: str | None = None
    num_events_dropped: int | None = None
