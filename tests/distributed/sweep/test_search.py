"""Who may play a sweep, and when the folder is free again."""

from __future__ import annotations

import os
import platform
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from esper.distributed.executor import ClusterError
from esper.distributed.run_dir import Owner, RunDirBusyError, RunDirError
from esper.distributed.sweep import tuner
from esper.distributed.sweep.config import write_sweep
from esper.distributed.sweep.layout import SweepDir
from esper.distributed.sweep.search import confirm, resume_sweep, start_sweep
from esper.leyline.load import ConfigError
from tests.distributed.sweep.sweeps import tiny_sweep

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def stranger() -> Iterator[Owner]:
    """Another living process."""
    process = subprocess.Popen(["sleep", "600"])
    yield Owner(platform.node(), process.pid)
    process.kill()
    process.wait()


@pytest.fixture
def stored(tmp_path: Path) -> SweepDir:
    """A sweep that was begun."""
    folder = SweepDir(tmp_path / "sweep")
    folder.root.mkdir()
    write_sweep(tiny_sweep(tmp_path), folder.config)
    return folder


def test_a_sweep_that_another_process_plays_is_left_alone(stored: SweepDir, stranger: Owner) -> None:
    stored.lock.write_text(stranger.to_text())
    trial = stored.trial("ab_00000")
    trial.mkdir(parents=True)
    with pytest.raises(RunDirBusyError, match=f"being written by process {stranger.process}"):
        resume_sweep(stored.root)
    assert trial.is_dir()
    assert stored.lock.read_text() == stranger.to_text()


def test_a_confirmation_is_played_by_one_process_at_a_time(tmp_path: Path, stored: SweepDir, stranger: Owner) -> None:
    stored.confirmation.mkdir()
    SweepDir(stored.confirmation).lock.write_text(stranger.to_text())
    with pytest.raises(RunDirBusyError, match="being written"):
        confirm(stored, tiny_sweep(tmp_path), {}, 2)


def test_a_folder_that_cannot_be_written_is_said_so(stored: SweepDir) -> None:
    stored.lock.mkdir()
    with pytest.raises(RunDirError, match="cannot be written"):
        resume_sweep(stored.root)


@pytest.mark.parametrize("is_new", [True, False])
def test_a_sweep_has_its_folder_while_it_is_played_and_lets_go_of_it(
    is_new: bool, tmp_path: Path, stored: SweepDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners: list[str] = []

    def run_sweep(_sweep: Any, folder: SweepDir, *, resume: bool) -> bool:
        owners.append(folder.lock.read_text())
        assert resume is not is_new
        raise ConfigError("no such preset")

    monkeypatch.setattr(tuner, "run_sweep", run_sweep)
    folder = SweepDir(tmp_path / "new") if is_new else stored
    with pytest.raises(ConfigError, match="no such preset"):
        start_sweep(tiny_sweep(tmp_path), folder.root) if is_new else resume_sweep(folder.root)
    assert owners == [Owner(platform.node(), os.getpid()).to_text()]
    assert not folder.lock.exists()
    assert folder.root.exists() is not is_new


def test_a_refused_sweep_leaves_no_folder_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> bool:
        raise ClusterError("no cluster there")

    monkeypatch.setattr(tuner, "run_sweep", refuse)
    with pytest.raises(ClusterError):
        start_sweep(tiny_sweep(tmp_path), tmp_path / "sweeps" / "first")
    assert not (tmp_path / "sweeps").exists()


def test_a_ray_job_does_not_go_on_with_a_sweep_where_it_would_be_lost(stored: SweepDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(stored.root.parent)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(RunDirError, match=r"--resume .*: inside a Ray job give an absolute path"):
        resume_sweep(stored.root.relative_to(stored.root.parent))
