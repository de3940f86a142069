"""The learner as a part: decides for whoever asks, updates between rounds, and alone touches the policy's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from esper.distributed.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from esper.leyline.telemetry import TelemetryEvent, TelemetryEventType
from esper.simic.learner_state import LearnerStateError
from esper.simic.update_report import to_payloads

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from esper.leyline.rollout import DecisionBatch, StepBatch
    from esper.nissa.emitter import BufferedEmitter
    from esper.simic.learner import Learner
    from esper.simic.update_report import UpdateReport


class LearnerWorker:
    """Wraps the learner.

    Args:
        learner: Policy and PPO state.
        emitter: Way to telemetry.
        config: The run's configuration, for the checkpoint's manifest.
        digests: Hashes of the registries the policy's inputs and outputs refer to.
    """

    def __init__(self, learner: Learner, emitter: BufferedEmitter, *, config: Mapping[str, Any], digests: Mapping[str, str]) -> None:
        self._learner = learner
        self._emitter = emitter
        self._config = config
        self._digests = digests

    def ready(self) -> int:
        """Updates so far; answers once the part is built."""
        return self._learner.version

    def act(self, step: StepBatch, greedy: bool) -> DecisionBatch:
        """Decide for one group of trials."""
        return self._learner.act(step, greedy=greedy)

    def update(self, group_id: str) -> UpdateReport:
        """Learn from the round that was just played."""
        report = self._learner.update()
        for payload in to_payloads(report):
            self._emitter.emit(TelemetryEvent(TelemetryEventType.TAMIYO_POLICY_UPDATE, group_id=group_id, data=payload))
        return report

    def save(self, path: Path, state: Mapping[str, Any]) -> None:
        """Write a checkpoint that also carries the run's `state`; telemetry of what it covers is shipped before."""
        self._emitter.flush()
        save_checkpoint(
            path,
            self._learner.state_tensors(),
            {"learner": self._learner.state_json(), "run": dict(state)},
            config=self._config,
            digests=self._digests,
        )

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
        self._emitter.close(timeout_sec=10.0)
