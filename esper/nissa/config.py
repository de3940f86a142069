"""Settings of telemetry: how often it is shipped, how much is held back in trouble, and who listens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from esper.leyline.load import setting
from esper.leyline.telemetry.event import TelemetryEventType

EVERY_STEP = frozenset(
    {
        TelemetryEventType.TOLARIA_EPOCH_COMPLETED.name,
        TelemetryEventType.REWARD_COMPUTED.name,
        TelemetryEventType.SEED_STAGE_CHANGED.name,
        TelemetryEventType.SEED_GATE_EVALUATED.name,
        TelemetryEventType.TAMIYO_STEP_EVALUATED.name,
    }
)
"""Events that happen in every step or nearly so."""


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """All settings of nissa."""

    level: Literal["off", "light", "normal", "full"] = setting(
        "normal",
        "off records nothing; light leaves out what happens at every step; full also records every epoch's counterfactuals, and with "
        "every reward how all seeds stood",
    )
    legacy_events: bool = setting(
        False,
        "also record renamed events under the names they had before, for readers that know no others; of the views only raw_events shows "
        "both, with one event_id",
    )
    muted: tuple[str, ...] = setting((), "names of event types that are not recorded at any level")
    timing_epochs: int = setting(
        5, "host epochs from one measurement of forward, backward, optimizer and transfer times to the next; 0 never", unit="epochs", ge=0
    )
    gradient_flow_epochs: int = setting(
        5, "host epochs from one measurement of every layer's gradient to the next; 0 never", unit="epochs", ge=0
    )
    infrastructure_rounds: int = setting(
        5, "rounds from one snapshot of memory, compilation and step times to the next; 0 never", unit="rounds", ge=0
    )
    heartbeat_sec: float = setting(10.0, "shortest time between two signs of life of one process; 0 never", unit="s", ge=0.0)
    snapshot_sec: float = setting(
        30.0, "shortest time between two copies of the file that others can read while the run is alive; 0 makes none", unit="s", ge=0.0
    )
    live_queries: bool = setting(
        True, "answer `esper query` on this machine while the run is alive; whoever can read the run's folder may ask, and only read"
    )
    flush_rows: int = setting(512, "events an emitter gathers before it ships them", unit="rows", ge=1)
    flush_sec: float = setting(1.0, "age at which gathered events are shipped; 0 ships every event at once", unit="s", ge=0.0)
    queue_capacity: int = setting(256, "places in the queue between producers and the sink", unit="batches", ge=1)
    spool_batches: int = setting(256, "unacknowledged batches a producer holds in memory", unit="batches", ge=1)
    spool_disk_mb: float = setting(
        512.0, "room on disk for batches beyond the memory spool; 0 drops them and counts the loss", unit="MB", ge=0.0
    )
    resend_sec: float = setting(15.0, "silence of the sink after which unacknowledged batches are sent again", unit="s", gt=0.0)
    settle_sec: float = setting(
        10.0,
        "longest wait for the sink when an episode, a round or a part is over, so that a process that dies takes nothing along",
        unit="s",
        ge=0.0,
    )
    console: Literal["off", "rounds", "detail"] = setting(
        "rounds", "off is silent; rounds is one line a round; detail adds growth and anomalies"
    )
    wandb: Literal["off", "offline", "online"] = setting("off", "online without a key falls back to offline and says so")
    wandb_project: str = setting("esper", "Weights & Biases project")
    wandb_group: str = setting("", "runs of one group are shown together, and a run that begins again goes on where it was; empty is none")

    def __post_init__(self) -> None:
        """Check the names, and that there is something to show.

        Raises:
            ValueError: If a muted name is no event type, or if Weights & Biases shall show a run that records nothing.
        """
        if self.level == "off" and self.wandb != "off":
            raise ValueError(f"wandb={self.wandb} shows what telemetry records, and level=off records nothing; set one of them")
        unknown = [name for name in self.muted if name not in TelemetryEventType.__members__]
        if unknown:
            raise ValueError(f"muted={unknown} names no event type; known: {', '.join(TelemetryEventType.__members__)}")

    def records(self, event_type_name: str) -> bool:
        """Say whether events of this type are kept."""
        if self.level == "off" or event_type_name in self.muted:
            return False
        return self.level != "light" or event_type_name not in EVERY_STEP

    @property
    def is_on(self) -> bool:
        """Whether anything is recorded."""
        return self.level != "off"

    @property
    def is_full(self) -> bool:
        """Whether what is bulky, and needed for study rather than for following a run, is recorded too."""
        return self.level == "full"
