"""A run's report as a Markdown file beside its picture: what was run, how it went, and how it compares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.karn.queries import growth_table, run_overview
from esper.karn.report.plots import plot_run
from esper.karn.report.table import markdown_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from esper.karn.queries import GrowthCell, RunOverview
    from esper.karn.report.table import PolicyRow
    from esper.karn.store import Store

REPORT_FILE = "report.md"
PICTURE_FILE = "report.png"
MAX_GROWTH_ROWS = 15


def write_report(
    store: Store,
    folder: Path,
    *,
    config: Mapping[str, Any],
    comparison: Sequence[PolicyRow] = (),
    paths: Mapping[str, Path] | None = None,
) -> Path:
    """Write `report.md` and `report.png` into `folder`.

    Args:
        store: An open run.
        folder: Where both go; made if missing.
        config: The run's configuration as plain values.
        comparison: Policies side by side; an empty one leaves the section out.
        paths: Further files worth knowing, by name.

    Returns:
        The Markdown file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    picture = plot_run(store, comparison, folder / PICTURE_FILE)
    overview = run_overview(store)
    sections = [
        f"# Run of {overview.task or 'an unnamed task'}",
        "\n".join(f"- {name}: {value}" for name, value in overview_facts(overview).items()),
        f"![Utility by episode, value function, entropy, and what grew where]({picture.name})",
    ]
    if comparison:
        sections += ["## Comparison", markdown_table(comparison)]
    cells = [cell for cell in growth_table(store) if cell.num_kept]
    if cells:
        sections += ["## What grew where", _growth_lines(cells)]
    sections += ["## Files", _path_lines({"telemetry": store.path, "picture": picture, **(paths or {})})]
    if overview.versions:
        sections += ["## Versions", "\n".join(f"- {name} {version}" for name, version in sorted(overview.versions.items()))]
    sections += ["## Configuration", f"```json\n{json.dumps(config, indent=2, sort_keys=True, default=str)}\n```"]
    report = folder / REPORT_FILE
    report.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return report


def overview_facts(overview: RunOverview) -> dict[str, object]:
    """What is known of a run, in words: fact → value, `unknown` where it did not say."""
    facts = {
        "started": f"{overview.started_at:%Y-%m-%d %H:%M:%S} UTC" if overview.started_at else None,
        "ended": overview.stop_reason or "not yet",
        "seed": overview.seed,
        "episodes": f"{overview.episodes} of {overview.planned_episodes}" if overview.planned_episodes else overview.episodes,
        "rounds": overview.rounds,
        "env steps": overview.env_steps,
        "wall time": f"{overview.wall_sec:.0f} s" if overview.wall_sec is not None else None,
        "env steps per second": f"{overview.env_steps_per_sec:.0f}" if overview.env_steps_per_sec is not None else None,
        "mean utility, last tenth": f"{overview.mean_utility_last:.1f}" if overview.mean_utility_last is not None else None,
        "anomalies": overview.num_anomalies,
        "telemetry events lost": overview.dropped_events,
        "telemetry events rejected": overview.rejected_events,
        "telemetry incidents": overview.num_incidents,
    }
    return {name: "unknown" if value is None else value for name, value in facts.items()}


def _growth_lines(cells: Sequence[GrowthCell]) -> str:
    lines = ["| context | slot | blueprint | planted | kept | worth (points) |", "|---|---|---|---:|---:|---:|"]
    for cell in cells[:MAX_GROWTH_ROWS]:
        worth = "–" if cell.mean_contribution is None else f"{cell.mean_contribution:+.1f}"
        lines.append(f"| {cell.context} | {cell.slot_id} | {cell.blueprint_id} | {cell.num_planted} | {cell.num_kept} | {worth} |")
    if len(cells) > MAX_GROWTH_ROWS:
        lines.append(f"\n{len(cells) - MAX_GROWTH_ROWS} rarer combinations are not shown.")
    return "\n".join(lines)


def _path_lines(paths: Mapping[str, Path]) -> str:
    return "\n".join(f"- {name}: `{path}`" for name, path in paths.items())
