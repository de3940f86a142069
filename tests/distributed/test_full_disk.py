"""Whole runs on a disk that is full for a while: they go on when there is room, or are resumed, and come out the same."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from esper.distributed.checkpoint_folder import CheckpointError
from esper.distributed.session import resume_run, train_run
from esper.nissa.sinks.base import SinkUnavailableError
from tests.distributed.faults import told
from tests.distributed.runs import STEPS_PER_ROUND, at_step, tiny_config, trace
from tests.fakes.disks import fill, small_disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DISK_MIB, ROOM_FOR_CHECKPOINTS_MIB = 128, 40
STEPS_WITHOUT_ROOM = 6


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", DISK_MIB) as folder:
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize("full_at", range(2, 15, 3))
def test_a_run_outlives_two_full_disks(full_at: int, disk: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, filler = disk / "run", disk / "filler"
    for begin, leave_mib in ((full_at, ROOM_FOR_CHECKPOINTS_MIB), (full_at + STEPS_PER_ROUND, 0)):
        at_step(monkeypatch, begin, partial(fill, disk, leave_mib=leave_mib))
        at_step(monkeypatch, begin + STEPS_WITHOUT_ROOM, partial(filler.unlink, missing_ok=True))
    try:
        train_run(tiny_config("telemetry.settle_sec=0.1"), root, local=True)
    except (CheckpointError, SinkUnavailableError) as error:
        assert "make room" in str(error).lower()
        filler.unlink(missing_ok=True)
        resume_run(root, local=True)
    assert trace(root) == trace(finished)
    assert told(root) == told(finished)
