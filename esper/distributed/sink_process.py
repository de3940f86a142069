"""What the actor that stores is made of, and all that it loads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from esper.distributed.sink_worker import SinkWorker
from esper.distributed.telemetry_queue import Drain, make_queue
from esper.distributed.telemetry_store import TelemetryStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper.distributed.shared_disk import SharedFolder
    from esper.nissa.config import TelemetryConfig


def build_sink(
    telemetry: TelemetryConfig, settings: Mapping[str, Any], folder: SharedFolder, keep_rounds: int | None, namespace: str
) -> SinkWorker:
    """The part that drains a namespace's queue into the store of a run; arguments as for `TelemetryStore`."""

    def open_store() -> TelemetryStore:
        folder.require("telemetry sink")
        return TelemetryStore(telemetry, settings, folder.paths, keep_rounds=keep_rounds, life=folder.token)

    return SinkWorker(open_store, Drain(make_queue(telemetry.queue_capacity, namespace)), rest_sec=telemetry.flush_sec)
