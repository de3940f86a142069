"""Today's views over a file of any age: what the file lacks is added beside it, in the reader's memory, and the file stays as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from esper.karn.views.catalogue import view_statements
from esper.leyline.telemetry.event import TelemetryEventType
from esper.leyline.telemetry.schema import ENVELOPE_COLUMNS, event_schema, stored_schema, table_name

if TYPE_CHECKING:
    from collections.abc import Mapping

_INCOMING = "missing_columns"
_OF_EVERY_EVENT = {*ENVELOPE_COLUMNS, "producer", "incarnation", "seq"}
"""Columns by which a table of events is known."""
_OWN_TABLES: Mapping[str, Mapping[str, str]] = {
    "high_water_marks": {"source": "VARCHAR", "incarnation": "BIGINT", "seq": "BIGINT", "dropped_events": "BIGINT"},
    "rejected_batches": {"producer": "VARCHAR", "incarnation": "BIGINT", "seq": "BIGINT", "event_type": "VARCHAR", "num_events": "BIGINT"},
    "incidents": {"noticed_at": "TIMESTAMP", "kind": "VARCHAR", "detail": "VARCHAR"},
}
"""What the file says of itself: table → columns that are asked for, and their types."""


def overlay_views(connection: Any) -> None:
    """Create today's views in the connection's temporary schema, above event tables that have today's columns.

    Event tables of types that this version does not know take part in `raw_events`. What the sink says of the file itself is
    completed too.
    """
    database = connection.execute("SELECT current_database()").fetchall()[0][0]
    present = _present_columns(connection)
    statements = []
    known = {table_name(event_type): event_type for event_type in TelemetryEventType}
    for table, event_type in known.items():
        missing = [field for field in stored_schema(event_schema(event_type)) if field.name not in present.get(table, frozenset())]
        named = {"event_id": "VARCHAR"} if table not in present else {}
        kinds = dict(_column_types(connection, pa.schema(missing))) if missing else {}
        statements += _completed(database, table, named | kinds, is_absent=table not in present)
    for table, columns in _OWN_TABLES.items():
        kinds = {name: kind for name, kind in columns.items() if name not in present.get(table, frozenset())}
        statements += _completed(database, table, kinds, is_absent=table not in present)
    unknown = sorted(table for table, columns in present.items() if table not in known and columns >= _OF_EVERY_EVENT)
    views = [s.replace("CREATE OR REPLACE VIEW", "CREATE OR REPLACE TEMP VIEW", 1) for s in view_statements(unknown)]
    connection.execute(";\n".join([*statements, *views]))


def _completed(database: str, table: str, missing: Mapping[str, str], *, is_absent: bool) -> list[str]:
    """A view that stands before a table which lacks columns, or before none."""
    if not missing:
        return []
    added = ", ".join(f'NULL::{kind} AS "{name}"' for name, kind in missing.items())
    if is_absent:
        return [f'CREATE OR REPLACE TEMP VIEW "{table}" AS SELECT {added} WHERE false']
    return [f'CREATE OR REPLACE TEMP VIEW "{table}" AS SELECT *, {added} FROM "{database}".main."{table}"']


def _column_types(connection: Any, schema: pa.Schema) -> Mapping[str, str]:
    connection.register(_INCOMING, pa.Table.from_batches([], schema=schema))
    try:
        return {row[0]: row[1] for row in connection.execute(f"DESCRIBE SELECT * FROM {_INCOMING}").fetchall()}
    finally:
        connection.unregister(_INCOMING)


def _present_columns(connection: Any) -> dict[str, frozenset[str]]:
    rows = connection.execute(
        "SELECT c.table_name, list(c.column_name) FROM duckdb_columns() AS c JOIN duckdb_tables() AS t USING (database_name, table_name) "
        "WHERE c.database_name = current_database() AND NOT c.internal GROUP BY ALL"
    ).fetchall()
    return {table: frozenset(columns) for table, columns in rows}
