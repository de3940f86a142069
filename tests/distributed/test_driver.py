from __future__ import annotations

import os
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from esper.distributed.session import resume_run, train_run
from tests.distributed.faults import told
from tests.distributed.runs import NUM_ENVS, ROUNDS, STEPS_PER_ROUND, at_step, tiny_config, trace, weights

if TYPE_CHECKING:
    from pathlib import Path


class PowerCutError(Exception):
    """Ends a run in the middle of a step."""


def cut_power() -> None:
    raise PowerCutError


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_a_run_records_every_episode_and_every_decision_once(finished: Path) -> None:
    seen = trace(finished)
    assert len(seen.outcomes) == ROUNDS * NUM_ENVS
    assert len({(row["group_id"], row["env_id"]) for row in seen.outcomes}) == ROUNDS * NUM_ENVS
    assert len(seen.decisions) == sum(row["episode_length"] for row in seen.outcomes)


def test_the_same_seed_gives_the_same_decisions_rewards_and_weights(finished: Path, tmp_path: Path) -> None:
    train_run(tiny_config(), tmp_path / "run", local=True)
    assert trace(tmp_path / "run") == trace(finished)


def test_another_seed_gives_another_run(finished: Path, tmp_path: Path) -> None:
    train_run(tiny_config("seed=1", "rollout.rounds=1"), tmp_path / "run", local=True)
    other, first = trace(tmp_path / "run", 1), trace(finished)
    assert other.weights != weights(finished, 1)
    assert other.outcomes != [row for row in first.outcomes if row["group_id"].endswith("/0")]


@pytest.mark.parametrize("step", [1, STEPS_PER_ROUND + 1, 2 * STEPS_PER_ROUND + 7])
def test_a_run_that_broke_off_and_was_resumed_equals_one_that_did_not(
    step: int, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"
    with monkeypatch.context() as fault, pytest.raises(PowerCutError):
        at_step(fault, step, cut_power)
        train_run(tiny_config(), root, local=True)
    assert not resume_run(root, local=True)
    assert trace(root) == trace(finished)
    assert told(root) == told(finished)


@pytest.mark.parametrize("step", [3, STEPS_PER_ROUND + 4])
def test_ctrl_c_in_mid_round_loses_nothing(
    step: int, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "run"
    with monkeypatch.context() as fault:
        at_step(fault, step, press_ctrl_c)
        assert train_run(tiny_config(), root, local=True)
    assert f"esper resume {root}" in capsys.readouterr().out
    assert not resume_run(root, local=True)
    assert trace(root) == trace(finished)


def test_resuming_a_finished_run_changes_nothing(finished: Path) -> None:
    before = trace(finished)
    assert not resume_run(finished, local=True)
    assert trace(finished) == before


def test_rare_checkpoints_still_include_the_last_round(finished: Path, tmp_path: Path) -> None:
    train_run(tiny_config("checkpoint.every_rounds=2"), tmp_path / "run", local=True)
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("round-*")) == ["round-00002", "round-00003"]
    assert weights(tmp_path / "run", ROUNDS) == weights(finished, ROUNDS)


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_says_so(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(finished, tmp_path / "run")
    file = root / "checkpoints" / f"round-{ROUNDS:05d}" / "learner.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    assert not resume_run(root, local=True)
    assert f"going back to round {ROUNDS - 1}" in capsys.readouterr().err
    assert trace(root) == trace(finished)
    assert told(root) == told(finished)
