"""The learner as a part: decides for whoever asks, updates between rounds, and alone touches the policy's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from esper.distributed.checkpoint import load_checkpoint, save_checkpoint
from esper.distributed.checkpoint_folder import CheckpointError
from esper.leyline.telemetry import TelemetryEvent, TelemetryEventType
from esper.simic.learner_state import LearnerStateError
from esper.simic.update_report import to_payloads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from esper.distributed.gauges import Gauges
    from esper.leyline.rollout import ActMode, DecisionBatch, StepBatch
    from esper.nissa.emitter import BufferedEmitter, EmitterStats
    from esper.simic.learner import Learner
    from esper.simic.update_report import UpdateReport


class LearnerWorker:
    """Wraps the learner.

    Args:
        learner: Policy and PPO state.
        emitter: Way to telemetry.
        gauges: What the process tells of itself.
        config: The run's configuration, for the checkpoint's manifest.
        digests: Hashes of the registries the policy's inputs and outputs refer to.
        require_folder: Raises if checkpoints written here would not reach the run's folder; None where they must.
    """

    def __init__(
        self,
        learner: Learner,
        emitter: BufferedEmitter,
        gauges: Gauges,
        *,
        config: Mapping[str, Any],
        digests: Mapping[str, str],
        require_folder: Callable[[], None] | None = None,
    ) -> None:
        self._learner = learner
        self._emitter = emitter
        self._gauges = gauges
        self._config = config
        self._digests = digests
        self._require_folder = require_folder

    def ready(self) -> int:
        """Updates so far; answers once the part is built.

        Raises:
            ClusterError: If the run's folder is not to be seen from here.
        """
        if self._require_folder is not None:
            self._require_folder()
        return self._learner.version

    def act(self, step: StepBatch, mode: ActMode) -> DecisionBatch:
        """Decide for one group of trials."""
        self._gauges.beat()
        return self._learner.act(step, mode)

    def update(self, group_id: str, env_steps: int | None = None, num_rollbacks: int | None = None) -> UpdateReport:
        """Learn from the round that was just played.

        Args:
            group_id: The round, for telemetry.
            env_steps: Taken in the run so far, this round included.
            num_rollbacks: Episodes of the round that the governor ended.
        """
        report = self._learner.update()
        for payload in to_payloads(report, env_steps=env_steps, num_rollbacks=num_rollbacks):
            self._emitter.emit(TelemetryEvent(TelemetryEventType.TAMIYO_POLICY_UPDATE, group_id=group_id, data=payload))
        self._gauges.beat(env_steps=env_steps)
        self._gauges.round_finished()
        return report

    def discard(self, group: int, episode_idx: int) -> None:
        """Forget an episode whose worker was lost; it will be played again."""
        self._learner.discard(group, episode_idx)

    def save(self, path: Path, state: Mapping[str, Any]) -> int:
        """Write a checkpoint that also carries the run's `state`; telemetry of what it covers is stored before.

        Returns:
            Number of the learner's last telemetry batch that the checkpoint covers.
        """
        seq = self._emitter.settle()
        save_checkpoint(
            path,
            self._learner.state_tensors(),
            {"learner": self._learner.state_json(), "run": dict(state)},
            config=self._config,
            digests=self._digests,
        )
        return seq

    def telemetry_stats(self) -> EmitterStats:
        """What became of the events of this process, after waiting for the sink."""
        self._emitter.settle()
        return self._emitter.stats()

    def load(self, path: Path) -> dict[str, Any]:
        """Restore the learner from a checkpoint and return the run's state in it.

        Raises:
            CheckpointError: If the checkpoint is damaged, or belongs to other registries or another policy.
        """
        checkpoint = load_checkpoint(path, digests=self._digests)
        try:
            self._learner.load_state(checkpoint.tensors, checkpoint.state["learner"])
        except LearnerStateError as error:
            raise CheckpointError(f"{path} does not fit this configuration: {error}") from error
        return dict(checkpoint.state["run"])

    def close(self) -> None:
        """Ship what telemetry is left."""
        self._gauges.close()
        self._emitter.close(timeout_sec=None)
