"""Whole `esper` processes that are interrupted from outside, and go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from esper.cli.main import main
from tests.distributed.runs import TINY, trace

if TYPE_CHECKING:
    from pathlib import Path

MANY_ROUNDS = 400
START_SEC = 240.0


def start_run(root: Path) -> subprocess.Popen[str]:
    """A long run in a process of its own, returned once its first round is saved."""
    command = [sys.executable, "-m", "esper.cli.main", "train", "--local", "--run-dir", str(root), *TINY, f"rollout.rounds={MANY_ROUNDS}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + START_SEC
    while not (root / "checkpoints" / "best.json").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def finish(root: Path, num_rounds: int) -> None:
    """Go on for a few rounds more."""
    config = root / "config.yaml"
    config.write_text(config.read_text().replace(f"rounds: {MANY_ROUNDS}", f"rounds: {num_rounds}"))
    assert main(["resume", "--local", str(root)]) == 0


def num_saved(root: Path) -> int:
    return max(int(path.name.removeprefix("round-")) for path in (root / "checkpoints").glob("round-*"))


def test_ctrl_c_ends_a_run_with_130_and_says_how_to_go_on(tmp_path: Path) -> None:
    root = tmp_path / "run"
    process = start_run(root)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=START_SEC)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert f"esper resume {root}" in out
    assert not (root / ".owner").exists()
    finish(root, num_saved(root) + 1)


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    process = start_run(tmp_path / "killed")
    process.kill()
    process.communicate(timeout=START_SEC)
    num_rounds = num_saved(tmp_path / "killed") + 1
    finish(tmp_path / "killed", num_rounds)
    whole = tmp_path / "whole"
    assert main(["train", "--local", "--run-dir", str(whole), *TINY, f"rollout.rounds={num_rounds}"]) == 0
    assert trace(tmp_path / "killed", num_rounds) == trace(whole, num_rounds)
