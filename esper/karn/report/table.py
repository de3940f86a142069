"""The comparison of policies as a table, on the terminal and as Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HEADINGS = ("policy", "utility [95 % CI]", "accuracy %", "ΔP/P0", "fossils", "episodes")


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """One policy's showing on one set of episodes. None is unmeasured."""

    policy: str
    utility: float
    """Mean over contexts and seeds."""
    utility_low: float | None
    """Lower end of the 95 % confidence interval."""
    utility_high: float | None
    accuracy: float
    """Percent."""
    growth_frac: float
    """Parameters added and kept, over the host's."""
    num_fossils: float
    """Mean per episode."""
    num_episodes: int


def rows_of(comparison: Mapping[str, Any]) -> list[PolicyRow]:
    """One row per policy of a comparison as `comparison.json` holds it, in its order."""
    rows = []
    for summary in comparison["summaries"]:
        policy, mean = summary["policy"], summary["mean"]
        played = comparison["outcomes"][policy]
        rows.append(
            PolicyRow(
                policy=policy,
                utility=float(mean["value"]),
                utility_low=None if mean["low"] is None else float(mean["low"]),
                utility_high=None if mean["high"] is None else float(mean["high"]),
                accuracy=fmean(outcome["final_accuracy"] for outcome in played),
                growth_frac=fmean(outcome["param_ratio"] - 1.0 for outcome in played),
                num_fossils=fmean(outcome["num_fossilized"] for outcome in played),
                num_episodes=len(played),
            )
        )
    return rows


def policy_table(rows: Sequence[PolicyRow], title: str | None = None) -> Table:
    """A table for the terminal; the best mean utility of each table is bold."""
    table = Table(title=title, box=SIMPLE_HEAD)
    table.add_column(HEADINGS[0], overflow="fold")
    for heading in HEADINGS[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    best = _best(rows)
    for row in rows:
        table.add_row(*_cells(row), style="bold" if row is best else None)
    return table


def markdown_table(rows: Sequence[PolicyRow]) -> str:
    """The same table as Markdown."""
    best = _best(rows)
    lines = ["| " + " | ".join(HEADINGS) + " |", "|---" + "|---:" * (len(HEADINGS) - 1) + "|"]
    for row in rows:
        cells = [cell.replace("|", "\\|") for cell in _cells(row)]
        lines.append("| " + " | ".join(f"**{cell}**" if row is best else cell for cell in cells) + " |")
    return "\n".join(lines)


def comparison_cells(rows: Sequence[PolicyRow]) -> list[tuple[str, ...]]:
    """The cells below `HEADINGS`, as text."""
    return [_cells(row) for row in rows]


def _best(rows: Sequence[PolicyRow]) -> PolicyRow | None:
    return max(rows, key=lambda row: row.utility, default=None)


def _cells(row: PolicyRow) -> tuple[str, ...]:
    has_interval = row.utility_low is not None and row.utility_high is not None
    interval = f" [{row.utility_low:.1f}, {row.utility_high:.1f}]" if has_interval else ""
    return (
        row.policy,
        f"{row.utility:.1f}{interval}",
        f"{row.accuracy:.1f}",
        f"{row.growth_frac:.2f}",
        f"{row.num_fossils:.1f}",
        str(row.num_episodes),
    )
