"""Questions to a file that another part of the program is writing."""

from __future__ import annotations

import json
import stat
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from esper.karn.live import ADDRESS_FILE, LiveAnswers, ask_live
from esper.karn.sandbox import QueryError, QueryLimits
from esper.karn.views.catalogue import view_statements
from esper.nissa.sinks.duckdb import DuckDBSink
from tests.fakes.telemetry import heartbeat_batch, read_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMITS = QueryLimits(max_rows=100, timeout_sec=20.0)
PREFIXES = ("", "EXPLAIN ", "EXPLAIN ANALYZE ")
NOT_READING = ("COMMIT", "ROLLBACK", "CHECKPOINT", "FORCE CHECKPOINT", "VACUUM", "LOAD json", "SET threads = 8")
ENDLESS = "SELECT sum(a.range * b.range) FROM range(10000000) AS a, range(10000000) AS b"


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[DuckDBSink]:
    file = DuckDBSink(tmp_path / "telemetry.duckdb", views=view_statements())
    file.write([heartbeat_batch(1)])
    yield file
    file.close()


@pytest.fixture
def answers(tmp_path: Path, sink: DuckDBSink) -> Iterator[LiveAnswers]:
    opened = LiveAnswers(tmp_path, sink.open_reader)
    yield opened
    opened.close()


@pytest.mark.usefixtures("answers")
def test_an_answer_has_what_was_stored_a_moment_ago(tmp_path: Path, sink: DuckDBSink) -> None:
    for seq in (2, 3):
        sink.write([heartbeat_batch(seq)])
        found = ask_live(tmp_path, "SELECT max(seq) AS newest, max(timestamp) AS at FROM heartbeats", LIMITS)
        assert found is not None
        assert (found.columns, found.rows, found.is_cut) == (("newest", "at"), ((seq, f"2026-11-21T09:00:0{seq}"),), False)


@pytest.mark.usefixtures("answers")
@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("SELECT * FROM read_text('/etc/passwd')", "nothing else"),
        ("SELECT * FROM '/etc/passwd'", "passwd"),
        ("COPY heartbeat TO '/tmp/stolen.csv'", "COPY"),
        ("ATTACH '/tmp/other.duckdb'", "ATTACH"),
        ("SET memory_limit = '1TB'", "SET"),
        ("DELETE FROM heartbeat", "DELETE"),
        ("WITH gone AS (DELETE FROM heartbeat RETURNING 1) SELECT * FROM gone", "read-only|DELETE"),
        *[(f"{prefix}{statement}", "expected a statement that reads") for prefix in PREFIXES for statement in NOT_READING],
        ("EXPLAIN ANALYZE DROP VIEW heartbeats", "DROP"),
        ("EXPLAIN ANALYZE CREATE TEMP VIEW rewards AS SELECT 1", "CREATE"),
        ("PIVOT heartbeat ON source USING count(*)", r"ON x IN \(a, b\)"),
        ("SELECT 1; DROP TABLE heartbeat", "one statement"),
        ("SELECT nope FROM runs", "nope"),
    ],
)
def test_what_does_not_read_telemetry_is_refused(tmp_path: Path, sink: DuckDBSink, statement: str, complaint: str) -> None:
    with pytest.raises(QueryError, match=complaint):
        ask_live(tmp_path, statement, LIMITS)
    assert read_rows(sink, "SELECT count(*) AS n FROM heartbeat") == [{"n": 1}]


@pytest.mark.usefixtures("answers")
def test_rows_and_time_are_limited_and_writing_goes_on_meanwhile(tmp_path: Path, sink: DuckDBSink) -> None:
    cut = ask_live(tmp_path, "FROM range(10)", QueryLimits(max_rows=3))
    assert cut is not None
    assert (len(cut.rows), cut.is_cut) == (3, True)
    refusals: list[str] = []

    def ask() -> None:
        try:
            ask_live(tmp_path, ENDLESS, QueryLimits(timeout_sec=1.0))
        except QueryError as error:
            refusals.append(str(error))

    reader = threading.Thread(target=ask)
    reader.start()
    for seq in range(2, 12):
        sink.write([heartbeat_batch(seq)])
    sink.publish_snapshot(tmp_path / "telemetry.snapshot.duckdb")
    reader.join()
    assert len(refusals) == 1
    assert "stopped after 1 s" in refusals[0]
    assert sink.high_water_mark("env-0", 0) == 11


class Watched:
    """A connection that notes who interrupts it, and does not begin before it was interrupted so many times."""

    def __init__(self, connection: Any, deaf_to: int) -> None:
        self._connection = connection
        self._deaf_to = deaf_to
        self.interrupted_by: list[str] = []
        self.is_open = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: Any) -> Any:
        self.is_open.set()
        deadline = time.monotonic() + LIMITS.timeout_sec
        while len(self.interrupted_by) < self._deaf_to and time.monotonic() < deadline:
            time.sleep(0.01)
        return self._connection.execute(statement)

    def interrupt(self) -> None:
        self.interrupted_by.append(threading.current_thread().name)
        self._connection.interrupt()


@pytest.mark.parametrize("deaf_to", [0, 1])
def test_an_end_stops_a_statement_that_runs_and_one_that_is_about_to(deaf_to: int, tmp_path: Path, sink: DuckDBSink) -> None:
    readers: list[Watched] = []

    def open_reader() -> Watched:
        readers.append(Watched(sink.open_reader(), deaf_to))
        return readers[-1]

    answers = LiveAnswers(tmp_path, open_reader)
    outcome: list[str] = []

    def ask() -> None:
        try:
            outcome.append(str(ask_live(tmp_path, ENDLESS, LIMITS)))
        except QueryError as error:
            outcome.append(str(error))

    asker = threading.Thread(target=ask)
    asker.start()
    deadline = time.monotonic() + LIMITS.timeout_sec
    while not readers and time.monotonic() < deadline:
        time.sleep(0.01)
    assert readers[0].is_open.wait(LIMITS.timeout_sec)
    answers.close()
    sink.close()
    asker.join(timeout=15.0)
    assert not asker.is_alive()
    assert len(outcome) == 1
    assert readers[0].interrupted_by[: deaf_to + 1] == [threading.current_thread().name] * (deaf_to + 1)
    assert ask_live(tmp_path, "SELECT 1", LIMITS) is None
    with closing(DuckDBSink(tmp_path / "telemetry.duckdb")) as again:
        assert again.high_water_mark("env-0", 0) == 1


@pytest.mark.usefixtures("answers")
def test_the_address_is_private_and_a_wrong_secret_gets_nothing(tmp_path: Path) -> None:
    path = tmp_path / ADDRESS_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    address = json.loads(path.read_text())
    path.write_text(json.dumps(address | {"token": "0" * 64}))
    assert ask_live(tmp_path, "SELECT 1", LIMITS) is None


@pytest.mark.parametrize("content", ["", "{}", '{"host": "elsewhere", "port": 1, "token": "x"}', '{"host": null}'])
def test_an_address_that_leads_nowhere_is_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / ADDRESS_FILE).write_text(content)
    assert ask_live(tmp_path, "SELECT 1", LIMITS) is None


def test_an_address_left_by_a_run_that_was_killed_is_nobody(tmp_path: Path, sink: DuckDBSink) -> None:
    answers = LiveAnswers(tmp_path, sink.open_reader)
    left = (tmp_path / ADDRESS_FILE).read_text()
    answers.close()
    (tmp_path / ADDRESS_FILE).write_text(left)
    assert ask_live(tmp_path, "SELECT 1", LIMITS) is None
