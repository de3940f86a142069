from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from esper.cli.main import main
from esper.distributed.config import read_run_config
from esper.distributed.sweep.config import Sweep, write_sweep
from esper.distributed.sweep.layout import SweepDir
from esper.distributed.sweep.report import best_trial, confirmation_of, importance_of, read_confirmation, write_report
from esper.distributed.sweep.search import FIRST_SEED, confirmation_plan
from esper.karn.sweeps import RoundResult, SweepStore, TrialRecord
from tests.distributed.sweep.sweeps import tiny_sweep

if TYPE_CHECKING:
    from pathlib import Path


def result(rounds: int, utility: float, evaluation: float | None = None) -> RoundResult:
    return RoundResult(rounds, 8 * rounds, utility, utility, utility / 10.0, 50.0, 0.1, 0.5, 30.0, evaluation)


def recorded(root: Path, outcomes: list[tuple[str, list[float]]], changes: dict[str, Any] | None = None) -> tuple[SweepDir, Sweep]:
    """A sweep of which each trial's status and utilities are given."""
    folder = SweepDir(root / "sweep")
    folder.root.mkdir()
    sweep = tiny_sweep(root, {"num_trials": len(outcomes), **(changes or {})})
    write_sweep(sweep, folder.config)
    store = SweepStore(folder.database)
    store.create()
    assert sweep.points is not None
    for number, ((status, utilities), point) in enumerate(zip(outcomes, sweep.points, strict=True)):
        store.record_trial(TrialRecord(f"t{number}", number, status, "ConfigError: boom" if status == "failed" else None), point)
        for rounds, utility in enumerate(utilities, 1):
            store.record_result(f"t{number}", result(rounds, utility), point)
    return folder, sweep


def test_the_best_is_the_best_end_among_trials_that_got_far_enough(tmp_path: Path) -> None:
    folder, _ = recorded(tmp_path, [("completed", [9.0, 5.0]), ("stopped", [8.0]), ("completed", [1.0, 6.0]), ("failed", [])])
    trials = SweepStore(folder.database).trials()
    assert best_trial(trials, "utility", "max").record.number == 2
    assert best_trial(trials, "utility", "min").record.number == 0


def test_the_report_writes_settings_that_train_accepts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, sweep = recorded(tmp_path, [("completed", [1.0, 5.0]), ("failed", [])])
    assert main(["sweep", "report", str(folder.root)]) == 0
    assert sweep.points is not None
    assert read_run_config(folder.best) == sweep.run_config(sweep.points[0])
    page = folder.report.read_text()
    assert "Trial 1 failed: ConfigError: boom" in page
    assert "2 trials are too few" not in page
    assert "Importance of parameters is not estimated: 1 trials are too few" in page
    assert folder.picture.stat().st_size > 10_000
    assert "best: trial 0, utility_recent 5.00 after 2 rounds" in capsys.readouterr().out


def test_importance_compares_trials_at_the_last_round_that_all_played(tmp_path: Path) -> None:
    outcomes = [("stopped" if i % 2 else "completed", [float(i), 100.0][: 1 + (i % 2 == 0)]) for i in range(12)]
    folder, sweep = recorded(tmp_path, outcomes)
    report, at_round = importance_of(sweep, SweepStore(folder.database).trials())
    assert at_round == 1
    assert report.reason is None


def test_population_based_training_has_no_importance(tmp_path: Path) -> None:
    changes = {"scheduler": {"kind": "pbt", "perturb_rounds": 1}}
    folder, sweep = recorded(tmp_path, [("completed", [1.0, 2.0])] * 12, changes)
    report, _ = importance_of(sweep, SweepStore(folder.database).trials())
    assert report.reason is not None
    assert "changes parameters" in report.reason


def test_a_sweep_without_results_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = recorded(tmp_path, [("running", [])])
    assert main(["sweep", "report", str(folder.root)]) == 2
    assert "no trial of this sweep has a result yet" in capsys.readouterr().err


def test_confirmation_plays_both_on_the_same_new_seeds(tmp_path: Path) -> None:
    sweep = tiny_sweep(tmp_path, {"scheduler": {"kind": "asha", "grace_rounds": 1}, "run": {"seed": 5}})
    plan = confirmation_plan(sweep, {"ppo.epochs": 3}, 2)
    first = 5 + FIRST_SEED
    assert plan.points == ({"ppo.epochs": 3, "seed": first}, {"seed": first}, {"ppo.epochs": 3, "seed": first + 1}, {"seed": first + 1})
    assert plan.evaluates
    assert plan.config.scheduler.kind == "none"
    assert plan.config.num_trials == 4
    assert plan.run_config(plan.points[0]).ppo.epochs == 3
    assert plan.run_config(plan.points[1]).ppo == sweep.base.ppo


def test_intervals_tell_a_real_difference_from_none() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=12)
    better = confirmation_of({"winner": list(50.0 + noise + 3.0), "default": list(50.0 + noise)})
    assert better.difference.is_significant
    assert better.difference.difference.value == pytest.approx(3.0)
    same = confirmation_of({"winner": list(50.0 + noise), "default": list(50.0 + rng.normal(size=12))})
    assert not same.difference.is_significant
    assert same.num_seeds == 12


def test_a_confirmation_enters_the_report_by_pairs_of_seeds(tmp_path: Path) -> None:
    folder, sweep = recorded(tmp_path, [("completed", [1.0, 5.0])])
    assert read_confirmation(folder) is None
    plan = confirmation_plan(sweep, {"ppo.epochs": 3}, 3)
    target = SweepDir(folder.confirmation)
    target.root.mkdir()
    store = SweepStore(target.database)
    store.create()
    assert plan.points is not None
    for number, point in enumerate(plan.points[:-1]):
        store.record_trial(TrialRecord(f"t{number}", number, "completed"), point)
        store.record_result(f"t{number}", result(2, 1.0, 60.0 if "ppo.epochs" in point else 55.0), point)
    found = read_confirmation(folder)
    assert found is not None
    assert found.num_seeds == 2
    assert found.difference.difference.value == pytest.approx(5.0)
    write_report(folder)
    assert "winner − default: 5.00 [5.00, 5.00] U on 2 seeds" in folder.report.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep"], "takes one sweep file"),
        (["sweep", "report"], "takes the folder of one sweep"),
        (["sweep", "a.yaml", "--confirm", "3"], "--confirm 3 goes with esper sweep report"),
        (["sweep", "missing.yaml"], "missing.yaml: No such file"),
        (["sweep", "--resume", "missing"], "missing holds no sweep"),
        (["sweep", "report", "missing"], "missing holds no sweep"),
    ],
)
def test_wrong_commands_are_one_clear_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
