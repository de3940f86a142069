"""What sinks share: the error that means "not now", and the role of a sink that remembers what it stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa


class SinkUnavailableError(RuntimeError):
    """The sink cannot store at the moment (disk full, file gone); what was offered is not stored and may be sent again."""


class DurableSink(Protocol):
    """A sink that knows what it has, across restarts."""

    def fresh(self, batches: Sequence[pa.RecordBatch]) -> list[pa.RecordBatch]:
        """Those of `batches`, in order, that are neither stored yet nor ahead of a missing one."""
        ...

    def write(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Store batches durably before returning."""
        ...

    def high_water_mark(self, source: str, incarnation: int) -> int:
        """Highest stored sequence number of a producer; 0 if none."""
        ...

    def close(self) -> None:
        """Flush and release."""
        ...
