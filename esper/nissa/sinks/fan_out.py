"""One stream, several listeners: the durable sink first, then whoever wants to watch."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING

from esper.leyline.telemetry.schema import is_legacy_twin
from esper.nissa.sinks.base import SinkUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from esper.leyline.ports import Sink
    from esper.nissa.sinks.base import DurableSink

logger = logging.getLogger(__name__)


class FanOutSink:
    """Stores in `primary`, then shows the same batches, each once, to `watchers`.

    Events that are told once more under an old name are only stored. A watcher that is unavailable misses batches and is
    counted; it never holds up the primary.
    """

    def __init__(self, primary: DurableSink, watchers: Sequence[Sink]) -> None:
        self._primary = primary
        self._watchers = tuple(watchers)
        self._missed: dict[str, int] = {}

    def fresh(self, batches: Sequence[pa.RecordBatch]) -> list[pa.RecordBatch]:
        """Those of `batches` that the primary has not stored."""
        return self._primary.fresh(batches)

    def write(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Store the fresh ones of `batches`, then pass them on."""
        fresh = self._primary.fresh(batches)
        if not fresh:
            return
        self._primary.write(fresh)
        news = [batch for batch in fresh if not is_legacy_twin(batch)]
        for watcher in self._watchers:
            try:
                watcher.write(news)
            except SinkUnavailableError as error:
                name = type(watcher).__name__
                self._missed[name] = self._missed.get(name, 0) + len(news)
                logger.warning("%s misses %d batches: %s", name, len(news), error)

    def missed(self) -> dict[str, int]:
        """Kind of watcher → batches that it did not get; those that got all are left out."""
        return dict(self._missed)

    def high_water_mark(self, source: str, incarnation: int) -> int:
        """Highest sequence number that the primary has stored."""
        return self._primary.high_water_mark(source, incarnation)

    def close(self) -> None:
        """Close the watchers, then the primary, whatever happens to one of them."""
        with ExitStack() as stack:
            for one in (self._primary, *reversed(self._watchers)):
                stack.callback(one.close)
