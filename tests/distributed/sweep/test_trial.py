from __future__ import annotations

import math
import platform
import subprocess
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from esper.distributed.run_dir import Owner, RunDir, RunDirError
from esper.distributed.session import train_run
from esper.distributed.story import RunStory
from esper.distributed.sweep import trial as trial_module
from esper.distributed.sweep.config import read_sweep, write_sweep
from esper.distributed.sweep.layout import SweepDir
from esper.distributed.sweep.search import confirmation_plan, stored_sweep
from esper.distributed.sweep.trial import SweepTrial, trial_config
from esper.karn.queries import learning_curve
from esper.karn.store import Store
from tests.distributed.runs import at_step, weights
from tests.distributed.sweep.sweeps import EPOCHS, NUM_ENVS, ROUNDS, tiny_sweep, write_tiny

if TYPE_CHECKING:
    from pathlib import Path

    from esper.distributed.config import RunConfig

POINT = {"ppo.learning_rate": 0.003, "ppo.epochs": 2}


def config_of(tmp_path: Path, **changes: float) -> RunConfig:
    return trial_config(tiny_sweep(tmp_path), POINT | changes)


def test_the_runs_of_a_sweep_are_one_group_in_weights_and_biases(tmp_path: Path) -> None:
    sweep = tiny_sweep(tmp_path, {"run": {"telemetry": {"wandb": "offline"}}})
    stored = SweepDir(tmp_path / "any-folder")
    stored.root.mkdir()
    write_sweep(sweep, stored.config)
    for one in (sweep, stored_sweep(stored)):
        telemetry = trial_config(one, POINT).telemetry
        assert (telemetry.wandb, telemetry.wandb_group) == ("offline", "tiny")
    named = read_sweep(write_tiny(tmp_path), ["name=widths"])
    assert trial_config(named, POINT).telemetry.wandb_group == "widths"
    assert trial_config(confirmation_plan(named, POINT, 2), POINT).telemetry.wandb_group == "widths-confirm"


def test_a_trial_is_the_run_that_train_would_play(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    trial = SweepTrial(config, tmp_path / "t0", trial_id="t0", recent_rounds=2)
    results = []
    while not trial.is_finished:
        results.append(trial.play())
    quiet = replace(config, evaluation=replace(config.evaluation, seeds_per_context=0))
    assert not train_run(quiet, tmp_path / "run", local=True)
    assert weights(tmp_path / "t0", ROUNDS) == weights(tmp_path / "run", ROUNDS)
    assert [r.rounds for r in results] == [1, 2]
    assert results[-1].env_steps == ROUNDS * NUM_ENVS * EPOCHS
    assert results[1].utility_recent == pytest.approx((results[0].utility + results[1].utility) / 2)
    assert all(math.isfinite(r.utility) and math.isfinite(r.reward) for r in results)
    with Store.open(tmp_path / "t0") as store:
        assert len(learning_curve(store)) > 0
        assert store.rows("SELECT stop_reason FROM runs") == [{"stop_reason": "completed"}]


def test_going_on_from_a_checkpoint_gives_the_same_end(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    whole = SweepTrial(config, tmp_path / "whole", trial_id="whole")
    whole.play()
    whole.save(tmp_path / "saved")
    whole.play()
    broken = SweepTrial(config, tmp_path / "broken", trial_id="broken")
    broken.play()
    broken.save(tmp_path / "halfway")
    broken.close()
    again = SweepTrial(config, tmp_path / "broken", trial_id="broken")
    again.restore(tmp_path / "halfway")
    result = again.play()
    assert again.is_finished
    assert result.copied_from is None
    assert weights(tmp_path / "broken", ROUNDS) == weights(tmp_path / "whole", ROUNDS)


def test_going_on_from_another_trial_takes_its_weights_and_keeps_its_own_settings(tmp_path: Path) -> None:
    donor = SweepTrial(config_of(tmp_path), tmp_path / "donor", trial_id="donor")
    donor.play()
    donor.save(tmp_path / "saved")
    donor.close()
    worse = SweepTrial(config_of(tmp_path, **{"ppo.learning_rate": 0.03}), tmp_path / "worse", trial_id="worse")
    worse.play()
    worse.restore(tmp_path / "saved")
    assert weights(tmp_path / "worse", 1) == weights(tmp_path / "donor", 1)
    result = worse.play()
    assert (result.rounds, result.copied_from) == (2, "donor")
    with Store.open(tmp_path / "worse") as store:
        rates = store.rows("SELECT DISTINCT batch, lr FROM tamiyo_policy_update ORDER BY batch, lr")
    assert rates[-1] == {"batch": 2, "lr": pytest.approx(0.03)}


def test_what_a_trial_played_beyond_its_new_beginning_is_forgotten(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    trial = SweepTrial(config, tmp_path / "t", trial_id="t")
    trial.play()
    trial.save(tmp_path / "saved")
    trial.play()
    again = SweepTrial(config, tmp_path / "t", trial_id="t")
    again.restore(tmp_path / "saved")
    again.close()
    with Store.open(tmp_path / "t") as store:
        assert [row["batch"] for row in store.rows("SELECT DISTINCT batch FROM tamiyo_updates ORDER BY batch")] == [1]
    assert not (RunDir(tmp_path / "t").checkpoints / "round-00002").exists()


def test_a_stopped_trial_leaves_its_telemetry_complete(tmp_path: Path) -> None:
    trial = SweepTrial(config_of(tmp_path), tmp_path / "t", trial_id="t")
    trial.play()
    trial.close()
    trial.close()
    with Store.open(tmp_path / "t") as store:
        assert store.rows("SELECT stop_reason, env_steps FROM runs") == [{"stop_reason": "stopped", "env_steps": NUM_ENVS * EPOCHS}]


def test_a_finished_trial_is_evaluated_on_unseen_hosts_if_asked(tmp_path: Path) -> None:
    trial = SweepTrial(config_of(tmp_path), tmp_path / "t", trial_id="t", evaluates=True)
    first, last = trial.play(), trial.play()
    assert first.evaluation_utility is None
    assert last.evaluation_utility is not None
    assert math.isfinite(last.evaluation_utility)


def test_a_trial_waits_for_the_process_that_played_it_before_and_for_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = SweepTrial(config_of(tmp_path), tmp_path / "t", trial_id="t")
    trial.play()
    trial.save(tmp_path / "saved")
    trial.close()
    lock = RunDir(tmp_path / "t").lock
    before = subprocess.Popen(["sleep", "600"])
    lock.write_text(Owner(platform.node(), before.pid).to_text())
    num_waits = 0

    def wait(_: float) -> None:
        nonlocal num_waits
        num_waits += 1
        before.kill()
        before.wait()

    monkeypatch.setattr(trial_module, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=wait))
    again = SweepTrial(config_of(tmp_path), tmp_path / "t", trial_id="t")
    again.restore(tmp_path / "saved")
    again.close()
    assert num_waits == 1
    (tmp_path / "file").touch()
    with pytest.raises(RunDirError, match="cannot be written"):
        SweepTrial(config_of(tmp_path), tmp_path / "file" / "t", trial_id="t").play()
    assert num_waits == 1


def test_a_trial_that_cannot_tell_its_end_lets_go_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = SweepTrial(config_of(tmp_path), tmp_path / "t", trial_id="t")
    trial.play()

    def refuse(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(RunStory, "finished", refuse)
    assert RunDir(tmp_path / "t").lock.exists()
    with pytest.raises(OSError, match="disk full"):
        trial.close()
    assert not RunDir(tmp_path / "t").lock.exists()


def test_a_trial_that_failed_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = SweepTrial(config_of(tmp_path), tmp_path / "t", trial_id="t")

    def fail() -> None:
        raise OSError("no such data")

    at_step(monkeypatch, 2, fail)
    with pytest.raises(OSError, match="no such data"):
        trial.play()
    trial.close()
    with Store.open(tmp_path / "t") as store:
        assert store.rows("SELECT stop_reason FROM runs") == [{"stop_reason": "failed"}]
