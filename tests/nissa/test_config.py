from __future__ import annotations

import pytest

from esper.leyline.load import ConfigError, dump, load
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
