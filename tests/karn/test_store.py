from __future__ import annotations

import pickle
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import duckdb
import pytest

from esper.karn.queries import run_overview
from esper.karn.report.run_page import write_run_page
from esper.karn.store import Store, StoreError
from esper.leyline.telemetry.event import TelemetryEventType
from esper.leyline.telemetry.schema import table_name
from esper.nissa.sinks.duckdb import DuckDBSink
from tests.fakes.telemetry import heartbeat_batch

if TYPE_CHECKING:
    from pathlib import Path

HOLD_THE_FILE = "import duckdb, sys\ncon = duckdb.connect(sys.argv[1])\nprint('open', flush=True)\nsys.stdin.read()"

DIE_WHILE_WRITING = """
import duckdb, os, sys
from pathlib import Path
from esper.nissa.sinks.duckdb import DuckDBSink
DuckDBSink(Path(sys.argv[1])).close()
con = duckdb.connect(sys.argv[1])
con.execute("CREATE TABLE t (a VARCHAR)")
con.execute("CHECKPOINT")
con.execute("INSERT INTO t VALUES ('a row that can be recognised in the log')")
os._exit(9)
"""


def test_a_folder_without_telemetry_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=str(tmp_path)):
        Store.open(tmp_path)


def test_a_living_run_is_read_from_its_snapshot(tmp_path: Path) -> None:
    sink = DuckDBSink(tmp_path / "telemetry.duckdb")
    sink.write([heartbeat_batch(1)])
    with pytest.raises(StoreError, match="published"):
        Store.open(tmp_path)
    sink.publish_snapshot(tmp_path / "telemetry.snapshot.duckdb")
    with Store.open(tmp_path) as store:
        assert store.is_snapshot
        assert store.rows("SELECT uptime_sec FROM heartbeat") == [{"uptime_sec": 1.0}]
    sink.close()
    with Store.open(tmp_path) as store:
        assert not store.is_snapshot


def test_a_file_held_by_another_process_is_not_waited_for(tmp_path: Path) -> None:
    sink = DuckDBSink(tmp_path / "telemetry.duckdb")
    sink.publish_snapshot(tmp_path / "telemetry.snapshot.duckdb")
    sink.close()
    command = [sys.executable, "-c", HOLD_THE_FILE, str(tmp_path / "telemetry.duckdb")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "open\n"
        with Store.open(tmp_path) as store:
            assert store.is_snapshot
        holder.stdin.close()
        holder.wait(timeout=20)


def test_a_killed_run_is_read_up_to_its_last_write(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DIE_WHILE_WRITING, str(tmp_path / "telemetry.duckdb")], check=False)
    assert (tmp_path / "telemetry.duckdb.wal").exists()
    with Store.open(tmp_path) as store:
        assert store.rows("SELECT a FROM t") == [{"a": "a row that can be recognised in the log"}]


def test_a_damaged_log_is_named(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DIE_WHILE_WRITING, str(tmp_path / "telemetry.duckdb")], check=False)
    wal = tmp_path / "telemetry.duckdb.wal"
    content = bytearray(wal.read_bytes())
    content[content.index(b"recognised")] ^= 0xFF
    wal.write_bytes(content)
    with pytest.raises(StoreError, match="cannot be read"):
        Store.open(tmp_path)


def test_a_damaged_file_is_an_error_not_a_snapshot(tmp_path: Path) -> None:
    (tmp_path / "telemetry.duckdb").write_text("nothing of the kind " * 500)
    with pytest.raises(StoreError, match="cannot be read"):
        Store.open(tmp_path)


def flip_a_byte(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("at", [12_388, 77_924])
def test_a_damaged_block_is_told_however_new_the_snapshot(run_dir: Path, tmp_path: Path, at: int) -> None:
    live, snapshot = tmp_path / "telemetry.duckdb", tmp_path / "telemetry.snapshot.duckdb"
    for path in (live, snapshot):
        shutil.copyfile(run_dir / live.name, path)
    flip_a_byte(live, at)
    tables = [table_name(event_type) for event_type in TelemetryEventType]
    with pytest.raises(StoreError, match=rf"{live} cannot be read: Corrupt database file"), Store.open(tmp_path) as store:
        assert not store.is_snapshot
        for table in tables:
            store.rows(f'SELECT * FROM "{table}"')


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "COPY heartbeat TO '/tmp/stolen.csv'",
        "ATTACH '/tmp/other.duckdb'",
        "INSERT INTO schema_version VALUES (99, NULL)",
        "SET enable_external_access = true",
    ],
)
def test_statements_cannot_leave_or_change_the_file(run_dir: Path, statement: str) -> None:
    with Store.open(run_dir) as store, pytest.raises(duckdb.Error):
        store.rows(statement)


def test_parameters_are_values_not_sql(run_dir: Path) -> None:
    with Store.open(run_dir) as store:
        assert store.rows("SELECT count(*) AS n FROM training_started WHERE task = ?", ["x' OR '1' = '1"]) == [{"n": 0}]


def test_a_foreign_or_newer_file_is_named(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "foreign.duckdb")) as foreign:
        foreign.execute("CREATE TABLE t (a INTEGER)")
    with pytest.raises(StoreError, match="not one of Esper's telemetry"):
        Store.open(tmp_path / "foreign.duckdb")
    DuckDBSink(tmp_path / "newer.duckdb").close()
    with duckdb.connect(str(tmp_path / "newer.duckdb")) as newer:
        newer.execute("INSERT INTO schema_version VALUES (99, now()::TIMESTAMP)")
    with pytest.raises(StoreError, match="99"):
        Store.open(tmp_path / "newer.duckdb")


def test_a_damaged_file_names_the_snapshot_that_is_left(tmp_path: Path) -> None:
    sink = DuckDBSink(tmp_path / "telemetry.duckdb")
    sink.write([heartbeat_batch(1)])
    snapshot = sink.publish_snapshot(tmp_path / "telemetry.snapshot.duckdb")
    sink.close()
    (tmp_path / "telemetry.duckdb").write_bytes(b"broken" * 1000)
    with pytest.raises(StoreError, match=f"{snapshot}"):
        Store.open(tmp_path)
    with Store.open(snapshot) as store:
        assert store.rows("SELECT count(*) AS n FROM heartbeat") == [{"n": 1}]


def test_an_old_file_gets_todays_tables_columns_and_views_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.duckdb"
    sink = DuckDBSink(path)
    sink.write([heartbeat_batch(1)])
    sink.close()
    with duckdb.connect(str(path)) as old:
        old.execute("DROP TABLE counterfactual_matrix_computed")
        old.execute("ALTER TABLE heartbeat DROP COLUMN env_steps")
        for table in ("heartbeat", "training_started"):  # ids stood in a column once
            old.execute(f"CREATE OR REPLACE TABLE {table} AS SELECT * EXCLUDE (given_id, place) FROM {table}")
        old.execute("CREATE TABLE seed_sang AS SELECT * REPLACE ('SEED_SANG' AS event_type) FROM heartbeat")
    content = path.read_bytes()
    with Store.open(tmp_path) as store:
        assert store.rows("SELECT env_steps, uptime_sec FROM heartbeats") == [{"env_steps": None, "uptime_sec": 1.0}]
        assert store.rows("SELECT * FROM counterfactuals") == []
        kinds = store.rows("SELECT event_type FROM raw_events ORDER BY event_type")
    assert [row["event_type"] for row in kinds] == ["HEARTBEAT", "SEED_SANG"]
    assert path.read_bytes() == content


@pytest.mark.parametrize("table", ["incidents", "rejected_batches"])
def test_a_file_without_the_sinks_own_tables_is_reported_as_one_without_troubles(run_dir: Path, tmp_path: Path, table: str) -> None:
    shutil.copyfile(run_dir / "telemetry.duckdb", tmp_path / "telemetry.duckdb")
    with duckdb.connect(str(tmp_path / "telemetry.duckdb")) as old:
        old.execute(f"DROP TABLE {table}")
        old.execute("ALTER TABLE high_water_marks DROP COLUMN dropped_events")
    with Store.open(tmp_path) as store:
        overview = run_overview(store)
        write_run_page(store, tmp_path / "report.html")
    assert (overview.num_incidents, overview.rejected_events, overview.dropped_events) == (0, 0, 0)


def test_a_foreign_file_with_tables_of_the_same_names_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.duckdb"
    with duckdb.connect(str(path)) as foreign:
        foreign.execute("CREATE TABLE schema_version (version INTEGER)")
        foreign.execute("CREATE TABLE high_water_marks (a INTEGER)")
        foreign.execute("CREATE TABLE tolaria_batch_completed (batch_idx VARCHAR[], env_steps VARCHAR[])")
        foreign.execute("CREATE TABLE training_started (timestamp INTEGER[])")
    with pytest.raises(StoreError, match=str(path)), Store.open(tmp_path) as store:
        run_overview(store)
    with duckdb.connect(str(path)) as foreign:
        foreign.execute("CREATE OR REPLACE TABLE schema_version AS SELECT 'a' AS version")
    with pytest.raises(StoreError, match="not one of Esper's telemetry"):
        Store.open(tmp_path)


def test_a_database_of_another_kind_is_no_telemetry(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.duckdb"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE t (a INTEGER)")
        other.commit()
    with pytest.raises(StoreError, match=f"{path} cannot be read: it is no DuckDB file"):
        Store.open(tmp_path)


def test_errors_survive_pickling() -> None:
    assert str(pickle.loads(pickle.dumps(StoreError("gone")))) == "gone"
