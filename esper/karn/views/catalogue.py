"""The views of a telemetry file as SQL statements, in the order in which they can be created."""

from __future__ import annotations

from importlib.resources import files

from esper.leyline.telemetry.event import TelemetryEventType
from esper.leyline.telemetry.schema import table_name

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
    "aliases",
)
"""A view stands after those that it reads."""


def view_statements() -> list[str]:
    """`CREATE OR REPLACE VIEW` statements for a file that has every event table."""
    statements = [_raw_events()]
    for name in _IN_ORDER:
        statements += [statement for part in _read(name).split(";") if (statement := part.strip())]
    return statements


def _raw_events() -> str:
    branch = _read(_RAW_EVENTS)
    branches = [branch.format(table=table_name(event_type)) for event_type in TelemetryEventType]
    return f"CREATE OR REPLACE VIEW {_RAW_EVENTS} AS\n" + "\nUNION ALL\n".join(branches)


def _read(name: str) -> str:
    """The statements of a file without its comment lines."""
    lines = files("esper.karn.views").joinpath(f"{name}.sql").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("--"))
