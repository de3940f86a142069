from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pytest

from esper.leyline.telemetry.event import TelemetryEventType
from esper.leyline.telemetry.schema import event_schema, record_batch, table_name
from esper.nissa.config import TelemetryConfig
from esper.nissa.emitter import BufferedEmitter
from esper.nissa.sinks.base import SinkUnavailableError
from esper.nissa.sinks.duckdb import DuckDBSink
from esper.nissa.transport import InProcessTransport
from esper.nissa.wire import BatchId, decode, identity_of, stamp
from tests.fakes.telemetry import event, fold_in, heartbeat, heartbeat_batch, outcome, read_rows, whole_run

if TYPE_CHECKING:
    from pathlib import Path

CRASHING_WRITER = """
import os, sys
from pathlib import Path
from esper.nissa.sinks.duckdb import DuckDBSink
from tests.fakes.telemetry import heartbeat_batch
sink = DuckDBSink(Path(sys.argv[1]))
sink.write([heartbeat_batch(1), heartbeat_batch(2)])
sink.write([heartbeat_batch(3)])
os._exit(9)
"""


def seqs(sink: DuckDBSink) -> list[int]:
    return [row["seq"] for row in read_rows(sink, "SELECT seq FROM heartbeat ORDER BY seq")]


def crash(path: Path) -> None:
    completed = subprocess.run([sys.executable, "-c", CRASHING_WRITER, str(path)], check=False, env=_environment())
    assert completed.returncode == 9


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_every_event_type_has_a_table_from_the_start(tmp_path: Path) -> None:
    sink = DuckDBSink(tmp_path / "t.duckdb")
    for event_type in TelemetryEventType:
        columns = [row["name"] for row in read_rows(sink, f"SELECT name FROM pragma_table_info('{table_name(event_type)}')")]
        assert set(event_schema(event_type).names) | {"producer", "incarnation", "seq", "place", "given_id"} == set(columns)


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    sink = DuckDBSink(tmp_path / "t.duckdb")
    events = [event("EPISODE_OUTCOME", outcome(env, 0, 50.0 + env, kept=("r0c0:conv", "r0c1:norm")), 1.5) for env in range(3)]
    sink.write([stamp(record_batch(events), BatchId("driver", 2, 1, 0, "EPISODE_OUTCOME"))])
    rows = read_rows(sink, "SELECT * FROM episode_outcome ORDER BY env_id")
    for place, (row, original) in enumerate(zip(rows, events, strict=True)):
        assert (row["event_id"], row["place"]) == (f"driver/2/1/{place}", place)
        assert row["timestamp"] == original.timestamp.replace(tzinfo=None)
        assert (row["utility"], row["test_accuracy"]) == (original.data.to_dict()["utility"], None)
        assert row["kept"] == ["r0c0:conv", "r0c1:norm"]
        assert (row["producer"], row["incarnation"], row["seq"]) == ("driver", 2, 1)


def test_an_id_is_what_was_told_whether_it_was_given_or_says_where_the_event_is_from(tmp_path: Path) -> None:
    sink = DuckDBSink(tmp_path / "t.duckdb")
    emitter = BufferedEmitter("env-0", 3, transport=InProcessTransport(sink), config=TelemetryConfig(flush_rows=2))
    for given in ("", "", "", "mine", ""):
        emitter.emit(replace(heartbeat(1.0), event_id=given))
    emitter.close()
    sink.close()
    sink = DuckDBSink(tmp_path / "t.duckdb")
    stored = read_rows(sink, "SELECT event_id, place FROM heartbeat ORDER BY seq, place")
    assert [(row["event_id"], row["place"]) for row in stored] == [
        ("env-0/3/1/0", 0), ("env-0/3/1/1", 1), ("env-0/3/2/0", 0), ("mine", 1), ("env-0/3/3/0", 0),
    ]  # fmt: skip


def test_every_kind_of_event_of_a_run_is_stored(tmp_path: Path) -> None:
    sink = DuckDBSink(tmp_path / "t.duckdb")
    events = list(whole_run(3))
    for seq, one in enumerate(events, 1):
        sink.write([stamp(record_batch([one]), BatchId("driver", 0, seq, seq - 1, one.event_type.name))])
    for event_type in {one.event_type for one in events}:
        stored = read_rows(sink, f"SELECT count(*) AS n FROM {table_name(event_type)}")[0]["n"]
        assert stored == sum(one.event_type is event_type for one in events)


def test_replays_are_stored_once_and_early_batches_wait(tmp_path: Path) -> None:
    sink = DuckDBSink(tmp_path / "t.duckdb")
    one, two, three, four = (heartbeat_batch(seq) for seq in (1, 2, 3, 4))
    sink.write([one, two, two])
    sink.write([four])
    sink.write([two, one])
    assert seqs(sink) == [1, 2]
    sink.write([three, four])
    assert seqs(sink) == [1, 2, 3, 4]
    assert sink.high_water_mark("env-0", 0) == 4


def test_lives_and_producers_are_told_apart(tmp_path: Path) -> None:
    sink = DuckDBSink(tmp_path / "t.duckdb")
    sink.write([heartbeat_batch(1), heartbeat_batch(1, incarnation=3), heartbeat_batch(1, source="env-1")])
    assert seqs(sink) == [1, 1, 1]
    assert sink.open_life("another") == (4, 1)


def test_a_killed_writer_keeps_what_was_written_and_its_marks(tmp_path: Path) -> None:
    path = tmp_path / "t.duckdb"
    crash(path)
    sink = DuckDBSink(path)
    assert seqs(sink) == [1, 2, 3]
    sink.write([heartbeat_batch(seq) for seq in (2, 3, 4)])
    assert seqs(sink) == [1, 2, 3, 4]
    assert sink.quarantined_wal is None


@pytest.mark.parametrize("wrong_type", ["HEARTBEAT", "NO_SUCH_EVENT"])
def test_a_batch_that_does_not_fit_is_set_aside_and_holds_up_nobody(tmp_path: Path, wrong_type: str) -> None:
    sink = DuckDBSink(tmp_path / "t.duckdb")
    rows = pa.RecordBatch.from_pylist([{"uptime_sec": "not a number"}])
    wrong = stamp(rows, BatchId("env-0", 0, 2, 1, wrong_type))
    sink.write([heartbeat_batch(1), wrong, heartbeat_batch(3)])
    assert seqs(sink) == [1, 3]
    assert sink.high_water_mark("env-0", 0) == 3
    (rejected,) = read_rows(sink, "SELECT * FROM rejected_batches")
    assert (rejected["producer"], rejected["seq"], rejected["num_events"]) == ("env-0", 2, 1)
    assert decode(rejected["payload"]).to_pylist() == rows.to_pylist()


def test_after_a_refusal_the_same_batches_can_be_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = DuckDBSink(tmp_path / "t.duckdb")
    with monkeypatch.context() as full_disk:
        full_disk.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
        with pytest.raises(SinkUnavailableError):
            sink.write([heartbeat_batch(1)])
    sink.write([heartbeat_batch(1), heartbeat_batch(2)])
    assert seqs(sink) == [1, 2]


def test_a_new_field_becomes_a_column(tmp_path: Path) -> None:
    path = tmp_path / "t.duckdb"
    sink = DuckDBSink(path)
    sink.write([heartbeat_batch(1)])
    second = heartbeat_batch(2)
    grown = second.append_column("gpu_temperature", pa.array([71.5])).replace_schema_metadata(second.schema.metadata)
    sink.write([grown])
    sink.close()
    reopened = DuckDBSink(path)
    reopened.write([heartbeat_batch(3)])
    rows = read_rows(reopened, "SELECT seq, gpu_temperature FROM heartbeat ORDER BY seq")
    assert [row["gpu_temperature"] for row in rows] == [None, 71.5, None]


def test_legacy_names_go_to_the_table_of_today(tmp_path: Path) -> None:
    sink = DuckDBSink(tmp_path / "t.duckdb")
    update = next(one for one in whole_run(1) if one.event_type is TelemetryEventType.TAMIYO_POLICY_UPDATE)
    sink.write([stamp(record_batch([update]), BatchId("old", 0, 1, 0, "PPO_UPDATE_COMPLETED"))])
    assert read_rows(sink, "SELECT count(*) AS n FROM tamiyo_policy_update") == [{"n": 1}]


def test_an_unreadable_log_is_set_aside_and_the_file_stays_usable(tmp_path: Path) -> None:
    path = tmp_path / "t.duckdb"
    crash(path)
    wal = path.with_name("t.duckdb.wal")
    content = bytearray(wal.read_bytes())
    content[content.index(b"env-0", len(content) // 3)] ^= 0xFF
    wal.write_bytes(content)
    sink = DuckDBSink(path)
    assert sink.quarantined_wal is not None
    assert sink.quarantined_wal.read_bytes() == bytes(content)
    assert [row["kind"] for row in read_rows(sink, "SELECT kind FROM incidents")] == ["unreadable_wal"]
    mark = sink.high_water_mark("env-0", 0)
    assert seqs(sink) == list(range(1, mark + 1))
    sink.write([heartbeat_batch(mark + 1)])
    assert seqs(sink)[-1] == mark + 1


def test_a_snapshot_is_complete_and_readable_while_the_writer_lives(tmp_path: Path) -> None:
    sink = DuckDBSink(tmp_path / "t.duckdb", views=["CREATE OR REPLACE VIEW beats AS SELECT seq FROM heartbeat"])
    sink.write([heartbeat_batch(1)])
    snapshot = sink.publish_snapshot(tmp_path / "it's.snapshot.duckdb")
    reader = duckdb.connect(str(snapshot), read_only=True)
    sink.write([heartbeat_batch(2)])
    sink.publish_snapshot(snapshot)
    assert reader.execute("SELECT * FROM beats").fetchall() == [(1,)]
    reader.close()
    again = duckdb.connect(str(snapshot), read_only=True)
    assert again.execute("SELECT * FROM beats ORDER BY seq").fetchall() == [(1,), (2,)]
    again.close()
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix == ".tmp") == []


VIEW = "CREATE OR REPLACE VIEW beats AS SELECT seq FROM heartbeat"


def write_a_hundred(path: Path) -> DuckDBSink:
    """Many small writes, each folded in at once, so that gaps are left."""
    sink = DuckDBSink(path, views=[VIEW])
    for seq in range(1, 101):
        sink.write([heartbeat_batch(seq, num_rows=20)])
        if seq % 10 == 0:
            fold_in(sink)
    return sink


def read_beats(path: Path) -> list[tuple[int, int]]:
    with duckdb.connect(str(path), read_only=True) as connection:
        found: list[tuple[int, int]] = connection.execute("SELECT seq, count(*) FROM beats GROUP BY seq ORDER BY seq").fetchall()
        return found


@pytest.mark.parametrize("has_snapshot", [False, True])
def test_a_closed_file_has_no_gaps_and_everything_in_it(tmp_path: Path, has_snapshot: bool) -> None:
    path = tmp_path / "t.duckdb"
    sink = write_a_hundred(path)
    if has_snapshot:
        sink.publish_snapshot(tmp_path / "t.snapshot.duckdb")
    before = path.stat().st_size
    sink.close()
    assert path.stat().st_size < before
    assert read_beats(path) == [(seq, 20) for seq in range(1, 101)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.duckdb", *(["t.snapshot.duckdb"] if has_snapshot else [])]
    reopened = DuckDBSink(path)
    reopened.write([heartbeat_batch(100), heartbeat_batch(101)])
    assert seqs(reopened)[-2:] == [100, 101]
    reopened.close()


@pytest.mark.parametrize("fate", ["replaced", "removed", "behind"])
def test_a_snapshot_that_is_no_copy_any_more_does_not_become_the_file(tmp_path: Path, fate: str) -> None:
    path, snapshot = tmp_path / "t.duckdb", tmp_path / "t.snapshot.duckdb"
    sink = write_a_hundred(path)
    sink.publish_snapshot(snapshot)
    last = 100
    if fate == "replaced":
        snapshot.write_bytes(b"not a database")
    elif fate == "removed":
        snapshot.unlink()
    else:
        last = 101
        sink.write([heartbeat_batch(last, num_rows=20)])
    sink.close()
    assert read_beats(path) == [(seq, 20) for seq in range(1, last + 1)]


def test_a_full_disk_refuses_before_anything_is_written(tmp_path: Path) -> None:
    sink = DuckDBSink(tmp_path / "t.duckdb", min_free_bytes=2**62)
    with pytest.raises(SinkUnavailableError, match="free"):
        sink.write([heartbeat_batch(1)])
    assert sink.high_water_mark("env-0", 0) == 0


def test_a_file_of_another_owner_or_kind_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "text.duckdb").write_text("not a database " * 1000)
    with pytest.raises(SinkUnavailableError, match=r"text\.duckdb"):
        DuckDBSink(tmp_path / "text.duckdb")
    newer = DuckDBSink(tmp_path / "newer.duckdb")
    newer.close()
    with duckdb.connect(str(tmp_path / "newer.duckdb")) as connection:
        connection.execute("INSERT INTO schema_version VALUES (99, now()::TIMESTAMP)")
    with pytest.raises(SinkUnavailableError, match=r"99.*the newer one"):
        DuckDBSink(tmp_path / "newer.duckdb")


def test_an_older_file_is_left_as_it_is(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "older.duckdb")) as connection:
        connection.execute("CREATE TABLE schema_version AS SELECT 1 AS version, now()::TIMESTAMP AS created_at")
        connection.execute("CREATE TABLE heartbeat (event_id VARCHAR)")
    with pytest.raises(SinkUnavailableError, match=r"version 1.*the older one, or begin a new run"):
        DuckDBSink(tmp_path / "older.duckdb")
    with duckdb.connect(str(tmp_path / "older.duckdb")) as connection:
        assert connection.execute("SELECT column_name FROM duckdb_columns() WHERE table_name = 'heartbeat'").fetchall() == [("event_id",)]


def test_dropped_events_are_stored_with_the_marks(tmp_path: Path) -> None:
    sink = DuckDBSink(tmp_path / "t.duckdb")
    first, second = heartbeat_batch(1), heartbeat_batch(2)
    told = stamp(second, BatchId("env-0", 0, 2, 1, "HEARTBEAT", dropped_events=17))
    sink.write([first, told])
    assert identity_of(told).dropped_events == 17
    assert read_rows(sink, "SELECT dropped_events FROM high_water_marks") == [{"dropped_events": 17}]


def reward_batch(seq: int, group_id: str, *, incarnation: int = 0) -> pa.RecordBatch:
    told = replace(event("EPISODE_OUTCOME", outcome(seq, 0, 50.0)), group_id=group_id)
    return stamp(record_batch([told]), BatchId("env-0", incarnation, seq, seq - 1, "EPISODE_OUTCOME"))


def test_unfinished_work_of_a_lost_producer_is_taken_back_and_refused_from_then_on(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.duckdb"
    sink = DuckDBSink(path)
    group = "train/learned/3"
    sink.write([reward_batch(1, group), reward_batch(2, group), heartbeat_batch(3)])
    assert sink.abandon("env-0", 0, after_seq=1) == 1
    late = [reward_batch(4, group)]
    sink.write(late)
    sink.close()
    reopened = DuckDBSink(path)
    reopened.write(late)
    reopened.write([reward_batch(1, group, incarnation=1)])
    kept = read_rows(reopened, "SELECT incarnation, seq FROM episode_outcome ORDER BY incarnation")
    assert kept == [{"incarnation": 0, "seq": 1}, {"incarnation": 1, "seq": 1}]
    assert seqs(reopened) == [3]
    assert reopened.high_water_mark("env-0", 0) > 4
    reopened.close()


def test_a_life_keeps_its_incarnation_when_the_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.duckdb"
    sink = DuckDBSink(path)
    assert sink.open_life("first") == (0, 1)
    sink.write([heartbeat_batch(1, incarnation=2)])
    sink.close()
    sink = DuckDBSink(path)
    assert sink.open_life("first") == (0, 2)
    assert sink.open_life("second") == (3, 1)
    sink.close()
