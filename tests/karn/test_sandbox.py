from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import pytest

from esper.karn.sandbox import QueryError, QueryLimits
from esper.karn.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PREFIXES = ("", "EXPLAIN ", "EXPLAIN ANALYZE ", "EXPLAIN (ANALYZE) ")
NOT_READING = ("COMMIT", "ROLLBACK", "CHECKPOINT", "FORCE CHECKPOINT", "VACUUM", "LOAD json", "SET threads = 8")


@pytest.fixture
def store(run_dir: Path) -> Iterator[Store]:
    with Store.open(run_dir) as opened:
        yield opened


def test_an_answer_has_its_columns_and_rows(store: Store) -> None:
    found = store.ask("SELECT task, seed FROM runs")
    assert (found.columns, found.rows, found.is_cut) == (("task", "seed"), (("image-mix", 7),), False)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("0.1::FLOAT", 0.1),
        ("-1e-30::FLOAT", -1e-30),
        ("0.1::DOUBLE + 0.2::DOUBLE", 0.1 + 0.2),
        ("NULL::FLOAT", None),
        ("'inf'::FLOAT", float("inf")),
        ("[0.1::FLOAT, NULL]", [0.1, None]),
        ("[0.1, 0.7]::FLOAT[2]", (0.1, 0.7)),
        ("{'a': 0.1::FLOAT, 'b': [{'c': 0.7::FLOAT, 'd': 3}]}", {"a": 0.1, "b": [{"c": 0.7, "d": 3}]}),
        ("MAP {'a': 0.1::FLOAT}", {"a": 0.1}),
        ("{'key': [0.1::FLOAT]}", {"key": [0.1]}),
        ("MAP {[1]: 2}", {"key": [[1]], "value": [2]}),
        ("row('a', 2)", ("a", 2)),
    ],
)
def test_numbers_in_single_precision_are_shown_as_the_shortest_that_stand_for_them(store: Store, value: str, shown: object) -> None:
    assert store.ask(f"SELECT {value} AS value").rows == ((shown,),)


def test_rows_beyond_the_limit_are_left_out_and_told(store: Store) -> None:
    assert (store.ask("FROM range(5)", QueryLimits(max_rows=5))).is_cut is False
    cut = store.ask("FROM range(6)", QueryLimits(max_rows=5))
    assert (len(cut.rows), cut.is_cut) == (5, True)


def test_a_long_query_is_stopped_and_the_store_still_answers(store: Store) -> None:
    with pytest.raises(QueryError, match=r"stopped after 0\.2 s"):
        store.ask("SELECT sum(a.range * b.range) FROM range(1000000) AS a, range(1000000) AS b", QueryLimits(timeout_sec=0.2))
    assert store.ask("SELECT 1").rows == ((1,),)


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("SELECT * FROM read_text('/etc/passwd')", "nothing else"),
        ("SELECT * FROM '/etc/passwd'", "passwd"),
        ("SELECT * FROM glob('/*')", "nothing else"),
        ("COPY runs TO '/tmp/stolen.csv'", "COPY"),
        ("ATTACH '/tmp/other.duckdb'", "ATTACH"),
        ("SET enable_external_access = true", "SET"),
        ("DELETE FROM heartbeat", "DELETE"),
        ("CREATE TABLE t AS SELECT 1", "CREATE"),
        ("INSTALL httpfs", "LOAD"),
        ("SELECT 1; DROP TABLE heartbeat", "one statement"),
        ("", "one statement"),
        ("SELEC 1", "syntax error"),
        ("SELECT nope FROM runs", "nope"),
        ("SELECT * FROM store", "store"),
        ("EXPLAIN ANALYZE CREATE OR REPLACE TEMP VIEW rewards AS SELECT 1", "CREATE"),
        ("EXPLAIN /* (ANALYZE) */ CREATE OR REPLACE TEMP VIEW rewards AS SELECT 1", "CREATE"),
        ("EXPLAIN (ANALYZE /*) SELECT 1 --*/) CREATE OR REPLACE TEMP VIEW rewards AS SELECT 1", "syntax error"),
        ("EXPLAIN ANALYZE DROP VIEW rewards", "DROP"),
        ("EXPLAIN ANALYZE WITH gone AS (DELETE FROM heartbeat RETURNING 1) FROM gone", "read-only"),
        *[(f"{prefix}{statement}", "expected a statement that reads") for prefix in PREFIXES for statement in NOT_READING],
        ("PIVOT seed_lifecycle ON event_type USING count(*)", r"ON x IN \(a, b\)"),
        ("EXPLAIN PIVOT seed_lifecycle ON event_type USING count(*)", r"ON x IN \(a, b\)"),
    ],
)
def test_what_does_not_read_telemetry_is_refused(store: Store, statement: str, complaint: str) -> None:
    with pytest.raises(QueryError, match=complaint):
        store.ask(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "EXPLAIN SELECT 1",
        "explain analyze FROM runs",
        "EXPLAIN (ANALYZE, FORMAT json) SELECT 1",
        "EXPLAIN ANALYZE (SELECT 1)",
        "EXPLAIN ANALYZE WITH x AS (SELECT 1) FROM x",
        "DESCRIBE runs",
        "PIVOT seed_lifecycle ON event_type IN ('SEED_GERMINATED', 'SEED_FOSSILIZED') USING count(*)",
    ],
)
def test_what_reads_is_answered(store: Store, statement: str) -> None:
    assert store.ask(statement).rows


@pytest.mark.parametrize(("max_rows", "timeout_sec"), [(0, 1.0), (1, 0.0), (1, -1.0), (1, float("inf")), (1, float("nan")), (1, 1e300)])
def test_a_limit_that_limits_nothing_is_refused(max_rows: int, timeout_sec: float) -> None:
    with pytest.raises(QueryError, match="limited"):
        QueryLimits(max_rows, timeout_sec)


def test_memory_is_bounded(store: Store) -> None:
    with pytest.raises(QueryError, match="memory"):
        store.ask("SELECT list(range) FROM range(1000000000)")


def test_errors_survive_pickling() -> None:
    assert str(pickle.loads(pickle.dumps(QueryError("wrong")))) == "wrong"
