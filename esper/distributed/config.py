"""The configuration of a run: one dataclass made of the packages' own, and where to read it from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import yaml

from esper.distributed.preflight import check_together
from esper.distributed.settings_file import read_settings
from esper.kasmina.config import GrowthConfig
from esper.leyline.load import ConfigError, dump, load, merge, parse_overrides, setting
from esper.nissa.config import TelemetryConfig
from esper.simic.config import PPOConfig, RewardConfig
from esper.tamiyo.config import TamiyoGNNConfig
from esper.tolaria.config import TaskConfig
from esper.tolaria.engine.base import EngineConfig
from esper.tolaria.governor import GovernorConfig
from esper.tolaria.tasks.presets import find_preset

if TYPE_CHECKING:
    from pathlib import Path

BaselineName = Literal["random", "wait", "plateau", "gradient", "fixed"]


@dataclass(frozen=True)
class RolloutConfig:
    """How many episodes are played, and by whom."""

    rounds: int = setting(28, "policy updates; a round is one episode per environment", ge=1)
    num_envs: int = setting(16, "environments, each playing one host at a time", ge=1)
    envs_per_actor: int = setting(8, "hosts an actor trains in lockstep; results depend on it, not on the number of actors", ge=1)
    envs_per_context: int = setting(
        1, "environments that play one context in a round; more are trained faster as one, but a round then teaches less", ge=1
    )

    def __post_init__(self) -> None:
        """Refuse a division that leaves environments over."""
        if self.num_envs % self.envs_per_actor:
            raise ConfigError(f"rollout.num_envs={self.num_envs} should be a multiple of rollout.envs_per_actor={self.envs_per_actor}")

    @property
    def num_actors(self) -> int:
        """Environment actors."""
        return self.num_envs // self.envs_per_actor


@dataclass(frozen=True)
class ClusterConfig:
    """What the run asks of Ray. With `--local` only the GPU shares matter: 0 keeps hosts or policy on the CPU."""

    address: str | None = setting(None, "Ray cluster to join; none starts one on this machine, or joins the job's own")
    env_cpus: float = setting(
        0.75, "CPU share of an environment actor; it computes with as many threads as the share has whole CPUs, at least one", gt=0.0
    )
    env_gpus: float = setting(0.0, "GPU share of an environment actor: 0, or 1/k for whole k", ge=0.0, le=1.0)
    learner_cpus: float = setting(0.25, "CPU share of the learner; threads as above", gt=0.0)
    learner_gpus: float = setting(0.0, "GPU share of the learner", ge=0.0, le=1.0)
    sink_cpus: float = setting(0.25, "CPU share of the telemetry sink; 0 fits onto a full node", ge=0.0)
    env_placement: Literal["PACK", "SPREAD"] = setting(
        "PACK", "PACK leaves it to Ray, which fills nodes; SPREAD puts environment actors onto as many nodes as there are"
    )
    env_labels: Mapping[str, str] = setting(
        dict, "labels of the nodes that environment actors may run on, e.g. {ray.io/accelerator-type: H200}; also !value, in(a,b)"
    )
    learner_labels: Mapping[str, str] = setting(dict, "labels of the nodes that the learner may run on")
    sink_labels: Mapping[str, str] = setting(dict, "labels of the nodes that the telemetry sink may run on; it writes the run's folder")
    call_timeout_sec: float = setting(600.0, "longest wait for any call; a part that takes longer counts as lost", unit="s", gt=0.0)
    heartbeat_sec: float = setting(
        10.0,
        "a part whose call takes longer is asked for a sign of life, again and again; 0 never asks",
        unit="s",
        ge=0.0,
    )
    heartbeat_timeout_sec: float = setting(60.0, "a part that owes a sign of life for longer counts as hung", unit="s", gt=0.0)
    max_restarts: int = setting(3, "times that a lost part is started again within restart_window_sec", ge=0)
    restart_window_sec: float = setting(600.0, "age at which a fault no longer counts", unit="s", gt=0.0)
    restart_delay_sec: float = setting(0.5, "pause before a lost part is started again; doubles with every fault that counts", ge=0.0)
    restart_delay_max_sec: float = setting(60.0, "longest such pause", unit="s", ge=0.0)
    regrow_sec: float = setting(
        300.0, "pause after which an environment actor is tried again that failed too often and was dropped", unit="s", gt=0.0
    )
    close_timeout_sec: float = setting(60.0, "longest wait for a part to close", unit="s", gt=0.0)

    def __post_init__(self) -> None:
        """Refuse GPU shares that cannot be packed."""
        for name in ("env_gpus", "learner_gpus"):
            share = getattr(self, name)
            if share and abs(1 / share - round(1 / share)) > 1e-6:
                raise ConfigError(f"cluster.{name}={share} should be 0 or 1/k for a whole k, e.g. 0.5 or 0.25")

    @property
    def env_device(self) -> str:
        """Where hosts are trained."""
        return "cuda" if self.env_gpus else "cpu"

    @property
    def learner_device(self) -> str:
        """Where the policy lives."""
        return "cuda" if self.learner_gpus else "cpu"


@dataclass(frozen=True)
class EvaluationConfig:
    """The comparison after training, on host seeds that training never saw."""

    seeds_per_context: int = setting(3, "unseen host seeds per context; 0 skips the comparison", ge=0)
    split: Literal["eval", "heldout"] = setting("eval", "eval: training contexts on new seeds; heldout: contexts never trained on")
    contexts: tuple[str, ...] = setting((), "only these contexts of the split, e.g. texture/linear@1; empty means all")
    baselines: tuple[BaselineName, ...] = setting(
        ("random", "wait", "plateau", "gradient"), "policies to compare with; fixed searches a schedule with fixed_budget episodes"
    )
    fixed_budget: int | None = setting(None, "episodes the fixed-schedule search may play; none: as many as training played", ge=1)
    decisions: Literal["greedy", "sampled"] = setting(
        "greedy", "of the learned policy; greedy: each head's most probable choice; sampled: drawn, as in training"
    )
    seed: int = setting(20_000, "root of the evaluation's randomness; equal seeds pair the policies' episodes", ge=0)


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept of the learner."""

    every_rounds: int = setting(1, "rounds between checkpoints", unit="rounds", ge=1)
    keep_last: int = setting(3, "newest checkpoints kept; the best is kept besides", ge=1)
    uri: str | None = setting(
        None, "second place for the checkpoints that are kept, from which `esper resume --from` goes on elsewhere: s3://, gs://, a path"
    )

    def __post_init__(self) -> None:
        """Refuse what would mean another place on another machine."""
        if self.uri is not None and not re.match(r"/|[a-z][a-z0-9+.-]*://", self.uri):
            raise ConfigError(f"checkpoint.uri={self.uri!r} should be an absolute path, or begin with s3://, gs:// or file://")


@dataclass(frozen=True)
class RunConfig:
    """Everything a run depends on."""

    seed: int = setting(0, "root of all randomness; the same seed on the same machine gives the same run", ge=0)
    task: TaskConfig = setting(TaskConfig, "tasks and hosts")
    growth: GrowthConfig = setting(GrowthConfig, "what may grow, and how")
    engine: EngineConfig = setting(EngineConfig, "host training")
    governor: GovernorConfig = setting(GovernorConfig, "when a trial is stopped")
    reward: RewardConfig = setting(RewardConfig, "what is rewarded")
    ppo: PPOConfig = setting(PPOConfig, "how the policy learns")
    policy: TamiyoGNNConfig = setting(TamiyoGNNConfig, "the policy network")
    rollout: RolloutConfig = setting(RolloutConfig, "how many episodes")
    cluster: ClusterConfig = setting(ClusterConfig, "resources")
    evaluation: EvaluationConfig = setting(EvaluationConfig, "the closing comparison")
    telemetry: TelemetryConfig = setting(TelemetryConfig, "what is recorded")
    checkpoint: CheckpointConfig = setting(CheckpointConfig, "what is kept")

    def __post_init__(self) -> None:
        """Refuse settings that are right by themselves and not together."""
        check_together(self)


def read_run_config(path: Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run's configuration: defaults, below the task preset's wishes, below the file, below the overrides.

    Raises:
        ConfigError: If the file cannot be read or a setting is wrong.
    """
    return config_from(read_named(path, overrides))


def read_named(path: Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The settings that a file and overrides name, as nested mappings; they are not checked against the schema.

    Raises:
        ConfigError: If the file cannot be read, holds no mapping, or an override is none.
    """
    return merge(read_settings(path, option="--config") if path else {}, parse_overrides(overrides))


def config_from(values: Mapping[str, Any]) -> RunConfig:
    """Build the configuration from nested mappings, laying them upon what the task preset wishes for growth and rent."""
    preset = find_preset(load(TaskConfig, values.get("task", {}), "task"))
    wishes = {"growth": dict(preset.growth), "reward": {"rent_reference_params": preset.rent_reference_params}}
    return load(RunConfig, merge(wishes, values))


def write_run_config(config: RunConfig, path: Path) -> None:
    """Write the resolved configuration as YAML that `read_run_config` reads back to an equal one."""
    path.write_text(yaml.safe_dump(dump(config), sort_keys=False))
