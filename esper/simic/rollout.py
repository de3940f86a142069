"""A round's transitions: collected in any order, assembled in one.

Rows are ordered by environment, episode and step, whatever the order of arrival, so timing never changes an update.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from esper.leyline.graph import GraphBatch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper.leyline.rollout import DecisionBatch, GroupId, StepBatch

Key = tuple[int, int, int]
"""Group, episode, step."""


class RolloutError(ValueError):
    """A rollout that cannot be assembled; the message names group, episode and step."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """N transitions of whole episodes."""

    observations: GraphBatch
    """N graphs, each before the decision."""
    actions: np.ndarray
    """[N, 8] int64"""
    log_prob: np.ndarray
    """[N] float32 joint log-probability of the action when it was taken."""
    head_log_prob: np.ndarray
    """[N, 8] float32"""
    value: np.ndarray
    """[N] float32 state value in reward units, as estimated when acting."""
    reward: np.ndarray
    """[N] float32 for the step that the action started."""
    done: np.ndarray
    """[N] bool: the episode ended with that step."""
    regression: np.ndarray
    """[N] float32: points below the no-growth forecast after that step."""
    panicked: np.ndarray
    """[N] bool: the governor rolled the trial back in that step."""
    env_id: np.ndarray
    """[N] int64"""
    episode_idx: np.ndarray
    """[N] int64"""
    step: np.ndarray
    """[N] int64"""
    cell: tuple[np.ndarray, np.ndarray]
    """Time [N] and column [N] of each row in the [T, B] grid; one column per episode of one environment."""
    policy_version: int

    def __len__(self) -> int:
        """Number of transitions N."""
        return len(self.reward)

    def to_grid(self, rows: np.ndarray) -> np.ndarray:
        """Spread `rows` [N] over [T, B] float32; cells after a trial's end are NaN."""
        time, column = self.cell
        grid = np.full((int(time.max()) + 1, int(column.max()) + 1), np.nan, dtype=np.float32)
        grid[time, column] = rows
        return grid

    def to_rows(self, grid: np.ndarray) -> np.ndarray:
        """Gather the rows [N] of a [T, B] grid."""
        rows: np.ndarray = grid[self.cell]
        return rows


class RolloutStore:
    """Collects what environments say and what the policy answers.

    store.observe(step_batch)
    store.record(decision)
    rollout = store.assemble()
    store.clear()
    """

    def __init__(self) -> None:
        self._steps: dict[Key, StepBatch] = {}
        self._decisions: dict[Key, DecisionBatch] = {}

    def observe(self, batch: StepBatch) -> None:
        """Keep what K trials said.

        Raises:
            RolloutError: If that step was observed before.
        """
        key = _key(batch.key)
        if key in self._steps:
            raise RolloutError(f"{_name(key)} was observed twice")
        self._steps[key] = batch

    def record(self, decision: DecisionBatch) -> None:
        """Keep what the policy decided.

        Raises:
            RolloutError: If that step was decided before.
        """
        key = _key(decision.key)
        if key in self._decisions:
            raise RolloutError(f"{_name(key)} was decided twice")
        self._decisions[key] = decision

    def discard(self, group: int, episode_idx: int) -> None:
        """Forget an episode that will be played again, because its worker was lost."""
        for table in (self._steps, self._decisions):
            for key in [key for key in table if key[:2] == (group, episode_idx)]:
                del table[key]

    def clear(self) -> None:
        """Forget everything."""
        self._steps.clear()
        self._decisions.clear()

    def assemble(self) -> Rollout:
        """Put all transitions in order.

        Raises:
            RolloutError: If a step is missing or superfluous, an episode has not ended, a number that will be used is not
                finite, an environment appears twice, or decisions stem from different policy versions.
        """
        keys = sorted(self._decisions)
        if not keys:
            raise RolloutError("nothing was recorded")
        self._check_complete(keys)
        versions = {d.policy_version for d in self._decisions.values()}
        if len(versions) > 1:
            raise RolloutError(f"decisions stem from policy versions {sorted(versions)}; one round uses one")
        valid = np.concatenate([self._following(key).valid for key in keys])
        columns = self._columns(keys)
        order = np.lexsort((columns["step"], columns["episode_idx"], columns["env_id"]))
        order = order[valid[order]]
        rows = {name: column[order] for name, column in columns.items()}
        _check_finite(rows)
        return Rollout(
            observations=GraphBatch.concatenate([self._steps[key].observation for key in keys]).select(order),
            cell=_cells(rows),
            policy_version=versions.pop(),
            **rows,
        )

    def _columns(self, keys: list[Key]) -> dict[str, np.ndarray]:
        """Everything that is one array per transition, in the order of `keys`, trials that have ended included."""
        decisions = [self._decisions[key] for key in keys]
        following = [self._following(key) for key in keys]
        sizes = [len(d.value) for d in decisions]
        return {
            "actions": np.concatenate([d.actions for d in decisions]),
            "log_prob": np.concatenate([d.log_prob for d in decisions]),
            "head_log_prob": np.concatenate([d.head_log_prob for d in decisions]),
            "value": np.concatenate([d.value for d in decisions]),
            "reward": np.concatenate([s.reward for s in following]),
            "done": np.concatenate([s.done for s in following]),
            "regression": np.concatenate([s.regression for s in following]),
            "panicked": np.concatenate([s.panicked for s in following]),
            "env_id": np.concatenate([np.asarray(d.key.env_ids, dtype=np.int64) for d in decisions]),
            "episode_idx": np.repeat([key[1] for key in keys], sizes).astype(np.int64),
            "step": np.repeat([key[2] for key in keys], sizes).astype(np.int64),
        }

    def _following(self, key: Key) -> StepBatch:
        return self._steps[(key[0], key[1], key[2] + 1)]

    def _check_complete(self, keys: list[Key]) -> None:
        """Every episode is observed at 0…L, decided at 0…L − 1, and over at L for all its trials."""
        lengths: dict[tuple[int, int], int] = {}
        for group, episode, step in self._steps.keys() | self._decisions.keys():
            lengths[group, episode] = max(lengths.get((group, episode), 0), step)
        for (group, episode), length in sorted(lengths.items()):
            for step in range(length + 1):
                key = (group, episode, step)
                if key not in self._steps:
                    raise RolloutError(f"{_name(key)} was never observed")
                if (key in self._decisions) != (step < length):
                    raise RolloutError(f"{_name(key)} {'was decided, but nothing followed' if step == length else 'was never decided'}")
            last = (group, episode, length)
            if not self._steps[last].done.all():
                raise RolloutError(f"{_name(last)} is the last that was observed, but trials are still running")
        self._check_environments(keys)

    def _check_environments(self, keys: list[Key]) -> None:
        owners: dict[tuple[int, int], int] = {}
        for key in keys:
            decided, observed = self._decisions[key].key.env_ids, self._steps[key].key.env_ids
            if decided != observed:
                raise RolloutError(f"{_name(key)} was observed for environments {observed} and decided for {decided}")
            for env_id in decided:
                if owners.setdefault((env_id, key[1]), key[0]) != key[0]:
                    raise RolloutError(f"environment {env_id} plays episode {key[1]} in groups {owners[env_id, key[1]]} and {key[0]}")


def _cells(rows: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    is_first = np.ones(len(rows["step"]), dtype=bool)
    is_first[1:] = (np.diff(rows["env_id"]) != 0) | (np.diff(rows["episode_idx"]) != 0)
    return rows["step"], np.cumsum(is_first) - 1


def _check_finite(rows: Mapping[str, np.ndarray]) -> None:
    for name in ("reward", "value", "log_prob", "regression"):
        bad = np.flatnonzero(~np.isfinite(rows[name]))
        if len(bad):
            row = bad[0]
            where = ", ".join(f"{key} {rows[key][row]}" for key in ("env_id", "episode_idx", "step"))
            raise RolloutError(f"{name} is {rows[name][row]} at {where}")


def _key(key: GroupId) -> Key:
    return (key.group, key.episode_idx, key.step)


def _name(key: Key) -> str:
    return f"group {key[0]}, episode {key[1]}, step {key[2]}"
