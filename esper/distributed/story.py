"""What the driver tells: the run's beginning, its rounds and its end, to telemetry and to the terminal."""

from __future__ import annotations

import hashlib
import json
import platform
import statistics
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

from esper.distributed.event_group import LEARNED, group_id
from esper.distributed.narrate import tell_outcome
from esper.leyline.load import dump
from esper.leyline.telemetry import (
    CheckpointLoadedPayload,
    RunFinishedPayload,
    TelemetryEvent,
    TelemetryEventType,
    TolariaBatchPayload,
    TrainingStartedPayload,
)
from esper.leyline.telemetry.schema import record_batch
from esper.nissa.sinks.console import ConsoleSink
from esper.nissa.wire import BatchId, stamp
from esper.simic.update_report import to_payloads

if TYPE_CHECKING:
    from esper.distributed.config import RunConfig
    from esper.distributed.driver import Counts, RoundReport
    from esper.distributed.facts import RunFacts
    from esper.nissa.emitter import BufferedEmitter

PACKAGES = ("esper-morph", "torch", "torch-geometric", "ray", "duckdb", "numpy")


class RunStory:
    """Tells a run to telemetry, and to the terminal if the configuration wants it.

    Args:
        config: The run's configuration.
        emitter: The driver's way to telemetry.
    """

    def __init__(self, config: RunConfig, emitter: BufferedEmitter) -> None:
        self._config = config
        self._emitter = emitter
        self._started = time.perf_counter()
        level = config.telemetry.console
        self._console = None if level == "off" else ConsoleSink(level)
        self._num_shown = 0

    def started(self, facts: RunFacts, *, resumed_from: str, counts: Counts) -> None:
        """The run begins, or goes on."""
        config = self._config
        payload = TrainingStartedPayload(
            n_envs=config.rollout.num_envs,
            max_epochs=facts.max_epochs,
            task=config.task.preset,
            host_params=facts.host_params,
            slot_ids=facts.slot_ids,
            seed=config.seed,
            n_episodes=config.rollout.num_envs * config.rollout.rounds,
            lr=config.ppo.learning_rate,
            clip_ratio=config.ppo.clip,
            entropy_coef=config.ppo.entropy_coef,
            param_budget=facts.param_budget,
            policy_device=facts.policy_device,
            env_devices=facts.env_devices,
            resume_path=resumed_from,
            reward_mode=config.reward.mode,
            start_episode=counts.episodes,
            world_size=config.rollout.num_actors,
            config_digest=config_digest(config),
            versions={"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        )
        self._tell(TelemetryEvent(TelemetryEventType.TRAINING_STARTED, payload))
        if resumed_from:
            loaded = CheckpointLoadedPayload(path=resumed_from, start_episode=counts.episodes)
            self._tell(TelemetryEvent(TelemetryEventType.CHECKPOINT_LOADED, loaded))

    def round_finished(self, report: RoundReport) -> None:
        """A round was played and learned from."""
        outcomes, counts, rollout = report.outcomes, report.counts, self._config.rollout
        group = group_id("train", LEARNED, counts.rounds - 1)
        payload = TolariaBatchPayload(
            episodes_completed=counts.episodes,
            batch_idx=counts.rounds,
            avg_accuracy=statistics.fmean(outcome.final_accuracy for outcome in outcomes),
            avg_reward=statistics.fmean(outcome.episode_reward for outcome in outcomes),
            total_episodes=rollout.num_envs * rollout.rounds,
            n_envs=rollout.num_envs,
            env_accuracies=tuple(outcome.final_accuracy for outcome in outcomes),
            start_episode=counts.episodes - len(outcomes),
            avg_utility=report.mean_utility,
            env_steps=counts.env_steps,
            env_steps_per_sec=report.env_steps_per_sec,
            wall_sec=report.wall_sec,
        )
        finished = TelemetryEvent(TelemetryEventType.TOLARIA_BATCH_COMPLETED, payload, group_id=group)
        self._emitter.emit(finished)
        for outcome in outcomes:
            self._show(tell_outcome(group, outcome, policy=LEARNED, reward_mode=self._config.reward.mode))
        for update in to_payloads(report.update):
            self._show(TelemetryEvent(TelemetryEventType.TAMIYO_POLICY_UPDATE, update, group_id=group))
        self._show(finished)

    def finished(self, counts: Counts, stop_reason: str, checkpoint: str | None) -> None:
        """The run ends."""
        wall_sec = time.perf_counter() - self._started
        payload = RunFinishedPayload(
            episodes=counts.episodes,
            env_steps=counts.env_steps,
            wall_sec=wall_sec,
            env_steps_per_sec=counts.env_steps / wall_sec,
            stop_reason=stop_reason,
            checkpoint_path=checkpoint,
        )
        self._tell(TelemetryEvent(TelemetryEventType.RUN_FINISHED, payload))

    def _tell(self, event: TelemetryEvent) -> None:
        self._emitter.emit(event)
        self._show(event)

    def _show(self, event: TelemetryEvent) -> None:
        if self._console is None:
            return
        identity = BatchId("driver", 0, self._num_shown + 1, self._num_shown, event.event_type.name)
        self._num_shown += 1
        self._console.write([stamp(record_batch([event]), identity)])


def config_digest(config: RunConfig) -> str:
    """Hash of everything a run depends on."""
    return hashlib.sha256(json.dumps(dump(config), sort_keys=True).encode()).hexdigest()
