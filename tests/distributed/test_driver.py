from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from esper.cli.main import main
from esper.distributed.checkpoint_folder import OtherVersionError
from esper.distributed.run_dir import Owner, RunDirBusyError
from esper.distributed.session import evaluate_run, resume_run, train_run
from esper.distributed.status import Phase, run_status
from tests.distributed.faults import told
from tests.distributed.runs import NUM_ENVS, ROUNDS, STEPS_PER_ROUND, TINY, at_step, tiny_config, trace, weights

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


def test_a_checkpoint_of_another_version_is_refused_before_anything_is_touched(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(finished, tmp_path / "run")
    manifest = root / "checkpoints" / f"round-{ROUNDS:05d}" / "manifest.json"
    values = json.loads(manifest.read_text())
    values["digests"]["catalogue"], values["versions"]["esper-morph"] = "abc", "0.0.7"
    manifest.write_text(json.dumps(values))
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with pytest.raises(OtherVersionError, match=r"digest of catalogue is abc.*esper-morph 0\.0\.7.*go on with that one"):
        resume_run(root, local=True)
    with pytest.raises(OtherVersionError, match="catalogue"):
        evaluate_run(root, {"evaluation": {"seeds_per_context": 1}}, checkpoint="latest", local=True)
    assert main(["resume", "--local", str(root)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("text", ["", '{"rounds": 3}'])
def test_a_damaged_note_of_the_best_ends_no_command(finished: Path, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = shutil.copytree(finished, tmp_path / "run")
    best = root / "checkpoints" / "best.json"
    best.write_text(text)
    assert main(["eval", str(root), "--local", "--checkpoint", "best", "--seeds", "1"]) == 2
    assert "use --checkpoint latest" in capsys.readouterr().err
    assert main(["resume", "--local", str(root)]) == 0
    assert capsys.readouterr().err.count("best.json is damaged") == 1
    assert json.loads(best.read_text())["rounds"] == ROUNDS


def test_a_run_whose_folder_another_machine_has_taken_writes_no_checkpoint_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "run"
    at_step(monkeypatch, STEPS_PER_ROUND + 2, lambda: (root / ".owner").write_text(Owner("node-7", 4).to_text()))
    with pytest.raises(RunDirBusyError, match="taken over by process 4 on host node-7"):
        train_run(tiny_config(), root, local=True)
    assert [path.name for path in (root / "checkpoints").glob("round-*")] == ["round-00001"]
    assert (root / ".owner").exists()


@pytest.mark.slow
def test_sigterm_ends_a_run_that_can_be_resumed_and_loses_at_most_the_round_in_flight(finished: Path, tmp_path: Path) -> None:
    root, rounds = tmp_path / "run", 12
    command = [sys.executable, "-m", "esper.cli.main", "train", "--local", "--run-dir", str(root), *TINY, f"rollout.rounds={rounds}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 300.0
        while not (root / "checkpoints" / "round-00002").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.terminate()
        output, _ = process.communicate(timeout=300.0)
    finally:
        process.kill()
    assert process.returncode == 130, output
    assert f"Continue with: esper resume {root}" in output
    status = run_status(root)
    assert (status.phase, status.owner, status.is_resumable) == (Phase.INTERRUPTED, None, True)
    assert 2 <= status.rounds < rounds
    assert not resume_run(root, local=True)
    outcomes, expected = trace(root, rounds).outcomes, trace(finished).outcomes
    assert len(outcomes) == len({(row["group_id"], row["env_id"]) for row in outcomes}) == rounds * NUM_ENVS
    assert [row for row in outcomes if int(row["group_id"].rpartition("/")[2]) < ROUNDS] == expected
