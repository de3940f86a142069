from __future__ import annotations

import pytest

from esper.leyline.load import ConfigError, dump, load
from esper.leyline.telemetry import TelemetryEventType
from esper.nissa.config import TelemetryConfig


def test_settings_survive_dump_and_load() -> None:
    config = TelemetryConfig(level="full", muted=("HEARTBEAT",), wandb="offline")
    assert load(TelemetryConfig, dump(config)) == config


@pytest.mark.parametrize(
    ("key", "value"),
    [("flush_rows", 0), ("queue_capacity", 0), ("wandb", "cloud"), ("console", "loud"), ("flush_row", 3), ("muted", ["HEARTBEATS"])],
)
def test_nonsense_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        load(TelemetryConfig, {key: value})


def test_levels_record_more_and_more() -> None:
    recorded = [
        {name for name in TelemetryEventType.__members__ if TelemetryConfig(level=level).records(name)}
        for level in ("off", "light", "normal")
    ]
    assert recorded[0] == set()
    assert recorded[0] < recorded[1] < recorded[2] == set(TelemetryEventType.__members__)
    assert {"TRAINING_STARTED", "RUN_FINISHED", "EPISODE_OUTCOME", "TAMIYO_POLICY_UPDATE", "RATIO_EXPLOSION_DETECTED"} <= recorded[1]
    assert "REWARD_COMPUTED" not in recorded[1]


def test_what_records_nothing_cannot_be_shown() -> None:
    with pytest.raises(ValueError, match="level=off"):
        TelemetryConfig(level="off", wandb="offline")
