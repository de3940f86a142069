"""`esper status`: one screen about one run."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from esper.cli.exit_codes import OK
from esper.distributed.status import RunStatus, run_status

if TYPE_CHECKING:
    import argparse


def run_status_command(options: argparse.Namespace) -> int:
    """Print how far the run is."""
    status = run_status(options.run_dir)
    print(json.dumps(dataclasses.asdict(status), indent=1) if options.json else render(status))
    return OK


def render(status: RunStatus) -> str:
    """One line per fact; a dash is what nobody knows."""
    age = status.checkpoint_age_sec
    faults = f"{_number(status.parts_lost)} lost, {_number(status.parts_recovered)} started again"
    rows = {
        "run": status.run_dir,
        "phase": status.phase.value,
        "owner": str(status.owner or "nobody"),
        "rounds": f"{status.rounds} of {status.planned_rounds}",
        "episodes": str(status.episodes),
        "env steps": f"{status.env_steps}, {_number(status.env_steps_per_sec)} a second",
        "utility": f"{_number(status.utility)} (last saved round)",
        "checkpoint": f"{status.checkpoint}, {age:.0f} s old" if status.checkpoint and age is not None else "-",
        "parts": faults,
        "telemetry": f"{_number(status.events_lost)} events lost; incidents: {_number(status.incidents)}",
    }
    lines = [f"{name:<11} {value}" for name, value in rows.items()]
    if status.is_resumable:
        lines.append(f"continue with: esper resume {status.run_dir}")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
