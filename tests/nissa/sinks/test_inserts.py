from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pytest

from esper.nissa.sinks.inserts import PreparedStatements

if TYPE_CHECKING:
    from collections.abc import Iterator

NUMBERS = pa.schema([("n", pa.int64()), ("text", pa.string())])
INSERT = "INSERT INTO told BY NAME SELECT * FROM {incoming}"


def rows(*numbers: int) -> pa.Table:
    return pa.table({"n": list(numbers), "text": [str(number) for number in numbers]}, schema=NUMBERS)


@pytest.fixture
def connection() -> Iterator[Any]:
    with duckdb.connect() as opened:
        opened.execute("CREATE TABLE told (extra DOUBLE, text VARCHAR, n BIGINT)")
        yield opened


def stored(connection: Any) -> list[int]:
    return [n for (n,) in connection.execute("SELECT n FROM told ORDER BY n").fetchall()]


def test_each_execution_takes_its_own_rows(connection: Any) -> None:
    with closing(PreparedStatements(connection, {"told": (NUMBERS, INSERT)})) as statements:
        for one in (rows(1), rows(2, 3), rows(), rows(4)):
            statements.execute("told", one)
    assert connection.execute("SELECT n, text, extra FROM told ORDER BY n").fetchall() == [(n, str(n), None) for n in (1, 2, 3, 4)]


def test_an_execution_that_is_rolled_back_leaves_the_statement_usable(connection: Any) -> None:
    with closing(PreparedStatements(connection, {"told": (NUMBERS, INSERT)})) as statements:
        connection.execute("BEGIN")
        statements.execute("told", rows(1))
        connection.execute("ROLLBACK")
        statements.execute("told", rows(2))
    assert stored(connection) == [2]


def test_a_statement_outlives_a_change_of_its_table(connection: Any) -> None:
    with closing(PreparedStatements(connection, {"told": (NUMBERS, INSERT)})) as statements:
        statements.execute("told", rows(1))
        connection.execute("ALTER TABLE told ADD COLUMN late INTEGER DEFAULT 5")
        statements.execute("told", rows(2))
    assert stored(connection) == [1, 2]


@pytest.mark.parametrize("other", [pa.table({"n": [1]}), pa.table({"n": [1.5], "text": ["a"]}), pa.table({"text": ["a"], "n": [1]})])
def test_other_columns_are_refused(connection: Any, other: pa.Table) -> None:
    with closing(PreparedStatements(connection, {"told": (NUMBERS, INSERT)})) as statements:
        assert statements.fits("told", rows(1))
        assert not statements.fits("told", other)
        with pytest.raises(ValueError, match="told takes the columns"):
            statements.execute("told", other)
    assert stored(connection) == []


def test_closed_statements_leave_their_names_to_others(connection: Any) -> None:
    for number in (1, 2):
        with closing(PreparedStatements(connection, {"told": (NUMBERS, INSERT)})) as statements:
            statements.execute("told", rows(number))
    assert stored(connection) == [1, 2]
