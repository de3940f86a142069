"""Tables of the telemetry file: made from Arrow schemas, widened when a schema has grown, never narrowed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from esper.leyline.telemetry.event import TelemetryEventType
from esper.leyline.telemetry.schema import GIVEN_ID, ORIGIN_COLUMNS, ORIGIN_FIELDS, event_schema, stored_schema, table_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from esper.nissa.wire import BatchId


_EVENT_ID = f"event_id VARCHAR GENERATED ALWAYS AS (coalesce({GIVEN_ID}, concat_ws('/', {', '.join(ORIGIN_COLUMNS)}))) VIRTUAL"
"""The column that shows an event's id, and takes no room."""


def event_tables() -> dict[str, pa.Schema]:
    """Table → columns, for every event type."""
    return {table_name(event_type): stored_schema(event_schema(event_type)) for event_type in TelemetryEventType}


def stored_rows(batches: Sequence[pa.RecordBatch], identities: Sequence[BatchId]) -> pa.Table:
    """The rows of batches of one table, as they are stored: one stretch of memory, so that the database copies long columns.

    Args:
        batches: At least one; where their columns differ, the table has those of all.
        identities: Of `batches`, in their order.
    """
    rows = _joined(batches)
    schema = stored_schema(rows.schema.remove_metadata())
    pairs = zip(rows.columns, schema, strict=False)
    columns = [column if column.type == field.type else column.cast(field.type) for column, field in pairs]
    origin = _origin([batch.num_rows for batch in batches], identities)
    index = schema.get_field_index(GIVEN_ID)
    named = pc.binary_join_element_wise(*(column.cast(pa.string()) for column in origin), "/")
    is_derived = pc.or_(pc.equal(columns[index], named), pc.equal(columns[index], ""))
    columns = [*columns[:index], pc.if_else(is_derived, None, columns[index]), *columns[index + 1 :], *origin]
    return pa.Table.from_arrays(columns, schema=schema).combine_chunks()


def _origin(lengths: Sequence[int], identities: Sequence[BatchId]) -> list[pa.Array]:
    """Columns `ORIGIN_FIELDS` of the rows of batches so long."""
    batch_of_row = np.repeat(np.arange(len(lengths)), lengths)
    places = np.concatenate([np.arange(length) for length in lengths])
    batch = zip(*((one.source, one.incarnation, one.seq) for one in identities), strict=True)
    return [*(pa.array(values).take(batch_of_row) for values in batch), pa.array(places, ORIGIN_FIELDS[-1].type)]


def _joined(batches: Sequence[pa.RecordBatch]) -> pa.Table:
    first = batches[0].schema
    if all(batch.schema.equals(first) for batch in batches):
        return pa.Table.from_batches(batches, schema=first)
    return pa.concat_tables([pa.Table.from_batches([batch]) for batch in batches], promote_options="permissive")


def ensure_tables(connection: Any, schemas: Mapping[str, pa.Schema]) -> dict[str, frozenset[str]]:
    """Create the tables that are missing, and add the columns that tables lack.

    All changes are one transaction, and a checkpoint follows, so that no DDL is ever replayed from the log.

    Args:
        connection: An open DuckDB connection outside a transaction.
        schemas: Table → Arrow schema as stored.

    Returns:
        Table → columns that it has now.
    """
    present = _present_columns(connection)
    statements = []
    for table, schema in schemas.items():
        missing = [field for field in schema if field.name not in present.get(table, ())]
        if missing:
            kinds = _column_types(connection, pa.schema(missing))
            statements += _statements(table, kinds, is_new=table not in present)
    if statements:
        connection.execute("BEGIN; " + "; ".join(statements) + "; COMMIT")
        connection.execute("CHECKPOINT")
    return {table: frozenset(schema.names) | present.get(table, frozenset()) for table, schema in schemas.items()}


def _column_types(connection: Any, schema: pa.Schema) -> dict[str, str]:
    connection.register("schema_of_rows", pa.Table.from_batches([], schema=schema))  # `schema.empty_table()` would import pandas
    try:
        return {row[0]: row[1] for row in connection.execute("DESCRIBE SELECT * FROM schema_of_rows").fetchall()}
    finally:
        connection.unregister("schema_of_rows")


def _present_columns(connection: Any) -> dict[str, frozenset[str]]:
    rows = connection.execute(
        "SELECT table_name, list(column_name) FROM duckdb_columns() WHERE database_name = current_database() AND NOT internal GROUP BY ALL"
    ).fetchall()
    return {table: frozenset(columns) for table, columns in rows}


def _statements(table: str, kinds: Mapping[str, str], *, is_new: bool) -> list[str]:
    if is_new:
        columns = [f'"{name}" {kind}' for name, kind in kinds.items()]
        named = [_EVENT_ID] if GIVEN_ID in kinds else []
        return [f'CREATE TABLE "{table}" ({", ".join([*named, *columns])})']
    return [f'ALTER TABLE "{table}" ADD COLUMN IF NOT EXISTS "{name}" {kind}' for name, kind in kinds.items()]
