"""Statements of a user over a telemetry file: one that reads, within bounds of time, rows and memory, and nothing but the file."""

from __future__ import annotations

import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFINED = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",
    "memory_limit": "1GB",
    "threads": "1",
    "lock_configuration": "true",
}
"""Settings of a connection from which no statement reaches another file, the network, this process's objects or its own limits."""
LONGEST_SEC = 86_400.0
"""Largest time limit."""
_NESTED = ("list", "array", "struct", "map")
"""Kinds of values that hold others."""
_EXPLAIN = re.compile(r"\s*EXPLAIN\b(?:\s+ANALYZE\b)?(?:\s*\(\s*(?:ANALYZE|FORMAT)\b[\w\s,]*\))?", re.IGNORECASE)
"""What stands before the statement that is explained; a comment among it is not understood, so that none can hide a statement."""


class QueryError(ValueError):
    """A statement that was refused, failed, or took too long; the message says which and why."""


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """How much one statement may take.

    Raises:
        QueryError: If a limit is not above 0, or the time is longer than a day.
    """

    max_rows: int = 10_000
    timeout_sec: float = 30.0
    """After which it is told to stop, which it does between two batches of rows: one huge value is made to its end."""

    def __post_init__(self) -> None:
        if self.max_rows < 1:
            raise QueryError(f"a query's rows are limited to a number from 1 on, got {self.max_rows}")
        if not 0.0 < self.timeout_sec <= LONGEST_SEC:
            raise QueryError(f"a query's time is limited to above 0 and at most {LONGEST_SEC:g} s, got {self.timeout_sec:g}")


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows of a statement."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    is_cut: bool
    """Whether there are more rows than were asked for."""


def connect_confined(path: Path) -> Any:
    """Open a telemetry file for reading, with `CONFINED` settings."""
    return duckdb.connect(str(path), read_only=True, config=dict(CONFINED))


def answer(connection: Any, sql: str, limits: QueryLimits) -> Answer:
    """Run one reading statement of a user on a confined connection.

    Raises:
        QueryError: If `sql` is not one statement that reads, is wrong, takes too long or too much memory.
    """
    statement = _single_statement(connection, sql)
    try:
        with _deadline(connection, limits.timeout_sec):
            connection.execute(statement)
            columns = tuple(column[0] for column in connection.description or ())
            kinds = [kind for _, kind, *_ in connection.description or ()]
            rows = connection.fetchmany(limits.max_rows + 1)
    except duckdb.InterruptException as error:
        raise QueryError(f"the query was stopped after {limits.timeout_sec:g} s; narrow it, or allow it more time") from error
    except duckdb.OutOfMemoryException as error:
        raise QueryError("the query needs more memory than it may take; narrow it") from error
    except duckdb.PermissionException as error:
        raise QueryError(f"a query reads this run's telemetry and nothing else: {_first_line(error)}") from error
    except duckdb.Error as error:
        raise QueryError(str(error).strip()) from error
    shown = [tuple(map(_shortest, kinds, row)) for row in rows[: limits.max_rows]]
    return Answer(columns, tuple(shown), len(rows) > limits.max_rows)


def _single_statement(connection: Any, sql: str) -> Any:
    """The statement to run. Only what reads, or explains what reads: `EXPLAIN ANALYZE` runs what it explains."""
    statement = _extracted(connection, sql)
    what = statement
    if statement.type == duckdb.StatementType.EXPLAIN:
        prefix = _EXPLAIN.match(statement.query)
        what = _extracted(connection, statement.query[prefix.end() :] if prefix else "")
    if what.type == duckdb.StatementType.MULTI:
        raise QueryError("PIVOT would write a type first; name the columns, as in PIVOT … ON x IN (a, b) …")
    if what.type != duckdb.StatementType.SELECT:
        raise QueryError(f"expected a statement that reads (SELECT, WITH, FROM, DESCRIBE, or EXPLAIN of one), got {what.type.name}")
    return statement


def _extracted(connection: Any, sql: str) -> Any:
    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(str(error).strip()) from error
    if len(statements) != 1:
        raise QueryError(f"expected one statement, got {len(statements)}")
    return statements[0]


def _shortest(kind: Any, value: Any) -> Any:
    """`value` with the shortest decimals that stand for its numbers in single precision, in lists, structs and maps too."""
    if value is None or kind.id not in ("float", *_NESTED):
        return value
    if kind.id == "float":
        return float(str(np.float32(value)))
    inner = dict(kind.children)
    if kind.id == "struct":
        return {name: _shortest(inner[name], item) for name, item in value.items()}
    if kind.id == "map":
        is_plain = inner["key"].id not in _NESTED  # else it comes as two lists
        return {key: _shortest(inner["value"], item) for key, item in value.items()} if is_plain else value
    return type(value)(_shortest(inner["child"], item) for item in value)


@contextmanager
def _deadline(connection: Any, seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
