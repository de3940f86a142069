from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest

from esper.cli.main import main
from esper.distributed import shared_disk
from esper.distributed.build import make_env_worker
from esper.distributed.executor import ClusterError
from esper.distributed.facts import examine
from esper.distributed.run_dir import RunDir
from esper.distributed.shared_disk import SharedFolder
from tests.conftest import ListEmitter
from tests.distributed.runs import TINY, tiny_config

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_disk, "PATIENCE_SEC", 0.1)


def test_who_sees_the_folder_finds_the_token_until_it_is_removed(tmp_path: Path) -> None:
    folder = SharedFolder.mark(RunDir(tmp_path), "life-1")
    sent: SharedFolder = pickle.loads(pickle.dumps(folder))
    sent.require("learner")
    folder.unmark()
    assert not any(tmp_path.iterdir())
    with pytest.raises(ClusterError):
        sent.require("learner")


@pytest.mark.parametrize("found", [None, "life-0"])
def test_who_sees_another_folder_of_the_same_name_says_so(tmp_path: Path, found: str | None) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    folder = SharedFolder.mark(RunDir(tmp_path / "here"), "life-1")
    there = replace(folder, paths=RunDir(tmp_path / "there"))
    if found is not None:
        there.paths.token.write_text(found)
    with pytest.raises(ClusterError, match=r"the learner on .* does not see the run's folder .*storage that all nodes share"):
        there.require("learner")


def test_environments_that_do_not_see_the_folder_say_so_before_they_play(tmp_path: Path) -> None:
    folder = SharedFolder.mark(RunDir(tmp_path), "life-1")
    config = tiny_config()
    worker = make_env_worker(config, examine(config), cast("Any", ListEmitter()), require_folder=partial(folder.require, "part env-0"))
    assert worker.ready() == "cpu"
    folder.unmark()
    with pytest.raises(ClusterError, match=r"the part env-0 on .* does not see the run's folder"):
        worker.ready()


@pytest.mark.ray
def test_a_run_whose_parts_do_not_see_its_folder_is_refused_before_anything_is_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(SharedFolder, "mark", classmethod(lambda cls, paths, token: cls(paths, token, "driver-host")))
    shares = ("cluster.env_cpus=0.25", "cluster.learner_cpus=0.25", "cluster.sink_cpus=0.25")
    root = tmp_path / "run"
    assert main(["train", "--run-dir", str(root), *TINY, *shares, "telemetry.console=rounds"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert any("esper: the telemetry sink on" in line and "driver on driver-host" in line for line in lines)
    assert not any("begins round" in line for line in lines)
    assert not root.exists()
