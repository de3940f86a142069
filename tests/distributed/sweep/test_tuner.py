from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import ray

from esper.cli.main import main
from esper.distributed.facts import examine
from esper.distributed.sweep.tuner import Explorer, OptunaSpace, make_scheduler
from esper.karn.store import Store
from esper.karn.sweeps import SWEEP_FILE, SweepStore
from tests.distributed.sweep.sweeps import EPOCHS, NUM_ENVS, ROUNDS, TINY, tiny_sweep, write_tiny

if TYPE_CHECKING:
    from esper.karn.sweeps import SweepTrialTable

CONDITIONAL = {
    "space": {
        "reward.mode": {"choice": ["utility", "shaped"]},
        "reward.pbrs_weight": {"uniform": [0.0, 0.6], "when": {"reward.mode": "shaped"}},
    }
}
PATIENCE_SEC = 600.0
ASHA = Path(__file__).parents[3] / "configs" / "sweep" / "asha.yaml"


def trials_of(root: Path) -> list[SweepTrialTable]:
    return SweepStore(root / SWEEP_FILE).trials()


def test_optuna_is_asked_for_what_applies_and_repeats_itself(tmp_path: Path) -> None:
    import optuna

    space = OptunaSpace(tiny_sweep(tmp_path, CONDITIONAL).space)

    def ask(seed: int) -> list[dict[str, Any]]:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        return [space(study.ask()) for _ in range(12)]

    points = ask(0)
    assert points == ask(0)
    assert points != ask(1)
    assert all(("point/reward.pbrs_weight" in point) == (point["point/reward.mode"] == "shaped") for point in points)
    assert all(point["point/ppo.epochs"] in {1, 2, 3} for point in points)


def test_exploring_starts_from_the_better_trial_and_stays_a_run(tmp_path: Path) -> None:
    sweep = tiny_sweep(tmp_path, CONDITIONAL)
    explorer = Explorer(sweep)
    config: dict[str, Any] = {"point": {"ppo.learning_rate": 0.01, "ppo.epochs": 2, "reward.mode": "utility"}}
    for _ in range(20):
        config = explorer(config)
        sweep.run_config(config["point"])
    assert config["point"]["ppo.learning_rate"] != 0.01


def test_rungs_are_counted_in_environment_steps(tmp_path: Path) -> None:
    sweep = tiny_sweep(
        tmp_path, {"run": {"rollout": {"rounds": 9}}, "scheduler": {"kind": "asha", "grace_rounds": 2, "reduction_factor": 2}}
    )
    scheduler = make_scheduler(sweep, examine(sweep.base))
    text = scheduler.debug_string()
    per_round = NUM_ENVS * EPOCHS
    for rounds in (2, 4, 8):
        assert f"{0.95 * rounds * per_round:.3f}" in text


def test_a_trial_that_no_machine_can_hold_is_refused_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, root = write_tiny(tmp_path), tmp_path / "sweep"
    assert main(["sweep", str(path), "run.cluster.env_cpus=500", "--sweep-dir", str(root)]) == 2
    printed = capsys.readouterr().err
    assert "a trial asks for 500 CPU" in printed
    assert "(run.cluster.env_cpus)" in printed
    assert not root.exists()
    assert not ray.is_initialized()


@pytest.mark.ray
def test_a_sweep_with_tpe_and_early_stopping_goes_from_file_to_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {"search": "optuna", "max_concurrent": 2, "scheduler": {"kind": "asha", "grace_rounds": 1, "reduction_factor": 2}}
    root = tmp_path / "sweep"
    assert main(["sweep", str(write_tiny(tmp_path, changes)), "--sweep-dir", str(root)]) == 0
    assert not ray.is_initialized()
    trials = trials_of(root)
    assert [trial.record.number for trial in trials] == [0, 1, 2]
    assert {trial.record.status for trial in trials} <= {"completed", "stopped"}
    assert any(trial.record.status == "completed" for trial in trials)
    for trial in trials:
        assert [r.rounds for r in trial.results] == list(range(1, len(trial.results) + 1))
        assert set(trial.parameters) == {"ppo.learning_rate", "ppo.epochs"}
        with Store.open(root / "trials" / trial.record.trial_id) as store:
            told = store.rows("SELECT stop_reason, env_steps FROM runs")
            rates = store.rows("SELECT lr FROM tamiyo_policy_update LIMIT 1")
        assert told == [{"stop_reason": trial.record.status, "env_steps": trial.results[-1].env_steps}]
        assert rates[0]["lr"] == pytest.approx(trial.parameters["ppo.learning_rate"])
    assert (root / "report.html").exists()
    assert (root / "best.yaml").exists()
    assert "best: trial" in capsys.readouterr().out


@pytest.mark.ray
@pytest.mark.slow
def test_the_shipped_sweep_stops_trials_that_are_behind(tmp_path: Path) -> None:
    rounds, root = 4, tmp_path / "sweep"
    run = {**TINY["run"], "rollout": {**TINY["run"]["rollout"], "rounds": rounds}, "evaluation": {"seeds_per_context": 0, "contexts": []}}
    overrides = [f"run.{key}={json.dumps(value)}" for key, value in run.items()]
    overrides += ["num_trials=6", "max_concurrent=1", "scheduler.grace_rounds=1"]
    overrides += ["space.seed={choice: [0, 1, 2, 3, 4, 5]}"]  # so small a task tells seeds apart, and no policy in so few rounds
    assert main(["sweep", str(ASHA), *overrides, "--sweep-dir", str(root)]) == 0
    played = {trial.record.number: (trial.record.status, len(trial.results)) for trial in trials_of(root)}
    assert sorted(played) == list(range(6))
    stopped = [num_rounds for status, num_rounds in played.values() if status == "stopped"]
    assert stopped
    assert all(1 <= num_rounds < rounds for num_rounds in stopped)
    assert ("completed", rounds) in played.values()


@pytest.mark.ray
@pytest.mark.slow
def test_trials_with_actors_of_their_own_play_the_same_as_in_one_process(tmp_path: Path) -> None:
    shares = {"run": {"cluster": {"env_cpus": 0.25, "learner_cpus": 0.25, "sink_cpus": 0.25}, "rollout": {"envs_per_actor": 1}}}
    path = write_tiny(tmp_path, {"num_trials": 2, **shares})
    assert main(["sweep", str(path), "local=false", "--sweep-dir", str(tmp_path / "apart")]) == 0
    assert main(["sweep", str(path), "local=true", "--sweep-dir", str(tmp_path / "together")]) == 0
    apart, together = ([[r.utility for r in t.results] for t in trials_of(tmp_path / name)] for name in ("apart", "together"))
    assert apart == together
    assert all(len(utilities) == ROUNDS for utilities in apart)


@pytest.mark.ray
@pytest.mark.slow
def test_population_based_training_copies_weights_and_changes_settings(tmp_path: Path) -> None:
    changes = {"num_trials": 4, "scheduler": {"kind": "pbt", "perturb_rounds": 1}, "run": {"rollout": {"rounds": 4}}}
    root = tmp_path / "sweep"
    assert main(["sweep", str(write_tiny(tmp_path, changes)), "--sweep-dir", str(root)]) == 0
    trials = {trial.record.trial_id: trial for trial in trials_of(root)}
    assert {trial.record.status for trial in trials.values()} == {"completed"}
    copies = [(trial, r) for trial in trials.values() for r in trial.results if r.copied_from]
    assert copies
    trial, _ = copies[0]
    with Store.open(root / "trials" / trial.record.trial_id) as store:
        last = store.rows("SELECT lr FROM tamiyo_updates ORDER BY batch DESC LIMIT 1")[0]["lr"]
    assert last == pytest.approx(trial.parameters["ppo.learning_rate"])


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_that_was_killed_half_way_is_completed(tmp_path: Path) -> None:
    changes = {"search": "optuna", "max_concurrent": 2, "num_trials": 4, "run": {"rollout": {"rounds": 3}}}
    path, root = (
        write_tiny(tmp_path, {**changes, "scheduler": {"kind": "asha", "grace_rounds": 2, "reduction_factor": 2}}),
        tmp_path / "sweep",
    )
    arguments = [sys.executable, "-m", "esper.cli.main", "sweep", str(path), "--sweep-dir", str(root)]
    process = subprocess.Popen(arguments, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE_SEC
    while not _has_ended_trial(root) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {trial.record.trial_id: trial for trial in trials_of(root) if trial.record.status in ("completed", "stopped")}
    assert 0 < len(before) < 4
    assert main(["sweep", "--resume", str(root)]) == 0
    after = {trial.record.trial_id: trial for trial in trials_of(root)}
    assert sorted(trial.record.number for trial in after.values()) == [0, 1, 2, 3]
    assert {trial.record.status for trial in after.values()} <= {"completed", "stopped"}
    for trial_id, trial in before.items():
        assert [r.utility for r in after[trial_id].results] == [r.utility for r in trial.results]
    assert {folder.name for folder in (root / "trials").iterdir()} == set(after)
    assert main(["sweep", "--resume", str(root)]) == 0


@pytest.mark.ray
@pytest.mark.slow
def test_the_winner_is_confirmed_against_the_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "sweep"
    assert main(["sweep", str(write_tiny(tmp_path, {"num_trials": 2})), "--sweep-dir", str(root)]) == 0
    assert main(["sweep", "report", str(root), "--confirm", "2"]) == 0
    assert "winner − default:" in capsys.readouterr().out
    assert "Confirmation on further seeds" in (root / "report.html").read_text()
    assert len(trials_of(root / "confirm")) == 4
    assert main(["sweep", "report", str(root), "--confirm", "3"]) == 2
    assert "another number of seeds" in capsys.readouterr().err


def _has_ended_trial(root: Path) -> bool:
    if not (root / SWEEP_FILE).exists() or not Path(root / "tune").exists():
        return False
    return any(trial.record.status in ("completed", "stopped") for trial in trials_of(root))
