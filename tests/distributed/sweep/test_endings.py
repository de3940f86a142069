"""Trials that fail, and sweeps that are stopped, moved and continued."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import asdict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from esper.cli.main import main
from esper.distributed.config import read_run_config
from esper.distributed.sweep.layout import SweepDir
from esper.distributed.sweep.recorder import Recorder
from esper.karn.store import Store
from esper.karn.sweeps import RoundResult, SweepStore
from tests.distributed.sweep.sweeps import ROUNDS, tiny_sweep, write_tiny

if TYPE_CHECKING:
    from pathlib import Path

    from esper.karn.sweeps import SweepTrialTable

PATIENCE_SEC = 300.0
ENDED = ("completed", "stopped")
FACTORY = """
import ray
from tests.fakes.users import make_vectors


def make(seed):
    if ray.is_initialized():
        raise OSError("the camera is gone")
    return make_vectors(seed)
"""


def trials_of(root: Path) -> list[SweepTrialTable]:
    database = SweepDir(root).database
    return SweepStore(database).trials() if database.exists() and SweepDir(root).tune.exists() else []


def of_users(script: Path) -> dict[str, Any]:
    """A task that can be looked at before the sweep and not be played in it."""
    script.write_text(FACTORY)
    counts = {"num_train": 32, "num_val": 32, "num_test": 32, "batch_size": 16}
    return {"preset": "custom", "factory": f"{script}:make", "contexts": [], **counts}


def test_an_error_is_read_where_tune_has_it_while_the_sweep_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = SweepStore(tmp_path / "sweep.duckdb")
    store.create()
    noted = tmp_path / "error.txt"
    noted.write_text("Failure # 1\nValueError: the first\nFailure # 2\nTraceback\nOSError: the camera is gone\n")
    stored: list[str | None] = [None]
    trial = SimpleNamespace(
        trial_id="t", config={"point": {"ppo.epochs": 2}}, status="ERROR", error_file=str(noted), get_error=lambda: stored[0]
    )
    recorder = Recorder(tiny_sweep(tmp_path), store.path)
    recorder.on_trial_error(trials=[trial], trial=trial)
    assert "trial 0 failed: OSError: the camera is gone" in capsys.readouterr().out
    assert store.trials()[0].record.error == "OSError: the camera is gone"
    noted.unlink()
    stored[0] = "Failure # 1\nOSError: the disk is full\n"
    recorder.on_experiment_end([trial])
    assert store.trials()[0].record.error == "OSError: the disk is full"


def test_a_trial_that_the_user_interrupts_has_not_ended(tmp_path: Path) -> None:
    store = SweepStore(tmp_path / "sweep.duckdb")
    store.create()
    recorder = Recorder(tiny_sweep(tmp_path), store.path)
    trials = [SimpleNamespace(trial_id=name, config={"point": {"ppo.epochs": 2}}, status="TERMINATED", last_result={}) for name in "abc"]
    for trial in trials:
        recorder.on_trial_start(trials=trials, trial=trial)
    recorder.on_trial_complete(trials=trials, trial=trials[0])
    trials[2].last_result = {**asdict(RoundResult(ROUNDS, 16, 1.0, 1.0, 0.1, 50.0, 0.1, 0.5, 30.0)), "point": {"ppo.epochs": 2}}
    recorder.on_experiment_end(trials)
    assert [trial.record.status for trial in store.trials()] == ["stopped", "running", "completed"]


@pytest.mark.ray
@pytest.mark.slow
def test_why_a_trial_failed_is_told_at_once_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "sweep"
    changes = {"num_trials": 1, "max_failures": 0, "run": {"task": of_users(tmp_path / "camera.py")}}
    assert main(["sweep", str(write_tiny(tmp_path, changes)), "--sweep-dir", str(root)]) == 2
    printed = capsys.readouterr()
    assert "trial 0 failed: OSError: the camera is gone" in printed.out
    assert "all 1 trials failed; the first with: OSError: the camera is gone" in printed.err
    assert [(trial.record.status, trial.record.error) for trial in trials_of(root)] == [("failed", "OSError: the camera is gone")]


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_that_was_stopped_goes_on_and_where_it_was_moved_says_how(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {"max_concurrent": 1, "num_trials": 3, "run": {"rollout": {"rounds": 3}}}
    path, root, moved = write_tiny(tmp_path, changes), tmp_path / "sweep", tmp_path / "elsewhere" / "moved"
    arguments = [sys.executable, "-m", "esper.cli.main", "sweep", str(path), "--sweep-dir", str(root)]
    process = subprocess.Popen(arguments, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + PATIENCE_SEC
    while not any(trial.record.status in ENDED for trial in trials_of(root)) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=PATIENCE_SEC)
    assert process.returncode == 130
    assert f"stopped; continue with: esper sweep --resume {root}" in printed
    assert not SweepDir(root).lock.exists()
    before = {trial.record.trial_id: trial for trial in trials_of(root) if trial.record.status in ENDED}
    assert {trial.record.status for trial in before.values()} == {"completed"}
    assert 0 < len(before) < 3

    moved.parent.mkdir()
    root.rename(moved)
    assert main(["sweep", "--resume", str(moved)]) == 2
    assert f"ln -s {moved} {root}" in capsys.readouterr().err
    root.symlink_to(moved)
    assert main(["sweep", "--resume", str(moved)]) == 0
    after = {trial.record.trial_id: trial for trial in trials_of(moved)}
    assert {trial.record.status for trial in after.values()} == {"completed"}
    assert sorted(trial.record.number for trial in after.values()) == [0, 1, 2]
    for trial_id, trial in after.items():
        assert [played.rounds for played in trial.results] == [1, 2, 3]
        assert trial_id not in before or trial.results == before[trial_id].results
        folder = SweepDir(moved).trial(trial_id)
        assert read_run_config(folder / "config.yaml").telemetry.wandb_group == "tiny"
        with Store.open(folder) as store:
            assert store.rows("SELECT stop_reason FROM runs")[-1] == {"stop_reason": "completed"}
