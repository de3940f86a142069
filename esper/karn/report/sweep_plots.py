"""One picture of a sweep: what was tried and how it came out, how trials went, and which parameters mattered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from esper.karn.report.figures import BLUE, GREY, ORANGE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from esper.karn.report.importance import ImportanceReport
    from esper.karn.sweeps import SweepTrialTable

NUM_TICKS = 5
MAX_LABEL = 22
"""Characters of an option's name on an axis."""


@dataclass(frozen=True)
class Axis:
    """One parameter of the space, as it is drawn."""

    key: str
    low: float = 0.0
    high: float = 1.0
    is_log: bool = False
    options: tuple[Any, ...] = ()
    """Of a choice; empty for a number."""

    def position(self, value: Any) -> float:
        """0…1 from the lower to the upper end, or from the first option to the last."""
        if self.options:
            return self.options.index(value) / max(len(self.options) - 1, 1)
        if self.is_log:
            return float((np.log(value) - np.log(self.low)) / (np.log(self.high) - np.log(self.low)))
        return float((value - self.low) / (self.high - self.low))

    def ticks(self) -> list[tuple[float, str]]:
        """Positions and their labels."""
        if self.options:
            return [(self.position(option), str(option)[:MAX_LABEL]) for option in self.options]
        ends = (np.geomspace if self.is_log else np.linspace)(self.low, self.high, NUM_TICKS)
        return [(self.position(value), f"{value:.3g}") for value in ends]


def positions(axes: Sequence[Axis], trials: Sequence[SweepTrialTable]) -> np.ndarray:
    """[N, P] of where each trial's values lie, 0…1, and -1 where a parameter does not apply."""
    rows = [[axis.position(t.parameters[axis.key]) if axis.key in t.parameters else -1.0 for axis in axes] for t in trials]
    return np.array(rows, dtype=np.float64).reshape(len(trials), len(axes))


def plot_sweep(
    trials: Sequence[SweepTrialTable],
    axes: Sequence[Axis],
    path: Path,
    *,
    metric: str,
    best_id: str | None,
    importance: ImportanceReport,
) -> Path:
    """Draw the sweep as a PNG of 1300 × 900 pixels.

    Args:
        trials: Those with at least one result.
        axes: The parameters, from left to right.
        path: Where the picture goes.
        metric: Name of the field of `RoundResult` that was optimised.
        best_id: The trial that is drawn in front.
        importance: What the bars show, or why there are none.

    Returns:
        `path`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 9), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, height_ratios=(1.1, 1), width_ratios=(1.25, 1))
    _draw_parallel(figure, figure.add_subplot(grid[0, :]), trials, axes, metric=metric, best_id=best_id)
    _draw_curves(figure.add_subplot(grid[1, 0]), trials, metric, best_id)
    _draw_importance(figure.add_subplot(grid[1, 1]), importance)
    figure.savefig(path)
    return path


def _draw_parallel(
    figure: Any, axes: Any, trials: Sequence[SweepTrialTable], columns: Sequence[Axis], *, metric: str, best_id: str | None
) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scores = np.array([_score(trial, metric) for trial in trials])
    low, high = (float(scores.min()), float(scores.max())) if len(scores) else (0.0, 1.0)
    high = high if high > low else low + 1.0
    everything = [*columns, Axis(metric, low, high)]
    table = np.column_stack([positions(columns, trials), (scores - low) / (high - low)])
    norm, colours = Normalize(low, high), colormaps["viridis_r"]
    for trial, row, score in zip(trials, table, scores, strict=True):
        is_best = trial.record.trial_id == best_id
        at = np.flatnonzero(row >= 0.0)
        is_early = trial.record.status != "completed" and not is_best
        axes.plot(
            at,
            row[at],
            color=colours(norm(score)),
            linewidth=3.5 if is_best else 1.4,
            linestyle="--" if is_early else "-",
            alpha=1.0 if is_best else 0.75,
            zorder=3 if is_best else 2,
            marker="o",
            markersize=5 if is_best else 3,
        )
    for place, column in enumerate(everything):
        axes.axvline(place, color=GREY, linewidth=0.9, zorder=1)
        for position, label in column.ticks():
            axes.annotate(
                label,
                (place, position),
                xytext=(4, 0),
                textcoords="offset points",
                fontsize=8,
                va="center",
                zorder=4,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6},
            )
    axes.set_xticks(range(len(everything)), [column.key for column in everything])
    axes.set_yticks([])
    axes.set_ylim(-0.06, 1.06)
    axes.set_xlim(-0.15, len(everything) - 0.65)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    gaps = "; no dot: does not apply" if (table < 0.0).any() else ""
    axes.set_title(f"{len(trials)} trials: what was tried, and {metric} (thick: best; dashed: ended early{gaps})", loc="left", fontsize=11)
    figure.colorbar(ScalarMappable(norm, colours), ax=axes, label=metric, pad=0.01)


def _draw_curves(axes: Any, trials: Sequence[SweepTrialTable], metric: str, best_id: str | None) -> None:
    for trial in trials:
        is_best = trial.record.trial_id == best_id
        steps, values = [r.env_steps for r in trial.results], [getattr(r, metric) for r in trial.results]
        colour = ORANGE if is_best else BLUE
        axes.plot(steps, values, color=colour, alpha=1.0 if is_best else 0.45, linewidth=2.4 if is_best else 1.2, marker="o", markersize=3)
        copied = [(r.env_steps, getattr(r, metric)) for r in trial.results if r.copied_from]
        if copied:
            axes.plot(*zip(*copied, strict=True), linestyle="none", marker="D", color=colour, markersize=8, markerfacecolor="none")
    has_copies = any(r.copied_from for trial in trials for r in trial.results)
    note = "; diamonds: continued from a better trial" if has_copies else ""
    axes.set_title(f"{metric} by trial (orange: best{note})", loc="left", fontsize=11)
    axes.set_xlabel("environment steps")
    axes.set_ylabel(metric)
    axes.grid(alpha=0.25)


def _draw_importance(axes: Any, importance: ImportanceReport) -> None:
    axes.set_title("which parameters mattered", loc="left", fontsize=11)
    if importance.reason is not None:
        axes.text(0.5, 0.5, importance.reason, ha="center", va="center", wrap=True, color=GREY, transform=axes.transAxes)
        axes.set_axis_off()
        return
    found = importance.importances[::-1]
    values, spreads = [one.value for one in found], [one.std for one in found]
    axes.barh([one.key for one in found], values, xerr=spreads, color=BLUE, ecolor=GREY, height=0.6)
    axes.axvline(0.0, color=GREY, linewidth=0.8)
    verdict = "" if importance.is_trustworthy else ": the forest predicts nothing, read no order into this"
    axes.set_xlabel(f"loss of R² when shuffled, on held-out trials (R² {importance.r_squared:.2f}{verdict})", fontsize=9, wrap=True)


def _score(trial: SweepTrialTable, metric: str) -> float:
    assert trial.last is not None
    return float(getattr(trial.last, metric))


def table_of(trials: Sequence[SweepTrialTable], keys: Sequence[str], metric: str) -> list[Mapping[str, str]]:
    """Cells of the report's table of trials, by heading."""
    rows: list[Mapping[str, str]] = []
    for trial in trials:
        last = trial.last
        cells = {"trial": str(trial.record.number), "status": trial.record.status, "rounds": str(last.rounds) if last else "0"}
        cells |= {"env steps": str(last.env_steps) if last else "0", metric: f"{getattr(last, metric):.2f}" if last else "—"}
        rows.append(cells | {key: _show(trial.parameters[key]) if key in trial.parameters else "—" for key in keys})
    return rows


def _show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
