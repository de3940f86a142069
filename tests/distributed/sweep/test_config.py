from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from esper.cli.main import main
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
    assert read_sweep(stored) == sweep
    assert sweep.name == "tiny"


def test_the_command_line_adds_replaces_and_leaves_out_parameters(tmp_path: Path) -> None:
    path = write_tiny(tmp_path)
    ranges = ["space.ppo.learning_rate={uniform: [0.001, 0.01]}", "space.ppo.epochs=null", "space.ppo.gamma.uniform=[0.9, 1.0]"]
    changed = read_sweep(path, [*ranges, "space={seed: {choice: [0, 1]}}"]).space
    assert [(p.key, p.kind) for p in changed.parameters] == [
        ("ppo.learning_rate", "uniform"),
        ("ppo.gamma", "uniform"),
        ("seed", "choice"),
    ]
    conditions = [
        "space.reward.mode={choice: [utility, shaped]}",
        "space.reward.pbrs_weight={uniform: [0, 1], when: {reward.mode: shaped}}",
    ]
    assert read_sweep(path, conditions).space.parameters[-1].when == (("reward.mode", ("shaped",)),)


def test_the_help_says_how_the_command_line_changes_a_space(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["sweep", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "'space.ppo.gamma={uniform: [0.9, 1.0]}' adds a parameter" in printed
    assert "space.ppo.gamma=null leaves it out" in printed
    assert "scheduler.kind = none" in printed


def test_a_file_may_nest_its_parameters_by_sections(tmp_path: Path) -> None:
    plain = tiny_sweep(tmp_path)
    path = write_tiny(tmp_path)
    values = yaml.safe_load(path.read_text())
    values["space"] = {"ppo": {key.removeprefix("ppo."): spec for key, spec in values["space"].items()}}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    assert set(read_sweep(path).space.parameters) == set(plain.space.parameters)


def test_the_number_of_environments_may_vary_where_a_trial_is_one_process(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"space": {"rollout.num_envs": {"choice": [2, 4]}}}
    assert tiny_sweep(tmp_path, changes).space.keys[-1] == "rollout.num_envs"
    with pytest.raises(ConfigError, match=r"space\.rollout\.num_envs cannot vary with local=false: .* set local=true"):
        tiny_sweep(tmp_path, {**changes, "local": False})
    whole = {"space": {"rollout": {"choice": [{"num_envs": 2, "envs_per_actor": 1}, {"num_envs": 2, "envs_per_actor": 2}]}}}
    with pytest.raises(ConfigError, match=r"space\.rollout cannot vary with local=false"):
        tiny_sweep(tmp_path, {**whole, "local": False})


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("cluster.env_cpus", [0.5, 1.0]),
        ("cluster.env_gpus", [0.0, 1.0]),
        ("cluster.address", ["a:6379", "b:6379"]),
        ("checkpoint.uri", ["/tmp/a", "/tmp/b"]),
        ("telemetry.wandb_group", ["a", "b"]),
    ],
)
@pytest.mark.parametrize("local", [True, False])
def test_what_trials_are_played_with_cannot_vary(key: str, options: list[Any], local: bool, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"space": {key: {"choice": options}}, "local": local}
    with pytest.raises(ConfigError, match=f"space.{key} cannot vary: .* give it once, as run.{key}"):
        tiny_sweep(tmp_path, changes)


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
        (["space.ppo.learnig_rate={uniform: [0.1, 0.2]}"], "did you mean 'ppo.learning_rate'?"),
        (["space.ppo.gamma={normal: [0.9, 0.1]}"], "space.ppo.gamma: 'normal' is no distribution"),
        (["space.ppo.gamma=null"], "space.ppo.gamma=null leaves out what does not vary; the file has nothing"),
        (["space.ppo.gamma=0.9"], "space.ppo.gamma=0.9 should name a distribution"),
        (["run.checkpoint.uri=/tmp/copies"], "checkpoint.uri='/tmp/copies' would be shared by all trials"),
        (["base=missing.yaml"], "missing.yaml: No such file or directory"),
    ],
)
def test_a_wrong_sweep_is_refused_before_any_work(overrides: Sequence[str], message: str, tmp_path: Path) -> None:
    path = write_tiny(tmp_path)
    values = yaml.safe_load(path.read_text())
    if any(override.startswith("space") for override in overrides):
        values["space"] = {}
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_sweep(path, overrides)


@pytest.mark.parametrize("key", ["policy.hidden_dim", "rollout.num_envs", "growth.max_fossils", "seed"])
def test_population_based_training_refuses_what_a_checkpoint_cannot_follow(key: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"space": {key: {"choice": [2, 4]}}, "scheduler": {"kind": "pbt", "perturb_rounds": 1}}
    with pytest.raises(ConfigError, match=f"space.{key} cannot vary with scheduler.kind=pbt"):
        tiny_sweep(tmp_path, changes)
