"""How stamped batches reach the sink: a Protocol, and the direct way within one process."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from esper.nissa.sinks.base import SinkUnavailableError
from esper.nissa.wire import decode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.nissa.sinks.base import DurableSink

logger = logging.getLogger(__name__)


class Transport(Protocol):
    """Carries batches to the sink. No call may wait, and none raises because the sink is away."""

    def try_put(self, batches: Sequence[bytes]) -> bool:
        """Take all of `batches`, in order, or none (False) if there is no room now."""
        ...

    def acknowledged(self, source: str, incarnation: int) -> int:
        """Highest sequence number known to be stored; 0 if none."""
        ...

    def hurry(self) -> None:
        """Say that somebody waits for what has been put to be stored, or that there was no room to put more."""
        ...


class InProcessTransport:
    """Writes to a sink in the same process; what is put is stored when the call returns."""

    def __init__(self, sink: DurableSink) -> None:
        self._sink = sink
        self._is_refused = False

    def try_put(self, batches: Sequence[bytes]) -> bool:
        """Store `batches`; False if the sink cannot store now."""
        try:
            self._sink.write([decode(payload) for payload in batches])
        except SinkUnavailableError as error:
            if not self._is_refused:
                logger.warning("telemetry is held back, its sink is unavailable: %s", error)
            self._is_refused = True
            return False
        if self._is_refused:
            logger.warning("the sink of telemetry is available again")
        self._is_refused = False
        return True

    def acknowledged(self, source: str, incarnation: int) -> int:
        """Highest sequence number that the sink has stored."""
        return self._sink.high_water_mark(source, incarnation)

    def hurry(self) -> None:
        """Everything is stored when it is put."""
