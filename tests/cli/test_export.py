from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from esper.cli.main import main
from esper.distributed.build import registry_digests
from esper.distributed.checkpoint import load_checkpoint
from esper.tamiyo.service import load_policy
from tests.distributed.runs import TINY

if TYPE_CHECKING:
    from pathlib import Path

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of two rounds."""
    root = tmp_path_factory.mktemp("export") / "run"
    assert main(["train", "--local", "--run-dir", str(root), *TINY, "rollout.rounds=2"]) == 0
    return root


def complaint(capsys: Captured, *arguments: str) -> str:
    capsys.readouterr()
    assert main(["export", *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_a_runs_policy_can_be_loaded_by_a_service(finished: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "policies" / "tamiyo_gnn_v1"
    assert main(["export", str(finished), "--out", str(out)]) == 0
    stored = load_policy(out, digests=registry_digests())
    printed = capsys.readouterr().out
    assert str(out) in printed
    assert stored.version in printed
    assert stored.version.startswith("gnn_v1-2-")
    assert stored.source["task"] == "smoke"
    checkpoint = load_checkpoint(finished / "checkpoints" / "round-00002")
    for name, tensor in stored.policy.state_dict().items():
        assert tensor.equal(checkpoint.tensors[f"policy/{name}"]), name


def test_the_best_policy_can_be_chosen(finished: Path, tmp_path: Path) -> None:
    for which in ("latest", "best"):
        assert main(["export", str(finished), "--out", str(tmp_path / which), "--checkpoint", which]) == 0
        assert (tmp_path / which / "manifest.json").exists()


def test_bad_input_is_one_clear_line(finished: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "file").touch()
    assert "holds no run" in complaint(capsys, str(tmp_path), "--out", str(tmp_path / "out"))
    assert "exists already" in complaint(capsys, str(finished), "--out", str(tmp_path / "file"))
    assert "cannot be written" in complaint(capsys, str(finished), "--out", str(tmp_path / "file" / "out"))
    assert not (tmp_path / "out").exists()


def test_a_run_that_cannot_be_trusted_is_refused(finished: Path, tmp_path: Path, capsys: Captured) -> None:
    copied = shutil.copytree(finished, tmp_path / "run")
    (copied / "checkpoints" / "best.json").unlink()
    assert "no best checkpoint" in complaint(capsys, str(copied), "--out", str(tmp_path / "out"), "--checkpoint", "best")
    (copied / "checkpoints" / "round-00002" / "state.json").write_text("{}")
    assert "state.json: missing or altered" in complaint(capsys, str(copied), "--out", str(tmp_path / "out"))
    shutil.rmtree(copied / "checkpoints")
    assert "no checkpoint" in complaint(capsys, str(copied), "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
