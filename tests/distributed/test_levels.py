"""How much is recorded changes nothing else, and a run does not end well while its telemetry is not stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from esper.distributed.executor import RunFailedError
from esper.distributed.session import resume_run, train_run
from esper.karn.store import Store
from esper.nissa.sinks.base import SinkUnavailableError
from esper.nissa.sinks.duckdb import DuckDBSink
from tests.distributed.runs import ROUNDS, tiny_config, weights

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pyarrow as pa


def test_off_writes_nothing_and_learns_the_same(finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    assert not train_run(tiny_config("telemetry.level=off"), root, local=True)
    assert weights(root, ROUNDS) == weights(finished, ROUNDS)
    written = {path.relative_to(root).parts[0] for path in root.rglob("*") if path.is_file()}
    assert written == {"config.yaml", "checkpoints"}


def test_light_leaves_steps_out(tmp_path: Path) -> None:
    root = tmp_path / "run"
    assert not train_run(tiny_config("telemetry.level=light", "rollout.rounds=1"), root, local=True)
    with Store.open(root) as store:
        kinds = {row["event_type"] for row in store.rows("SELECT DISTINCT event_type FROM raw_events")}
    assert {"TRAINING_STARTED", "EPISODE_OUTCOME", "TAMIYO_POLICY_UPDATE", "RUN_FINISHED"} <= kinds
    assert not kinds & {"REWARD_COMPUTED", "TOLARIA_EPOCH_COMPLETED"}


def test_the_end_counts_what_was_lost(finished: Path) -> None:
    with Store.open(finished) as store:
        assert store.rows("SELECT DISTINCT stop_reason, num_events_dropped FROM runs") == [
            {"stop_reason": "completed", "num_events_dropped": 0}
        ]


def test_a_run_whose_telemetry_is_not_stored_fails_and_resuming_stores_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "run"
    config = tiny_config("rollout.rounds=1", "telemetry.settle_sec=0.05", "cluster.close_timeout_sec=0.1")

    def refuse(_: DuckDBSink, batches: Sequence[pa.RecordBatch]) -> None:
        raise SinkUnavailableError(f"no room for {len(batches)} batches")

    with monkeypatch.context() as full:
        full.setattr(DuckDBSink, "write", refuse)
        with pytest.raises(RunFailedError, match=r"not stored.*esper resume"):
            train_run(config, root, local=True)
    assert not resume_run(root, local=True)
    with Store.open(root) as store:
        assert store.rows("SELECT count(*) AS n FROM tolaria_batches") == [{"n": 1}]
        assert store.rows("SELECT count(*) AS n FROM episode_outcomes") == [{"n": 4}]
    assert not list((root / "spool").rglob("*.arrow"))
