"""Messages between environments and learner: flat arrays for one group of K trials in lockstep."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from esper.leyline.graph import GraphBatch


class ActMode(StrEnum):
    """How a learner decides, and whether it learns from what follows."""

    TRAIN = "train"
    """Sample, and keep the transition."""
    SAMPLED = "sampled"
    """Sample as in training, and keep nothing."""
    GREEDY = "greedy"
    """Take each head's most probable choice, and keep nothing."""


@dataclass(frozen=True, slots=True)
class GroupId:
    """Which K trials, and when: the key of all randomness and of the rollout's order."""

    group: int
    env_ids: tuple[int, ...]
    episode_idx: int
    step: int


@dataclass(frozen=True, slots=True)
class StepBatch:
    """What K trials say after a step."""

    key: GroupId
    observation: GraphBatch
    """B = K graphs, before the next decision."""
    reward: np.ndarray
    """[K] float32 for the step just taken; NaN after reset, when no step was taken."""
    done: np.ndarray
    """[K] bool: the episode ended with this step. Ends are terminal: the horizon is part of the observation."""
    valid: np.ndarray
    """[K] bool: was the trial still running before this step? All True after reset."""
    regression: np.ndarray
    """[K] float32: points by which growth has set the trial back against its no-growth forecast; NaN after reset."""
    panicked: np.ndarray
    """[K] bool: the governor rolled the trial back in this step."""


@dataclass(frozen=True, slots=True)
class DecisionBatch:
    """What the policy decided for K trials."""

    key: GroupId
    actions: np.ndarray
    """[K, 8] int64 in the order of `Head`."""
    log_prob: np.ndarray
    """[K] float32: joint log-probability over the heads that matter to the operation."""
    value: np.ndarray
    """[K] float32 state value in reward units."""
    head_log_prob: np.ndarray
    """[K, 8] float32; 0 where the head does not matter."""
    policy_version: int
    op_prob: np.ndarray | None = None
    """[K, 6] float32 probability of every operation, 0 where illegal; None from a policy that does not tell."""
