from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from esper.distributed.facts import examine
from esper.distributed.report import print_beginning
from esper.distributed.run_dir import RunDir
from tests.distributed.runs import EPOCHS, NUM_ENVS, ROUNDS, tiny_config

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("rounds", "ahead"),
    [
        (0, f"begins round 1 of {ROUNDS}"),
        (ROUNDS - 1, f"begins round {ROUNDS} of {ROUNDS}"),
        (ROUNDS, f"all rounds of {ROUNDS} are played"),
    ],
)
def test_what_begins_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], rounds: int, ahead: str) -> None:
    config = tiny_config("telemetry.console=rounds")
    print_beginning(config, RunDir(tmp_path), examine(config), local=True, rounds=rounds)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{config.task.preset}: {ahead}, each {NUM_ENVS} episodes of {EPOCHS} host epochs; in this process, engine ")
    assert line.endswith(f"writes to {tmp_path}")


def test_a_run_that_shall_print_nothing_begins_silently(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_config("telemetry.console=off")
    print_beginning(config, RunDir(tmp_path), examine(config), local=False, rounds=0)
    assert capsys.readouterr().err == ""
