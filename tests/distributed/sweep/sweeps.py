"""Sweeps of a few seconds a trial."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from esper.distributed.sweep.config import Sweep, read_sweep
from esper.leyline.load import merge

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS, NUM_ENVS, EPOCHS = 2, 2, 4
TINY: dict[str, Any] = {
    "run": {
        "task": {
            "preset": "smoke",
            "contexts": ["digits8/blind0@0.75", "digits8/atten@0.75"],
            "num_train": 64,
            "num_val": 32,
            "num_test": 32,
            "max_epochs": EPOCHS,
        },
        "policy": {"hidden_dim": 16, "activation_dim": 8, "attention_dim": 16, "num_heads": 2, "dropout": 0.0},
        "ppo": {"epochs": 2},
        "rollout": {"rounds": ROUNDS, "num_envs": NUM_ENVS, "envs_per_actor": NUM_ENVS},
        "evaluation": {"seeds_per_context": 1},
        "cluster": {"env_cpus": 0.5},
    },
    "space": {"ppo.learning_rate": {"loguniform": [0.0005, 0.05]}, "ppo.epochs": {"randint": [1, 3]}},
    "num_trials": 3,
    "recent_rounds": 2,
}


def write_tiny(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """A sweep file in `folder`."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(merge(TINY, changes or {})))
    return path


def tiny_sweep(folder: Path, changes: dict[str, Any] | None = None) -> Sweep:
    """The same, read and checked."""
    return read_sweep(write_tiny(folder, changes))
