from __future__ import annotations

import json
import platform
import shutil
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest
import ray
import torch
import yaml

from esper.cli import commands
from esper.cli.exit_codes import INTERRUPTED
from esper.cli.main import main
from esper.cli.settings import describe
from esper.distributed.config import RunConfig
from esper.distributed.run_dir import Owner
from esper.distributed.session import evaluate_run
from esper.leyline.layer_ops import BlueprintError
from esper.leyline.load import ConfigError, dump
from esper.tolaria.trial import TrialBatch
from tests.distributed.runs import TINY, tiny_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of one round."""
    root = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "--local", "--run-dir", str(root), *TINY, "rollout.rounds=1"]) == 0
    return root


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of that run, to be damaged."""
    return shutil.copytree(finished, tmp_path / "run")


def complaint(capsys: Captured, arguments: Sequence[str]) -> str:
    """The one line that a refused command prints."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("esper: ")
    assert not ray.is_initialized()
    return lines[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["ppo.learning_rat=0.1"], "did you mean 'ppo.learning_rate'"),
        (["rollot.rounds=1"], "did you mean 'rollout'"),
        (["rollout.rounds=many"], "rollout.rounds='many' should be a whole number"),
        (["rollout.rounds=-1"], "rollout.rounds=-1 should be at least 1"),
        (["rollout.num_envs=5", "rollout.envs_per_actor=2"], "rollout.num_envs=5 should be a multiple"),
        (["task.preset=smok"], "task.preset='smok' is unknown; known: smoke"),
        (["task.preset=cifar10", "task.data_dir=/nowhere/at/all"], "/nowhere/at/all"),
        (["evaluation.baselines=[randomly]"], "'randomly' is not one of 'random'"),
        (["--slots", "r9c9", "task.preset=smoke"], "r9c9"),
        (["--seed", "-1"], "seed=-1 should be at least 0"),
        (["ppo.learning_rate"], "not of the form key=value"),
        (["policy.device=tpu"], "policy.device='tpu' should be cpu or cuda"),
        (["engine.cuda_graphs=true"], "engine.cuda_graphs=true: hosts are trained on cpu; set cluster.env_gpus"),
        (
            ["engine.cuda_graphs=true", "engine.kind=sequential", "cluster.env_gpus=0.5"],
            "engine.cuda_graphs=true has no effect with engine.kind=sequential",
        ),
        (["evaluation.contexts=[where/nothing@1]"], "evaluation.contexts: where/nothing@1 not in split 'eval'; it has"),
        (["checkpoint.uri=copies"], "checkpoint.uri='copies' should be an absolute path"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(settings: list[str], message: str, tmp_path: Path, capsys: Captured) -> None:
    root = tmp_path / "run"
    assert message in complaint(capsys, ["train", "--run-dir", str(root), *settings])
    assert not root.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("role", ["env", "learner"])
def test_a_gpu_that_is_not_there_is_one_clear_line(role: str, tmp_path: Path, capsys: Captured) -> None:
    arguments = ["train", "--local", "--run-dir", str(tmp_path / "run"), *TINY, f"cluster.{role}_gpus=1"]
    assert f"cluster.{role}_gpus asks for a GPU, and this process sees none" in complaint(capsys, arguments)
    assert not (tmp_path / "run").exists()


def test_a_typo_in_a_file_is_one_clear_line(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("rollout: {round: 3}\n")
    assert "did you mean 'rollout.rounds'" in complaint(capsys, ["train", "--config", str(file)])


def test_a_missing_file_is_one_clear_line(tmp_path: Path, capsys: Captured) -> None:
    assert "absent.yaml: No such file" in complaint(capsys, ["train", "--config", str(tmp_path / "absent.yaml")])


def test_an_unusable_folder_is_one_clear_line(finished: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").touch()
    for root, message in (
        (finished, "holds a run already"),
        (tmp_path / "foreign", "not empty"),
        (tmp_path / "file", "cannot be written"),
        (tmp_path / "file" / "run", "cannot be written"),
    ):
        assert message in complaint(capsys, ["train", "--run-dir", str(root), *TINY])


@pytest.mark.parametrize("command", ["resume", "eval"])
def test_a_folder_without_run_is_one_clear_line(command: str, tmp_path: Path, capsys: Captured) -> None:
    assert "holds no run" in complaint(capsys, [command, str(tmp_path)])
    assert "holds no run" in complaint(capsys, [command, str(tmp_path / "absent")])


def test_a_run_without_checkpoint_cannot_be_evaluated(copied: Path, capsys: Captured) -> None:
    shutil.rmtree(copied / "checkpoints" / "round-00001")
    assert "no checkpoint" in complaint(capsys, ["eval", str(copied), "--local", "--seeds", "1"])


@pytest.mark.parametrize("command", [["resume"], ["eval", "--seeds", "1"]])
def test_a_damaged_checkpoint_is_one_clear_line(command: list[str], copied: Path, capsys: Captured) -> None:
    file = copied / "checkpoints" / "round-00001" / "learner.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert "learner.safetensors: missing or altered" in complaint(capsys, [*command, "--local", str(copied)])


def test_a_checkpoint_of_another_policy_is_one_clear_line(copied: Path, capsys: Captured) -> None:
    config = yaml.safe_load((copied / "config.yaml").read_text())
    config["policy"]["hidden_dim"] = 8
    (copied / "config.yaml").write_text(yaml.safe_dump(config))
    assert "does not fit this configuration" in complaint(capsys, ["resume", "--local", str(copied)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--baselines", "wait,lazy", "--seeds", "1"], "'lazy' is not one of"),
        (["--seeds", "0"], "plays no episode"),
        (["--seeds", "1", "--json", "/nowhere/at/all.json"], "/nowhere/at does not exist"),
    ],
)
def test_a_wrong_evaluation_is_one_clear_line(options: list[str], message: str, finished: Path, capsys: Captured) -> None:
    assert message in complaint(capsys, ["eval", "--local", str(finished), *options])


def test_a_run_that_another_process_writes_is_left_alone(copied: Path, capsys: Captured) -> None:
    with subprocess.Popen(["sleep", "600"]) as owner:
        (copied / ".owner").write_text(Owner(platform.node(), owner.pid).to_text())
        assert f"being written by process {owner.pid}" in complaint(capsys, ["resume", "--local", str(copied)])
        owner.kill()


def test_a_blueprint_that_fails_everybody_is_told_without_a_traceback(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        error = BlueprintError("norm", "r0c0", "running on values [3, 6, 8] of as many members", "ValueError('bad')")
        error.add_note("in env 2, episode 0 (digits8/atten), after epoch 1")
        raise error

    monkeypatch.setattr(TrialBatch, "step", fail)
    assert main(["train", "--local", "--run-dir", str(tmp_path / "run"), *TINY, "rollout.rounds=1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "esper: blueprint 'norm' in slot r0c0 failed while running on values [3, 6, 8] of as many members: ValueError('bad')" in lines
    assert "in env 2, episode 0 (digits8/atten), after epoch 1" in lines
    assert not any("Traceback" in line for line in lines)


def test_settings_may_stand_between_options(tmp_path: Path, capsys: Captured) -> None:
    assert main(["train", "task.preset=smoke", "--local", "rollout.rounds=2", "--seed", "4", "ppo.epochs=3", "--print-config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["seed"], printed["rollout"]["rounds"], printed["ppo"]["epochs"], printed["task"]["preset"]) == (4, 2, 3, "smoke")


@pytest.mark.parametrize("arguments", [["train", "--lokal"], ["resume", "run", "seed=3"], ["fly"], []])
def test_unknown_arguments_are_refused(arguments: list[str], capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "esper" in capsys.readouterr().err


def test_a_printed_configuration_is_read_back_as_the_same(tmp_path: Path, capsys: Captured) -> None:
    assert main(["train", "--print-config", "--slots", "r0c0", *TINY]) == 0
    printed = capsys.readouterr().out
    file = tmp_path / "run.yaml"
    file.write_text(printed)
    assert main(["train", "--print-config", "--config", str(file)]) == 0
    assert capsys.readouterr().out == printed
    assert yaml.safe_load(printed) == dump(tiny_config("growth.slots=[r0c0]"))


def test_help_lists_every_setting_with_default_and_unit(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out

    def keys(values: dict[str, object], prefix: str = "") -> list[str]:
        return [key for name, v in values.items() for key in (keys(v, f"{prefix}{name}.") if isinstance(v, dict) else [prefix + name])]

    every = keys(dump(RunConfig()))
    assert len(every) > 100
    assert [key for key in every if f"  {key} = " not in text] == []
    assert "cluster.call_timeout_sec = 600.0 s" in text
    assert text.count("\n") > 2 * len(every)
    assert describe(RunConfig) in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train"], "stopped before the run began"),
        (["resume", "runs/x"], "stopped before the run went on"),
        (["submit", "status"], "`esper submit status` tells whether"),
        (["query", "runs/x"], "esper: stopped\n"),
        (["report", "runs/x"], "esper: stopped\n"),
    ],
)
def test_ctrl_c_says_what_it_means_for_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, arguments: list[str], told: str
) -> None:
    def interrupt(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "run", interrupt)
    assert main(arguments) == INTERRUPTED
    assert told in capsys.readouterr().err


def test_doctor_works_without_optional_data(tmp_path: Path, capsys: Captured) -> None:
    assert main(["doctor", "--data-dir", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = {line.split()[2]: line[:2] for line in lines if line[4:].startswith("data ")}
    assert found["smoke"] == "ok"
    assert found["cifar10"] == "--"
    assert not any(line.startswith("!!") for line in lines)


def test_an_evaluation_is_printed_written_and_leaves_the_runs_telemetry_alone(finished: Path, tmp_path: Path, capsys: Captured) -> None:
    before = (finished / "telemetry.duckdb").read_bytes()
    target = tmp_path / "comparison.json"
    arguments = ["eval", str(finished), "--local", "--seeds", "1", "--baselines", "wait,random", "--json", str(target)]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    comparison = json.loads(target.read_text())
    assert {summary["policy"] for summary in comparison["summaries"]} == {"learned", "wait", "random"}
    assert {pair["baseline"] for pair in comparison["differences"]} == {"wait", "random"}
    assert {len(outcomes) for outcomes in comparison["outcomes"].values()} == {2}
    assert all(outcome["germinate_count"] == 0 for outcome in comparison["outcomes"]["wait"])
    assert "learned − wait" in shown
    assert str(target) in shown
    assert (finished / "telemetry.duckdb").read_bytes() == before
    assert main(arguments) == 0
    assert json.loads(target.read_text()) == comparison


def test_a_policy_plays_alike_whichever_engine_trains_the_hosts(finished: Path, tmp_path: Path) -> None:
    played = {}
    for engine in ("sequential", "population"):
        target = tmp_path / f"{engine}.json"
        arguments = ["eval", str(finished), "--local", "--seeds", "2", "--baselines", "wait", "--engine", engine, "--json", str(target)]
        assert main(arguments) == 0
        played[engine] = [outcome["utility"] for outcome in json.loads(target.read_text())["outcomes"]["learned"]]
    np.testing.assert_allclose(played["population"], played["sequential"], atol=3.0)
    with pytest.raises(ConfigError, match=r"engine\.kind='none'"):
        evaluate_run(finished, {"engine": {"kind": "none"}}, checkpoint="latest", local=True)


def test_another_host_seed_draws_other_hosts(finished: Path, tmp_path: Path) -> None:
    waited = []
    for seed in ("7", "7", "8"):
        target = tmp_path / "comparison.json"
        arguments = ["eval", str(finished), "--local", "--seeds", "1", "--baselines", "wait", "--host-seed", seed, "--json", str(target)]
        assert main(arguments) == 0
        waited.append([outcome["final_accuracy"] for outcome in json.loads(target.read_text())["outcomes"]["wait"]])
    assert waited[0] == waited[1] != waited[2]


def test_the_best_checkpoint_can_be_evaluated(finished: Path) -> None:
    assert main(["eval", str(finished), "--local", "--seeds", "1", "--baselines", "wait", "--checkpoint", "best"]) == 0


def test_old_event_names_are_asked_for_by_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    for flags, wanted in (([], "false"), (["--legacy-events"], "true")):
        assert main(["train", "task.preset=smoke", *flags, "--print-config"]) == 0
        assert f"legacy_events: {wanted}" in capsys.readouterr().out
