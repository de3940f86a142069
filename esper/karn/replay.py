"""The stream behind a finished run: its stored batches, once more, in the order in which they were told."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from esper.leyline.telemetry import LEGACY_EVENT_NAMES, TWIN_MESSAGE, TelemetryEventType
from esper.leyline.telemetry.schema import GIVEN_ID, ORIGIN_COLUMNS, table_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from esper.karn.store import Store

Stretch = list[tuple[TelemetryEventType, "pa.Table"]]
READ_AT_ONCE = 100
"""Stretches that one query of a table reads, so that the number of queries does not grow with every stretch."""


def replay(store: Store, *, window_sec: float = 10.0) -> Iterator[Stretch]:
    """Yield the events of one stretch of time after the other, by type; stretches without events are left out.

    Args:
        store: An open run.
        window_sec: Length of a stretch.
    """
    window_us = round(window_sec * 1e6)
    first = store.rows("SELECT epoch_us(min(timestamp)) AS first FROM raw_events")[0]["first"]
    for start, event_types in _blocks(store, first, window_us * READ_AT_ONCE):
        stretches: dict[int, Stretch] = defaultdict(list)
        for event_type in event_types:
            rows = _between(store, event_type, start, start + window_us * READ_AT_ONCE)
            for number, part in _divide(rows, start, window_us):
                stretches[number].append((event_type, part))
        for number in sorted(stretches):
            yield stretches[number]


def _blocks(store: Store, first: int | None, length_us: int) -> list[tuple[int, list[TelemetryEventType]]]:
    """Where each stretch of `length_us` with events begins, in µs since 1970, and the types of its events."""
    if first is None:
        return []
    found = store.rows(
        "SELECT DISTINCT (epoch_us(timestamp) - $1) // $2 AS block, event_type FROM raw_events WHERE message <> $3",
        [first, length_us, TWIN_MESSAGE],
    )
    known = {**LEGACY_EVENT_NAMES, **{event_type.name: event_type for event_type in TelemetryEventType}}
    pairs = {(row["block"], known[row["event_type"]]) for row in found if row["event_type"] in known}
    blocks = sorted({block for block, _ in pairs})
    return [(first + block * length_us, [kind for kind in TelemetryEventType if (block, kind) in pairs]) for block in blocks]


def _between(store: Store, event_type: TelemetryEventType, start_us: int, end_us: int) -> pa.Table:
    return store.table(
        f'SELECT * EXCLUDE ({", ".join([GIVEN_ID, *ORIGIN_COLUMNS])}) FROM "{table_name(event_type)}" '
        "WHERE timestamp >= make_timestamp($1) AND timestamp < make_timestamp($2) AND message <> $3 "
        f"ORDER BY timestamp, {', '.join(ORIGIN_COLUMNS)}",
        [start_us, end_us, TWIN_MESSAGE],
    )


def _divide(rows: pa.Table, start_us: int, window_us: int) -> Iterator[tuple[int, pa.Table]]:
    """Rows in the order of time → number of the stretch from `start_us` on, and its rows."""
    times = rows.column("timestamp").to_numpy().astype("datetime64[us]").astype(np.int64)
    numbers = (times - start_us) // window_us
    firsts = np.flatnonzero(np.diff(numbers, prepend=-1))
    for begin, end in zip(firsts, [*firsts[1:], len(numbers)], strict=True):
        yield int(numbers[begin]), rows.slice(begin, end - begin)
