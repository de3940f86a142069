from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.distributed.config import read_run_config
from esper.distributed.submit import (
    RUN_DIR_KEY,
    SubmitOptions,
    assignments,
    check,
    entrypoint,
    env_vars,
    interpreter,
    make_request,
    next_attempt,
    run_name,
)
from esper.leyline.load import ConfigError, dump, parse_overrides


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def options(project: Path, *overrides: str, run_dir: str = "/shared/runs/first", config: Path | None = None) -> SubmitOptions:
    return SubmitOptions(Path(run_dir), project, config=config, settings=overrides)


@pytest.mark.parametrize(
    ("overrides", "run_dir", "message"),
    [
        ((), "runs/first", "--run-dir runs/first should be absolute"),
        (("ppo.learning_rat=0.1",), "/r/first", "did you mean 'ppo.learning_rate'"),
        (("rollout.rounds=0",), "/r/first", "rollout.rounds=0 should be at least 1"),
        (("cluster.address=ray://head:10001",), "/r/first", "a job always joins the cluster that runs it"),
    ],
)
def test_what_is_wrong_shows_before_anybody_is_asked(overrides: tuple[str, ...], run_dir: str, message: str, project: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        check(options(project, *overrides, run_dir=run_dir))
    assert message in str(caught.value)


def test_a_project_must_exist_and_not_be_the_runs_own_folder(project: Path) -> None:
    with pytest.raises(ConfigError, match=r"--project .*absent should be a folder"):
        check(options(project / "absent"))
    with pytest.raises(ConfigError, match="is the project that is uploaded"):
        check(options(project, run_dir=str(project)))
    check(options(project))


def test_the_command_carries_the_file_and_the_overrides_and_means_the_same_on_the_cluster(project: Path) -> None:
    file = project / "run.yaml"
    file.write_text("ppo: {learning_rate: 1.0e-05}\nrollout: {rounds: 7}\nevaluation: {contexts: [], baselines: [random, wait]}\n")
    asked = options(project, "rollout.rounds=9", "cluster.address=null", config=file)
    words = shlex.split(entrypoint(asked, "/opt/python 3"))
    assert words[:7] == ["exec", "/opt/python 3", "-m", "esper.cli.main", "train", "--continue", "--run-dir"]
    assert words[7] == "/shared/runs/first"
    assert read_run_config(None, words[8:]) == read_run_config(file, asked.settings)


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from("abc"),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=4,
        )
        | st.dictionaries(st.sampled_from("xyz"), st.integers() | st.text(max_size=5), min_size=1),
    )
)
def test_assignments_read_back_to_the_same_settings(values: dict[str, object]) -> None:
    assert parse_overrides(assignments(values)) == values


def test_every_default_survives_being_spelt_out() -> None:
    config = read_run_config(None)
    assert read_run_config(None, assignments(dump(config))) == config


def test_weights_and_biases_settings_go_along_and_its_key_only_when_named() -> None:
    environ = {"WANDB_MODE": "offline", "WANDB_API_KEY": "secret", "HOME": "/root", "DATA": "/d"}
    assert env_vars([], environ) == {"WANDB_MODE": "offline"}
    assert env_vars(["WANDB_API_KEY", "DATA", "A=b=c"], environ) == {
        "WANDB_MODE": "offline",
        "WANDB_API_KEY": "secret",
        "DATA": "/d",
        "A": "b=c",
    }
    with pytest.raises(ConfigError, match="--env ABSENT: it is not set here"):
        env_vars(["ABSENT"], environ)
    with pytest.raises(ConfigError, match="--env =x: expected KEY=VALUE"):
        env_vars(["=x"], environ)


def test_the_project_is_the_working_folder_and_its_own_ignore_file_comes_first(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    request = make_request(options(project), python="python", earlier=["esper-first-1", "esper-first-3", "esper-other-9", "raysubmit_x"])
    assert request.submission_id == "esper-first-4"
    assert request.metadata == {RUN_DIR_KEY: "/shared/runs/first"}
    assert request.runtime_env["working_dir"] == str(project)
    assert "runs/" in request.runtime_env["excludes"]
    assert any("WANDB_API_KEY is set here and not sent" in note for note in request.notes)
    (project / ".rayignore").write_text("scratch/\n")
    again = make_request(options(project), python="python", earlier=[])
    assert "excludes" not in again.runtime_env
    assert again.submission_id == "esper-first-1"


@pytest.mark.parametrize(
    ("folder", "name"), [("/r/first", "first"), ("/r/my run (2)", "my-run-2"), ("/r/été", "t"), ("/r/a.b_c-1", "a.b_c-1"), ("/", "run")]
)
def test_a_runs_name_fits_into_a_submission_id(folder: str, name: str) -> None:
    assert run_name(Path(folder)) == name


def test_attempts_are_counted_by_run() -> None:
    assert next_attempt("a", []) == 1
    assert next_attempt("a", ["esper-a-1", "esper-a-b-7", "esper-a-10"]) == 11
    assert next_attempt("a.b", ["esper-axb-4"]) == 1


def test_the_interpreter_is_this_one_only_where_the_cluster_is_here() -> None:
    assert interpreter(None, executable="/venv/bin/python", is_same_machine=True) == "/venv/bin/python"
    assert interpreter(None, executable="/venv/bin/python", is_same_machine=False) == "python"
    assert interpreter("/usr/bin/python3", executable="/venv/bin/python", is_same_machine=True) == "/usr/bin/python3"
