"""What the driver tells: the run's beginning, its rounds and its end, to telemetry and to the terminal."""

from __future__ import annotations

import hashlib
import json
import platform
import statistics
import time
from collections import Counter
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from esper.distributed.event_group import LEARNED, group_id
from esper.distributed.gauges import Gauges
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
from esper.simic.anomalies import UpdateMonitor, anomaly_payload
from esper.simic.outcomes import hypervolume, pareto_front
from esper.simic.trends import AccuracyTrend, PerformanceWatch
from esper.simic.update_report import rejections, to_payloads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper.distributed.config import RunConfig
    from esper.distributed.facts import RunFacts
    from esper.distributed.rounds import Counts, RoundReport
    from esper.nissa.emitter import BufferedEmitter
    from esper.simic.config import PPOConfig

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
        self._num_steps = 0
        self._round_sec = 0.0
        self._gauges = Gauges(emitter, config.telemetry, "cpu")
        self._updates = UpdateMonitor()
        self._trend = AccuracyTrend()
        self._performance = PerformanceWatch()
        self._num_faults: Counter[TelemetryEventType] = Counter()

    def to_json(self) -> dict[str, Any]:
        """What a continued run needs to tell the rest as this one would have."""
        return {"updates": self._updates.to_json(), "trend": self._trend.to_json(), "performance": self._performance.to_json()}

    def load_json(self, state: Mapping[str, Any] | None) -> None:
        """Go on from what `to_json` saved; None begins anew."""
        self._updates, self._trend, self._performance = UpdateMonitor(), AccuracyTrend(), PerformanceWatch()
        if state is not None:
            self._updates.load_json(state["updates"])
            self._trend.load_json(state["trend"])
            self._performance.load_json(state["performance"])

    def emit(self, event: TelemetryEvent) -> None:
        """Tell something that befell the run, and count it for the end."""
        self._num_faults[event.event_type] += 1
        self._tell(event)

    def started(self, facts: RunFacts, *, resumed_from: str, counts: Counts, accuracy: float | None = None) -> None:
        """The run begins, or goes on after a round of so much mean accuracy."""
        config, engine = self._config, self._config.engine
        self._gauges.beat(env_steps=counts.env_steps)
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
            max_batches=config.rollout.rounds,
            entropy_anneal=_entropy_anneal(config.ppo),
            amp_enabled=facts.host_precision != "fp32",
            amp_dtype="bfloat16" if facts.host_precision != "fp32" else None,
            compile_enabled=engine.compile != "off",
            compile_backend="inductor" if engine.compile != "off" else None,
            compile_mode="default" if engine.compile != "off" else None,
            world_size=config.rollout.num_actors,
            config_digest=config_digest(config),
            versions={"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        )
        self._tell(TelemetryEvent(TelemetryEventType.TRAINING_STARTED, payload))
        if resumed_from:
            loaded = CheckpointLoadedPayload(path=resumed_from, start_episode=counts.episodes, avg_accuracy=accuracy)
            self._tell(TelemetryEvent(TelemetryEventType.CHECKPOINT_LOADED, loaded))

    def round_finished(self, report: RoundReport) -> None:
        """A round was played and learned from."""
        outcomes, counts, rollout = report.outcomes, report.counts, self._config.rollout
        self._num_steps += sum(outcome.episode_length for outcome in outcomes)
        self._round_sec += report.wall_sec
        group = group_id("train", LEARNED, counts.rounds - 1)
        trend = self._trend.add(report.mean_accuracy, batch_idx=counts.rounds, episodes_completed=counts.episodes)
        payload = TolariaBatchPayload(
            episodes_completed=counts.episodes,
            batch_idx=counts.rounds,
            avg_accuracy=report.mean_accuracy,
            avg_reward=statistics.fmean(outcome.episode_reward for outcome in outcomes),
            total_episodes=rollout.num_envs * rollout.rounds,
            n_envs=rollout.num_envs,
            rolling_accuracy=self._trend.rolling_accuracy,
            env_accuracies=tuple(outcome.final_accuracy for outcome in outcomes),
            start_episode=counts.episodes - len(outcomes),
            requested_episodes=rollout.num_envs,
            num_pareto=len(pareto_front(outcomes)),
            hypervolume=hypervolume(outcomes, min_accuracy=0.0),
            rollback_count=sum(outcome.outcome_type == "rolled_back" for outcome in outcomes),
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
        self._tell_findings(report, group)
        if trend is not None:
            self._tell(TelemetryEvent(*trend, group_id=group))
        self._gauges.beat(env_steps=counts.env_steps)

    def finished(self, counts: Counts, stop_reason: str, checkpoint: str | None, num_events_dropped: int | None = None) -> None:
        """The run ends; so many events of all parts were given up, or None if nobody has asked them."""
        payload = RunFinishedPayload(
            episodes=counts.episodes,
            env_steps=counts.env_steps,
            wall_sec=time.perf_counter() - self._started,
            env_steps_per_sec=self._num_steps / self._round_sec if self._round_sec else None,
            stop_reason=stop_reason,
            checkpoint_path=checkpoint,
            num_events_dropped=num_events_dropped,
            num_parts_lost=self._num_faults[TelemetryEventType.PART_LOST],
            num_parts_recovered=self._num_faults[TelemetryEventType.PART_RECOVERED],
        )
        self._gauges.close()
        self._tell(TelemetryEvent(TelemetryEventType.RUN_FINISHED, payload))

    def _tell_findings(self, report: RoundReport, group: str) -> None:
        """Whatever is out of bounds in a round and its update."""
        counts, rollout = report.counts, self._config.rollout
        total = rollout.num_envs * rollout.rounds
        for anomaly in self._updates.look(report.update):
            payload = anomaly_payload(anomaly, batch=counts.rounds, episode=counts.episodes, total_episodes=total)
            self._tell(TelemetryEvent(anomaly.event_type, payload, group_id=group, severity=anomaly.severity))
        for rejected in rejections(report.update):
            self._tell(TelemetryEvent(TelemetryEventType.POLICY_UPDATE_REJECTED, rejected, group_id=group, severity="error"))
        drop = self._performance.add(report.outcomes, progress=counts.rounds / rollout.rounds)
        if drop is not None:
            self._tell(TelemetryEvent(TelemetryEventType.PERFORMANCE_DEGRADATION, drop, group_id=group, severity="warning"))

    def _tell(self, event: TelemetryEvent) -> None:
        self._emitter.emit(event)
        self._show(event)

    def _show(self, event: TelemetryEvent) -> None:
        if self._console is None:
            return
        num_dropped = self._emitter.stats().dropped_events
        identity = BatchId("driver", 0, self._num_shown + 1, self._num_shown, event.event_type.name, num_dropped)
        self._num_shown += 1
        self._console.write([stamp(record_batch([event]), identity)])


def _entropy_anneal(ppo: PPOConfig) -> dict[str, float] | None:
    """From which weight to which the entropy bonus moves, and in how many updates; None if it stays."""
    if not ppo.anneal_updates:
        return None
    return {"start": ppo.entropy_coef, "end": ppo.entropy_coef_final, "updates": float(ppo.anneal_updates)}


def config_digest(config: RunConfig) -> str:
    """Hash of everything a run depends on."""
    return hashlib.sha256(json.dumps(dump(config), sort_keys=True).encode()).hexdigest()
