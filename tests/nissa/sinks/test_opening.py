"""A telemetry file that another process holds at the moment of opening."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from esper.cli.main import main
from esper.nissa.sinks.base import SinkUnavailableError
from esper.nissa.sinks.duckdb import DuckDBSink
from tests.fakes.telemetry import heartbeat_batch

if TYPE_CHECKING:
    from collections.abc import Iterator

HOLDER = """
import sys
import duckdb
connection = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "reads")
if sys.argv[2] == "writes":
    connection.execute("PRAGMA disable_checkpoint_on_shutdown; CREATE TABLE told AS SELECT 7 AS seq")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(path: Path, purpose: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the file open until its input ends."""
    command = [sys.executable, "-c", HOLDER, str(path), purpose]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.parametrize("folder", ["run", "WALLY", "Conflicting lock"])
def test_the_log_of_a_living_owner_is_left_alone(folder: str, tmp_path: Path) -> None:
    path = tmp_path / folder / "t.duckdb"
    path.parent.mkdir()
    with held(path, "writes"):
        before = {file.name: file.stat().st_size for file in path.parent.iterdir()}
        assert "t.duckdb.wal" in before
        with pytest.raises(SinkUnavailableError, match="while another process holds it"):
            DuckDBSink(path, lock_patience_sec=0.0)
        assert {file.name: file.stat().st_size for file in path.parent.iterdir()} == before


def test_a_file_that_is_no_database_is_not_taken_for_one_with_a_bad_log(tmp_path: Path) -> None:
    path = tmp_path / "WAL lock" / "t.duckdb"
    path.parent.mkdir()
    path.write_text("not a database " * 1000)
    wal = path.with_name("t.duckdb.wal")
    wal.write_text("somebody's")
    with pytest.raises(SinkUnavailableError, match="cannot be opened for writing: "):
        DuckDBSink(path)
    assert wal.read_text() == "somebody's"


def test_a_reader_that_lets_go_in_time_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "t.duckdb"
    DuckDBSink(path).close()
    with held(path, "reads") as reader:
        assert reader.stdin is not None
        release = threading.Timer(0.7, reader.stdin.close)
        release.start()
        with closing(DuckDBSink(path, lock_patience_sec=120.0)) as sink:
            sink.write([heartbeat_batch(1)])
            assert sink.high_water_mark("env-0", 0) == 1
        release.join()


def test_a_held_file_is_one_line_to_the_user(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def resume(*_: object, **__: object) -> bool:
        raise SinkUnavailableError("telemetry.duckdb is held by process 7")

    monkeypatch.setattr("esper.cli.run.resume_run", resume)
    assert main(["resume", str(Path("runs/one"))]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].endswith("telemetry.duckdb is held by process 7")
