"""The stream behind a finished run: its stored batches, once more, in the order in which they were told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.leyline.telemetry import TWIN_MESSAGE, TelemetryEventType
from esper.leyline.telemetry.schema import table_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from esper.karn.store import Store

ORIGIN = ("producer", "incarnation", "seq")


def replay(store: Store, *, window_sec: float = 10.0) -> Iterator[list[tuple[TelemetryEventType, pa.Table]]]:
    """Yield the events of one stretch of time after the other, by type; stretches without events are left out.

    Args:
        store: An open run.
        window_sec: Length of a stretch.
    """
    bounds = store.rows("SELECT epoch(min(timestamp)) AS first, epoch(max(timestamp)) AS last FROM raw_events")[0]
    if bounds["first"] is None:
        return
    event_types = [event_type for event_type in TelemetryEventType if _count(store, event_type)]
    start = bounds["first"]
    while start <= bounds["last"]:
        found = [(event_type, _between(store, event_type, start, start + window_sec)) for event_type in event_types]
        found = [(event_type, rows) for event_type, rows in found if rows.num_rows]
        if found:
            yield found
        start += window_sec


def _count(store: Store, event_type: TelemetryEventType) -> int:
    return int(store.rows(f'SELECT count(*) AS num FROM "{table_name(event_type)}"')[0]["num"])


def _between(store: Store, event_type: TelemetryEventType, start: float, end: float) -> pa.Table:
    return store.table(
        f'SELECT * EXCLUDE ({", ".join(ORIGIN)}) FROM "{table_name(event_type)}" '
        "WHERE timestamp >= make_timestamp(($1 * 1e6)::BIGINT) AND timestamp < make_timestamp(($2 * 1e6)::BIGINT) AND message <> $3 "
        "ORDER BY timestamp",
        [start, end, TWIN_MESSAGE],
    )
