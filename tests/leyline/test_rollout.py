"""Messages between environments and learner."""

from __future__ import annotations

import pickle

import numpy as np

from esper.leyline.actions import NUM_HEADS
from esper.leyline.rollout import DecisionBatch, GroupId


def test_a_group_id_is_a_key() -> None:
    key = GroupId(group=0, env_ids=(3, 4), episode_idx=1, step=2)
    assert {key: "x"}[GroupId(0, (3, 4), 1, 2)] == "x"
    assert key != GroupId(0, (3, 4), 1, 3)


def test_decisions_travel() -> None:
    zeros = np.zeros(2, dtype=np.float32)
    batch = DecisionBatch(
        key=GroupId(0, (0, 1), 0, 0),
        actions=np.zeros((2, NUM_HEADS), dtype=np.int64),
        log_prob=zeros,
        value=zeros,
        head_log_prob=np.zeros((2, NUM_HEADS), dtype=np.float32),
        policy_version=7,
    )
    copy = pickle.loads(pickle.dumps(batch))
    assert (copy.key, copy.policy_version) == (batch.key, 7)
    np.testing.assert_array_equal(copy.actions, batch.actions)
