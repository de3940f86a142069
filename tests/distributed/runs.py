"""Whole runs of a few seconds, and what they left behind in a form that can be compared."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from esper.distributed.config import RunConfig, read_run_config
from esper.distributed.env_worker import EnvWorker
from esper.karn.store import Store
from esper.leyline.telemetry import TelemetryEventType
from esper.leyline.telemetry.schema import table_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from esper.leyline.rollout import DecisionBatch, StepBatch

ROUNDS, NUM_ENVS, ENVS_PER_ACTOR, EPOCHS = 3, 4, 2, 5
STEPS_PER_ROUND = EPOCHS * NUM_ENVS // ENVS_PER_ACTOR
"""Calls of `EnvWorker.step` in a round."""
TINY = (
    "task.preset=smoke",
    "task.contexts=[digits8/blind0@0.75,digits8/atten@0.75]",
    "task.num_train=64",
    "task.num_val=32",
    "task.num_test=32",
    f"task.max_epochs={EPOCHS}",
    f"rollout.rounds={ROUNDS}",
    f"rollout.num_envs={NUM_ENVS}",
    f"rollout.envs_per_actor={ENVS_PER_ACTOR}",
    "policy.hidden_dim=16",
    "policy.activation_dim=8",
    "policy.attention_dim=16",
    "policy.num_heads=2",
    "policy.dropout=0",
    "ppo.epochs=2",
    "telemetry.console=off",
    "evaluation.seeds_per_context=0",
)


@dataclass(frozen=True)
class Trace:
    """What a run decided, earned and learned."""

    decisions: list[dict[str, Any]]
    outcomes: list[dict[str, Any]]
    weights: str


def tiny_config(*overrides: str) -> RunConfig:
    """Three rounds of two actors with two environments each."""
    return read_run_config(None, [*TINY, *overrides])


def trace(root: Path, num_rounds: int = ROUNDS) -> Trace:
    """Everything that must not depend on how, where or in how many pieces the run was played."""
    with Store.open(root) as store:
        decisions = store.rows(
            "SELECT group_id, env_id, inner_epoch, action_name, action_slot, total_reward, value_estimate, action_confidence "
            f"FROM {table_name(TelemetryEventType.REWARD_COMPUTED)} ORDER BY group_id, env_id, inner_epoch"
        )
        outcomes = store.rows(
            "SELECT * EXCLUDE (event_id, given_id, timestamp, producer, incarnation, seq, place) "
            f"FROM {table_name(TelemetryEventType.EPISODE_OUTCOME)} ORDER BY group_id, env_id"
        )
    return Trace(decisions, outcomes, weights(root, num_rounds))


def weights(root: Path, num_rounds: int) -> str:
    """Hash of the learner's tensors after so many rounds."""
    return hashlib.sha256((root / "checkpoints" / f"round-{num_rounds:05d}" / "learner.safetensors").read_bytes()).hexdigest()


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], object]) -> None:
    """Do something before the `number`-th step that any environment part of this process takes, counted from 1."""
    original, calls = EnvWorker.step, iter(range(1, 1 << 30))

    def step(worker: EnvWorker, decision: DecisionBatch) -> StepBatch:
        if next(calls) == number:
            act()
        return original(worker, decision)

    monkeypatch.setattr(EnvWorker, "step", step)
