from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import duckdb

from esper.karn.replay import READ_AT_ONCE, replay
from esper.karn.store import Store
from esper.leyline.telemetry import TWIN_MESSAGE, TelemetryEventType
from esper.leyline.telemetry.schema import ORIGIN_COLUMNS
from tests.fakes.telemetry import heartbeat, record_run

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa
    import pytest

WEEK_SEC = 7 * 86_400.0


def test_every_event_is_told_once_and_in_the_order_of_time(run_dir: Path) -> None:
    with Store.open(run_dir) as store:
        stored = {row["event_type"]: row["num"] for row in store.rows("SELECT event_type, count(*) AS num FROM raw_events GROUP BY ALL")}
        told = list(replay(store))
    assert {kind.name: sum(rows.num_rows for stretch in told for k, rows in stretch if k is kind) for kind in TelemetryEventType} == {
        **dict.fromkeys(TelemetryEventType.__members__, 0),
        **stored,
    }
    times = [[time for _, rows in stretch for time in rows.column("timestamp").to_pylist()] for stretch in told]
    numbers = [{(time - min(times[0])) // timedelta(seconds=10) for time in stretch} for stretch in times]
    assert all(len(found) == 1 for found in numbers)
    assert [min(found) for found in numbers] == sorted({min(found) for found in numbers})
    for stretch in told:
        for kind, rows in stretch:
            assert rows.column("timestamp").to_pylist() == sorted(rows.column("timestamp").to_pylist())
            assert set(rows.column("event_type").to_pylist()) == {kind.name}
            assert not set(ORIGIN_COLUMNS) & set(rows.column_names)


def test_what_was_told_twice_is_replayed_once_and_unknown_events_are_left_out(tmp_path: Path) -> None:
    root = record_run(tmp_path, [[heartbeat(1.0), heartbeat(2.0), heartbeat(3.0)]])
    with duckdb.connect(str(root / "telemetry.duckdb")) as file:
        file.execute("UPDATE heartbeat SET message = $1 WHERE uptime_sec = 2.0", [TWIN_MESSAGE])
        file.execute("CREATE TABLE seed_sang AS SELECT * REPLACE ('SEED_SANG' AS event_type) FROM heartbeat")
    with Store.open(root) as store:
        ((event_type, rows),) = next(replay(store))
    assert event_type is TelemetryEventType.HEARTBEAT
    assert rows.column("uptime_sec").to_pylist() == [1.0, 3.0]


def test_the_number_of_queries_follows_events_not_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = record_run(tmp_path, [[heartbeat(second) for second in (0.0, 1.0, 10.0 * READ_AT_ONCE - 0.5, WEEK_SEC, WEEK_SEC + 10.0)]])
    num_queries, table = 0, Store.table

    def count(self: Store, *arguments: Any) -> pa.Table:
        nonlocal num_queries
        num_queries += 1
        return table(self, *arguments)

    monkeypatch.setattr(Store, "table", count)
    with Store.open(root) as store:
        told = [rows.column("uptime_sec").to_pylist() for ((_, rows),) in replay(store)]
    assert told == [[0.0, 1.0], [10.0 * READ_AT_ONCE - 0.5], [WEEK_SEC], [WEEK_SEC + 10.0]]
    assert num_queries == 4


def test_an_empty_run_has_nothing_to_tell(empty_run_dir: Path) -> None:
    with Store.open(empty_run_dir) as store:
        assert list(replay(store)) == []
