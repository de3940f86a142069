"""Processes of a real run are stopped where they stand; they are found by their silence, and the run ends as if nothing had happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.distributed.faults import Plan, PlannedFault, play, told
from tests.distributed.runs import ROUNDS, trace, weights

if TYPE_CHECKING:
    from pathlib import Path

IMPATIENT = ("cluster.heartbeat_sec=2", "cluster.heartbeat_timeout_sec=10", "cluster.call_timeout_sec=400")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("part", ["env-0", "learner", "sink", "queue"])
def test_a_stopped_process_changes_nothing(part: str, finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    witness = play(root, Plan(IMPATIENT, (PlannedFault(part, 1, 0.0, hangs=True),)))
    assert witness.exit_code == 0, witness.output
    assert [(row["part"], row["fault"]) for row in witness.faults if row["event_type"] == "PART_LOST"] == [(part, "hung")]
    assert trace(root) == trace(finished)
    assert told(root) == told(finished)
    assert weights(root, ROUNDS) == weights(finished, ROUNDS)
