"""A sink that keeps batches in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.leyline.telemetry.precision import as_double
from esper.nissa.marks import HighWaterMarks
from esper.nissa.wire import identity_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa


class MemorySink:
    """Holds every batch once, in the order of arrival."""

    def __init__(self) -> None:
        self._marks = HighWaterMarks()
        self.batches: list[pa.RecordBatch] = []

    def fresh(self, batches: Sequence[pa.RecordBatch]) -> list[pa.RecordBatch]:
        """Those of `batches` that are new and next in order."""
        return self._marks.select_new(batches)

    def write(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Append the new ones of `batches`."""
        for batch in self.fresh(batches):
            self._marks.advance(identity_of(batch))
            self.batches.append(batch)

    def high_water_mark(self, source: str, incarnation: int) -> int:
        """Highest sequence number held."""
        return self._marks.mark(source, incarnation)

    def rows(self, event_type: str) -> list[dict[str, object]]:
        """All rows of one event type."""
        return [row for batch in self.batches if identity_of(batch).event_type == event_type for row in as_double(batch).to_pylist()]

    def close(self) -> None:
        """Nothing is to be released."""
