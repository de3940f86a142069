"""Exactly-once bookkeeping: which batch of a producer is next, which was seen, and which came too early."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from esper.nissa.wire import identity_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from esper.nissa.wire import BatchId


class Verdict(Enum):
    """What to do with an arriving batch."""

    NEW = "new"
    DUPLICATE = "duplicate"
    """Stored before; forget it."""
    EARLY = "early"
    """A predecessor is missing; forget it too, the producer sends both again."""


ABANDONED = 1 << 62
"""Mark of a life of which nothing more will be stored: whatever it sends counts as stored before."""


class HighWaterMarks:
    """Highest stored sequence number of every (source, incarnation); 0 where nothing is stored."""

    def __init__(self, marks: Mapping[tuple[str, int], int] | None = None) -> None:
        self._marks = dict(marks or {})

    def mark(self, source: str, incarnation: int) -> int:
        """Highest stored sequence number."""
        return self._marks.get((source, incarnation), 0)

    def judge(self, identity: BatchId) -> Verdict:
        """Say what `identity` is to this store, without changing anything."""
        mark = self.mark(identity.source, identity.incarnation)
        if identity.seq <= mark:
            return Verdict.DUPLICATE
        return Verdict.NEW if identity.after <= mark else Verdict.EARLY

    def advance(self, identity: BatchId) -> None:
        """Record that `identity` is stored."""
        self._marks[identity.source, identity.incarnation] = identity.seq

    def abandon(self, source: str, incarnation: int) -> None:
        """Record that nothing more of this life shall be stored."""
        self._marks[source, incarnation] = ABANDONED

    def select_new(self, batches: Sequence[pa.RecordBatch]) -> list[pa.RecordBatch]:
        """Those of `batches` that would be new if stored in this order."""
        trial = HighWaterMarks(self._marks)
        selected = []
        for batch in batches:
            identity = identity_of(batch)
            if trial.judge(identity) is Verdict.NEW:
                trial.advance(identity)
                selected.append(batch)
        return selected
