"""Settings of telemetry: how often it is shipped, how much is held back in trouble, and who listens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from esper.leyline.load import setting
from esper.leyline.telemetry.event import TelemetryEventType

FULL_LEVEL_EVENTS = frozenset({"COUNTERFACTUAL_MATRIX_COMPUTED"})
"""Event types that only the level `full` records: large, and needed for study rather than for following a run."""


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """All settings of nissa."""

    level: Literal["normal", "full"] = setting("normal", "normal leaves out the bulky event types; full records everything")
    muted: tuple[str, ...] = setting((), "names of event types that are not recorded at any level")
    flush_rows: int = setting(512, "events an emitter gathers before it ships them", unit="rows", ge=1)
    flush_sec: float = setting(1.0, "age at which gathered events are shipped; 0 ships every event at once", unit="s", ge=0.0)
    queue_capacity: int = setting(256, "places in the queue between producers and the sink", unit="batches", ge=1)
    spool_batches: int = setting(256, "unacknowledged batches a producer holds in memory", unit="batches", ge=1)
    spool_disk_mb: float = setting(
        512.0, "room on disk for batches beyond the memory spool; 0 drops them and counts the loss", unit="MB", ge=0.0
    )
    resend_sec: float = setting(15.0, "silence of the sink after which unacknowledged batches are sent again", unit="s", gt=0.0)
    console: Literal["off", "rounds", "detail"] = setting(
        "rounds", "off is silent; rounds is one line a round; detail adds growth and anomalies"
    )
    wandb: Literal["off", "offline", "online"] = setting("off", "online without a key falls back to offline and says so")
    wandb_project: str = setting("esper", "Weights & Biases project")

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            ValueError: If a muted name is no event type.
        """
        unknown = [name for name in self.muted if name not in TelemetryEventType.__members__]
        if unknown:
            raise ValueError(f"muted={unknown} names no event type; known: {', '.join(TelemetryEventType.__members__)}")

    def records(self, event_type_name: str) -> bool:
        """Say whether events of this type are kept."""
        return event_type_name not in self.muted and (self.level == "full" or event_type_name not in FULL_LEVEL_EVENTS)
