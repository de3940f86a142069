"""Statements that take Arrow tables in and are planned once: planning an insert into a wide table takes longer than a few rows do."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Mapping


class _Inlet:
    """What a prepared statement reads: other rows at every execution, always of the same columns."""

    def __init__(self, schema: pa.Schema) -> None:
        self.rows = self._empty = pa.Table.from_batches([], schema=schema)

    def clear(self) -> None:
        """Let go of the rows."""
        self.rows = self._empty

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The rows, by Arrow's PyCapsule interface."""
        return self.rows.__arrow_c_stream__(requested_schema)


class PreparedStatements:
    """Statements that take rows in, each planned at its first use.

    Whatever changes a table or a view on the connection makes the database plan every statement anew at each use, from then on: close
    these then, and make others.

    Args:
        connection: An open DuckDB connection outside of a transaction.
        statements: Name → columns that are taken in, and the statement, in which `{incoming}` stands for the rows.
    """

    def __init__(self, connection: Any, statements: Mapping[str, tuple[pa.Schema, str]]) -> None:
        self._connection = connection
        self._inlets = {name: _Inlet(schema) for name, (schema, _) in statements.items()}
        self._unplanned = {name: statement.format(incoming=f'"rows_of_{name}"') for name, (_, statement) in statements.items()}
        self._opened = ExitStack()
        for name, inlet in self._inlets.items():
            connection.register(f"rows_of_{name}", inlet)
            self._opened.callback(connection.unregister, f"rows_of_{name}")

    def fits(self, name: str, rows: pa.Table) -> bool:
        """Whether `rows` has exactly the columns that statement `name` takes."""
        return bool(rows.schema.equals(self._inlets[name].rows.schema))

    def execute(self, name: str, rows: pa.Table) -> None:
        """Run statement `name` on `rows`.

        Raises:
            ValueError: If their columns are not those that it takes.
        """
        if not self.fits(name, rows):
            raise ValueError(f"{name} takes the columns {self._inlets[name].rows.schema.names}, got {rows.schema.names} or other types")
        if name in self._unplanned:
            self._connection.execute(f'PREPARE "take_{name}" AS {self._unplanned[name]}')
            self._opened.callback(self._connection.execute, f'DEALLOCATE "take_{name}"')
            del self._unplanned[name]
        inlet = self._inlets[name]
        inlet.rows = rows
        try:
            self._connection.execute(f'EXECUTE "take_{name}"')
        finally:
            inlet.clear()

    def close(self) -> None:
        """Forget the statements."""
        self._opened.close()
