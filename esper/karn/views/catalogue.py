"""The views of a telemetry file as SQL statements, in the order in which they can be created."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from esper.leyline.telemetry.event import TelemetryEventType
from esper.leyline.telemetry.legacy import TWIN_MESSAGE
from esper.leyline.telemetry.schema import table_name

if TYPE_CHECKING:
    from collections.abc import Sequence

_RAW_EVENTS = "raw_events"
_IN_ORDER = (
    "runs",
    "tolaria_epochs",
    "tamiyo_updates",
    "tolaria_batches",
    "episode_outcomes",
    "seed_lifecycle",
    "decisions",
    "rewards",
    "anomalies",
    "growth",
    "counterfactuals",
    "attributions",
    "seed_states",
    "infrastructure",
    "heartbeats",
    "reward_calibration",
    "blueprint_scoreboard",
    "aliases",
)
"""A view stands after those that it reads."""


def view_statements(further_tables: Sequence[str] = ()) -> list[str]:
    """`CREATE OR REPLACE VIEW` statements for a file that has every event table.

    Args:
        further_tables: Event tables of types that this version does not know, which `raw_events` shall show too.
    """
    statements = [_raw_events(further_tables)]
    for name in _IN_ORDER:
        statements += [statement for part in _read(name).split(";") if (statement := part.strip())]
    return statements


def _raw_events(further_tables: Sequence[str]) -> str:
    branch = _read(_RAW_EVENTS)
    tables = [*map(table_name, TelemetryEventType), *further_tables]
    branches = [branch.format(table=table) for table in tables]
    return f"CREATE OR REPLACE VIEW {_RAW_EVENTS} AS\n" + "\nUNION ALL\n".join(branches)


def _read(name: str) -> str:
    """The statements of a file without its comment lines; `{twin}` is the message of events that are told once more under an old name."""
    lines = files("esper.karn.views").joinpath(f"{name}.sql").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("--")).replace("{twin}", TWIN_MESSAGE)
