from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from esper.distributed.sweep.config import read_sweep, write_sweep
from esper.leyline.load import ConfigError
from tests.distributed.sweep.sweeps import tiny_sweep, write_tiny

if TYPE_CHECKING:
    from collections.abc import Sequence

SHIPPED = sorted((Path(__file__).parents[3] / "configs" / "sweep").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_sweeps_are_right(path: Path) -> None:
    sweep = read_sweep(path)
    assert sweep.name == path.stem
    assert sweep.base.rollout.rounds > sweep.config.scheduler.grace_rounds


def test_three_sweeps_are_shipped() -> None:
    assert {path.stem for path in SHIPPED} == {"smoke", "asha", "pbt"}


def test_points_depend_on_the_seed_alone_and_are_as_many_as_trials(tmp_path: Path) -> None:
    first, again, other = (tiny_sweep(tmp_path, {"seed": seed}).points for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert first is not None
    assert len(first) == 3


def test_a_point_changes_its_settings_and_nothing_else(tmp_path: Path) -> None:
    sweep = tiny_sweep(tmp_path)
    changed = sweep.run_config({"ppo.learning_rate": 0.02})
    assert changed.ppo.learning_rate == 0.02
    assert changed.rollout == sweep.base.rollout
    assert changed.task == sweep.base.task


def test_a_stored_sweep_is_the_same_sweep(tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    base.write_text("rollout: {rounds: 7}\n")
    path = write_tiny(tmp_path, {"base": "base.yaml", "run": {"rollout": {"num_envs": 4}}})
    sweep = read_sweep(path, ["run.ppo.gamma=0.99"])
    assert (sweep.base.rollout.rounds, sweep.base.rollout.num_envs, sweep.base.ppo.gamma) == (2, 4, 0.99)
    stored = tmp_path / "elsewhere" / "sweep.yaml"
    stored.parent.mkdir()
    write_sweep(sweep, stored)
    assert read_sweep(stored, name=sweep.name) == sweep


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["metric=loss"], "metric='loss' is measured in no round; there are utility_recent, utility, accuracy, reward"),
        (["num_trail=3"], "did you mean 'num_trials'?"),
        (["space={ppo.learnig_rate: {uniform: [0.1, 0.2]}}"], "did you mean 'ppo.learning_rate'?"),
        (["space={ppo.clip: {uniform: [0.1, 1.5]}}"], "space.ppo.clip.uniform=[0.1, 1.5]: ppo.clip=1.5 should be below 1.0"),
        (["space={ppo.epochs: {uniform: [1, 4]}}"], "should be a whole number"),
        (["space={reward.mode: {choice: [utility, sparse]}}"], "reward.mode='sparse' is not one of 'utility', 'shaped'"),
        (["space={rollout.num_envs: {randint: [2, 4]}}"], "a point that no run can have"),
        (["space={reward.rent_weight: {uniform: [0.0, 0.1]}}"], "space.reward.rent_weight changes what utility_recent measures"),
        (["space={reward.scale: {uniform: [0.1, 1.0]}}", "metric=reward"], "space.reward.scale changes what reward measures"),
        (["space={task.preset: {choice: [smoke, image-mix]}}", "metric=accuracy"], "give each task a sweep of its own"),
        (["scheduler.kind=hyperband"], "'none', 'asha', 'pbt'"),
        (["scheduler.kind=asha", "scheduler.grace_rounds=2"], "grace_rounds=2 should be below rollout.rounds=2"),
        (["scheduler.kind=pbt", "scheduler.perturb_rounds=2"], "perturb_rounds=2 should be below rollout.rounds=2"),
        (["scheduler.kind=pbt", "scheduler.perturb_rounds=1", "search=optuna"], "search='optuna' cannot go with scheduler.kind=pbt"),
        (["scheduler.kind=pbt", "scheduler.perturb_rounds=1", "num_trials=1"], "num_trials=1 should be 2 or more"),
        (["run.checkpoint.uri=/tmp/copies"], "checkpoint.uri='/tmp/copies' would be shared by all trials"),
        (["base=missing.yaml"], "missing.yaml: No such file or directory"),
    ],
)
def test_a_wrong_sweep_is_refused_before_any_work(overrides: Sequence[str], message: str, tmp_path: Path) -> None:
    path = write_tiny(tmp_path)
    values = yaml.safe_load(path.read_text())
    if any(override.startswith("space=") for override in overrides):
        values["space"] = {}
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_sweep(path, overrides)


@pytest.mark.parametrize("key", ["policy.hidden_dim", "rollout.num_envs", "growth.max_fossils", "seed"])
def test_population_based_training_refuses_what_a_checkpoint_cannot_follow(key: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"space": {key: {"choice": [2, 4]}}, "scheduler": {"kind": "pbt", "perturb_rounds": 1}}
    with pytest.raises(ConfigError, match=f"space.{key} cannot vary with scheduler.kind=pbt"):
        tiny_sweep(tmp_path, changes)
