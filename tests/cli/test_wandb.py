"""`esper wandb upload`: the stored run in Weights & Biases is the one that was shown while it was alive."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import pytest

from esper.cli.main import main
from esper.nissa.sinks.wandb import WandbSink
from esper.nissa.sinks.wandb_label import RunLabel, run_id
from tests.fakes.telemetry import record_run
from tests.fakes.wandb_run import FakeRun, batches_of, fake_wandb, rounds_of_run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    return fake_wandb(monkeypatch)


def upload(run_dir: Path) -> None:
    assert main(["wandb", "upload", str(run_dir), "--mode", "offline"]) == 0


@pytest.mark.parametrize("rows", [1, 5])
def test_what_is_uploaded_is_what_was_shown_live(tmp_path: Path, runs: list[FakeRun], rows: int) -> None:
    told = list(chain(*rounds_of_run(5, n_envs=3)))
    live = WandbSink("esper", "offline", folder=tmp_path / "live", label=RunLabel("one"))
    for batch in batches_of(told, rows):
        live.write([batch])
    live.close()
    upload(record_run(tmp_path / "run", [told]))
    shown, uploaded = runs
    assert uploaded.points == shown.points
    assert sum("tolaria/val_accuracy" in values for values in uploaded.points) == 10
    assert uploaded.chart("Trust region") == shown.chart("Trust region")


def test_a_run_that_is_uploaded_again_is_the_same_run_from_its_beginning(tmp_path: Path, runs: list[FakeRun]) -> None:
    run_dir = record_run(tmp_path, [list(chain(*rounds_of_run(2)))])
    upload(run_dir)
    left = run_dir / "wandb-upload" / "offline-run"
    left.mkdir()
    (left / "old.wandb").write_text("what an earlier upload wrote")
    upload(run_dir)
    first, second = runs
    assert second.settings["id"] == first.settings["id"] == run_id(run_dir / "wandb-upload")
    assert second.settings["resume"] is None
    assert second.points == first.points != []
    assert not left.exists()
