from __future__ import annotations

import json
import os
import platform
import shutil
from typing import TYPE_CHECKING

import duckdb
import pytest

from esper.cli.main import main
from esper.distributed.run_dir import Owner, RunDirError
from esper.distributed.session import train_run
from esper.distributed.status import Phase, RunStatus, phase_of, run_status
from esper.karn.live import ADDRESS_FILE, LiveAnswers
from tests.distributed.runs import NUM_ENVS, ROUNDS, at_step, tiny_config

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("is_owned", "rounds", "stop_reason", "phase"),
    [
        (True, 0, None, Phase.STARTING),
        (True, 2, None, Phase.TRAINING),
        (True, 3, None, Phase.COMPARING),
        (True, 2, "interrupted", Phase.TRAINING),
        (False, 3, "completed", Phase.COMPLETED),
        (False, 2, "interrupted", Phase.INTERRUPTED),
        (False, 2, "failed", Phase.FAILED),
        (False, 2, None, Phase.DIED),
        (False, 3, None, Phase.DIED),
    ],
)
def test_phases_follow_from_who_is_at_work_and_what_was_said(is_owned: bool, rounds: int, stop_reason: str | None, phase: Phase) -> None:
    assert phase_of(is_owned=is_owned, rounds=rounds, planned=3, stop_reason=stop_reason) is phase


def test_a_finished_run_tells_how_it_ended(finished: Path) -> None:
    status = run_status(finished)
    assert (status.phase, status.owner, status.is_resumable) == (Phase.COMPLETED, None, False)
    assert (status.rounds, status.planned_rounds, status.episodes) == (ROUNDS, ROUNDS, ROUNDS * NUM_ENVS)
    assert status.env_steps == json.loads((finished / "checkpoints" / f"round-{ROUNDS:05d}" / "state.json").read_text())["run"]["env_steps"]
    assert status.env_steps_per_sec is not None
    assert status.env_steps_per_sec > 0.0
    assert status.checkpoint == str(finished / "checkpoints" / f"round-{ROUNDS:05d}")


def test_a_living_run_is_read_from_its_checkpoints_and_asked_for_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, seen = tmp_path / "run", list[RunStatus]()
    at_step(monkeypatch, 21, lambda: seen.append(run_status(root)))
    at_step(monkeypatch, 1, lambda: seen.append(run_status(root)))
    assert not train_run(tiny_config(), root, local=True)
    first, third = seen
    me = Owner(platform.node(), os.getpid())
    assert (first.phase, first.rounds, first.owner, first.checkpoint) == (Phase.STARTING, 0, me, None)
    assert (third.phase, third.rounds, third.owner) == (Phase.TRAINING, 2, me)
    assert third.env_steps_per_sec is not None
    assert (third.parts_lost, third.parts_recovered, third.incidents, third.events_lost) == (0, 0, 0, 0)
    assert not third.is_resumable


def test_a_living_run_that_does_not_answer_leaves_its_losses_open(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(finished, tmp_path / "run")
    (root / ".owner").write_text(Owner("another-machine", 1).to_text())
    (root / ADDRESS_FILE).write_text(json.dumps({"host": "another-machine", "port": 1, "token": "none"}))
    status = run_status(root)
    assert (status.parts_lost, status.parts_recovered, status.incidents, status.events_lost) == (None, None, None, None)
    assert main(["status", str(root)]) == 0
    printed = capsys.readouterr().out
    assert "- lost, - started again" in printed
    assert "- events lost; incidents: -" in printed


def test_a_living_run_tells_what_it_lost(finished: Path, tmp_path: Path) -> None:
    root = shutil.copytree(finished, tmp_path / "run")
    connection = duckdb.connect(str(root / "telemetry.duckdb"))
    connection.execute(
        "INSERT INTO incidents VALUES (now()::TIMESTAMP, 'refused', 'the disk was full'), (now()::TIMESTAMP, 'refused', 'again')"
    )
    connection.execute("INSERT INTO high_water_marks VALUES ('driver', 99, 1, 3)")
    answers = LiveAnswers(root, connection.cursor)
    try:
        (root / ".owner").write_text(Owner(platform.node(), os.getpid()).to_text())
        status = run_status(root)
    finally:
        answers.close()
        connection.close()
    assert (status.parts_lost, status.incidents, status.events_lost) == (0, 2, 3)


def test_a_run_that_vanished_is_told_to_have_died_and_can_be_resumed(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(finished, tmp_path / "run")
    for file in root.glob("telemetry*"):
        file.unlink()
    shutil.rmtree(root / "checkpoints" / f"round-{ROUNDS:05d}")
    (root / ".owner").write_text(Owner(platform.node(), 999_999_999).to_text())
    status = run_status(root)
    assert (status.phase, status.owner, status.rounds, status.is_resumable) == (Phase.DIED, None, ROUNDS - 1, True)
    assert main(["status", str(root)]) == 0
    assert f"continue with: esper resume {root}" in capsys.readouterr().out
    assert main(["status", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["phase"] == "died"


def test_checkpoints_without_manifests_have_no_age(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = shutil.copytree(finished, tmp_path / "run")
    for file in root.glob("telemetry*"):
        file.unlink()
    for file in root.glob("checkpoints/*/manifest.json"):
        file.unlink()
    status = run_status(root)
    assert (status.rounds, status.checkpoint_age_sec, status.env_steps_per_sec) == (ROUNDS, None, None)
    assert main(["status", str(root)]) == 0
    assert f"rounds      {ROUNDS} of {ROUNDS}" in capsys.readouterr().out


def test_an_owner_on_another_machine_is_believed_as_long_as_it_shows_signs_of_life(finished: Path, tmp_path: Path) -> None:
    root, elsewhere = shutil.copytree(finished, tmp_path / "run"), Owner("node-7", 4)
    lock = root / ".owner"
    lock.write_text(elsewhere.to_text())
    assert (run_status(root).owner, run_status(root).is_resumable) == (elsewhere, False)
    os.utime(lock, (0, 0))
    assert run_status(root).owner is None


def test_what_a_file_does_not_record_is_unknown_and_what_it_records_is_counted(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(finished, tmp_path / "run")
    assert (run_status(root).parts_lost, run_status(root).parts_recovered, run_status(root).incidents) == (0, 0, 0)
    with duckdb.connect(str(root / "telemetry.duckdb")) as file:
        file.execute("DROP TABLE part_lost")
        file.execute("INSERT INTO incidents VALUES (now()::TIMESTAMP, 'refused', 'the disk was full')")
        of_one_life = "source = 'driver' AND incarnation = (SELECT min(incarnation) FROM high_water_marks)"
        file.execute(f"UPDATE high_water_marks SET dropped_events = 7 WHERE {of_one_life}")
    status = run_status(root)
    assert (status.parts_lost, status.parts_recovered, status.incidents, status.events_lost) == (None, 0, 1, 7)
    assert main(["status", str(root)]) == 0
    printed = capsys.readouterr().out
    assert "- lost, 0 started again" in printed
    assert "7 events lost; incidents: 1" in printed


def test_a_folder_without_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="holds no run"):
        run_status(tmp_path)
