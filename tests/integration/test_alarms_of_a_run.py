"""A healthy run of the default task is told without an alarm."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.distributed.config import read_run_config
from esper.distributed.session import train_run
from esper.karn.details import anomalies, anomaly_counts
from esper.karn.queries import learning_curve
from esper.karn.store import Store

QUICK = Path(__file__).parents[2] / "configs" / "run" / "quick.yaml"


@pytest.mark.slow
def test_the_first_rounds_of_the_default_task_raise_no_alarm(tmp_path: Path) -> None:
    config = read_run_config(QUICK, ["rollout.rounds=2", "evaluation.seeds_per_context=0", "telemetry.console=off"])
    assert not train_run(config, tmp_path / "run", local=True)
    with Store.open(tmp_path / "run") as store:
        assert len(learning_curve(store)) == 2
        assert anomalies(store) == []


def test_two_episodes_are_no_measure_for_the_critic(tmp_path: Path) -> None:
    config = read_run_config(
        None,
        [
            "task.preset=smoke",
            "rollout.rounds=1",
            "rollout.num_envs=2",
            "rollout.envs_per_actor=2",
            "evaluation.seeds_per_context=0",
            "telemetry.console=off",
        ],
    )
    assert not train_run(config, tmp_path / "run", local=True)
    with Store.open(tmp_path / "run") as store:
        assert "VALUE_COLLAPSE_DETECTED" not in anomaly_counts(store)
