"""One picture of a run: did utility rise, is the value function learning, and what grew where."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from esper.karn.queries import learning_curve, outcomes
from esper.karn.report.figures import BLUE, COLOURS, GREY, ORANGE, STYLES, say_empty

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.karn.queries import LearningPoint, Outcome
    from esper.karn.report.table import PolicyRow
    from esper.karn.store import Store

BASELINE_COLOURS, BASELINE_STYLES = COLOURS[1:7], STYLES[1:]
"""The first of each is the learned policy's."""
MAX_PLACES = 10
"""Columns of the heat map."""
SETTLED_FRAC = 0.25
"""Last share of the episodes that the heat map shows: what the policy came to do."""


def plot_run(store: Store, comparison: Sequence[PolicyRow] | None, path: Path) -> Path:
    """Draw the run as a PNG of 1200 × 800 pixels.

    Args:
        store: An open run.
        comparison: Policies to draw as horizontal lines with their confidence interval; None or empty draws none.
        path: Where the picture goes; folders are made.

    Returns:
        `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    run_figure(store, comparison).savefig(path, format="png")
    return path


def run_figure(store: Store, comparison: Sequence[PolicyRow] | None) -> Any:
    """The picture that `plot_run` writes, as a matplotlib figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes long, and a run draws only when it has ended
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    halves: Any = figure.subfigures(2, 1, height_ratios=(1.05, 1))
    above, below = halves
    grid = below.add_gridspec(2, 2, width_ratios=(1, 1.25))
    episodes = outcomes(store, "train") or outcomes(store)
    curve = learning_curve(store)
    _draw_utility(above.add_subplot(), episodes, comparison or ())
    variance_axes = below.add_subplot(grid[0, 0])
    _draw_series(variance_axes, curve, "explained_variance", "explained variance", BLUE)
    variance_axes.axhline(0.0, color=GREY, linewidth=0.8)
    entropy_axes = below.add_subplot(grid[1, 0], sharex=variance_axes)
    _draw_series(entropy_axes, curve, "entropy", "policy entropy", ORANGE)
    variance_axes.tick_params(labelbottom=False)
    entropy_axes.set_xlabel("episodes completed")
    _draw_growth(below, below.add_subplot(grid[:, 1]), episodes)
    return figure


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last `window` values at every place, of fewer at the beginning.

    Args:
        values: [N].
        window: At least 1.

    Returns:
        [N].
    """
    totals = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    means: np.ndarray = (totals[ends] - totals[starts]) / (ends - starts)
    return means


def _draw_utility(axes: Any, episodes: Sequence[Outcome], comparison: Sequence[PolicyRow]) -> None:
    axes.set_title("Utility of every training episode", loc="left", fontsize=12)
    axes.set_xlabel("episode")
    axes.set_ylabel("utility (points: accuracy − rent)")
    axes.grid(alpha=0.25)
    known = [(episode.number, episode.utility) for episode in episodes if episode.utility is not None]
    if known:
        numbers, utilities = (np.array(values) for values in zip(*known, strict=True))
        window = max(8, len(known) // 20)
        axes.scatter(numbers, utilities, s=9, color=BLUE, alpha=0.25, linewidths=0, label="episode")
        start = min(window, len(known)) // 2
        axes.plot(numbers[start:], running_mean(utilities, window)[start:], color=BLUE, linewidth=2.2, label=f"mean of {window} episodes")
    else:
        say_empty(axes, "not measured in this run" if episodes else "no episode has ended yet")
    for index, row in enumerate(comparison):
        colour = BASELINE_COLOURS[index % len(BASELINE_COLOURS)]
        style = BASELINE_STYLES[index // len(BASELINE_COLOURS) % len(BASELINE_STYLES)]
        axes.axhline(row.utility, color=colour, linestyle=style, linewidth=1.6, label=f"{row.policy}: {row.utility:.1f}")
        if row.utility_low is not None and row.utility_high is not None:
            axes.axhspan(row.utility_low, row.utility_high, color=colour, alpha=0.12, linewidth=0)
    if known or comparison:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9, frameon=False)


def _draw_series(axes: Any, curve: Sequence[LearningPoint], name: str, label: str, colour: str) -> None:
    known = [(point.episodes, getattr(point, name)) for point in curve if getattr(point, name) is not None]
    axes.set_ylabel(label)
    axes.grid(alpha=0.25)
    if known:
        axes.plot(*zip(*known, strict=True), color=colour, marker="o", markersize=3, linewidth=1.6)
    else:
        say_empty(axes, "not measured")


def _draw_growth(figure: Any, axes: Any, episodes: Sequence[Outcome]) -> None:
    settled = episodes[-max(int(len(episodes) * SETTLED_FRAC), 1) :]
    axes.set_title(f"What grew where: last {len(settled)} episodes", loc="left", fontsize=12)
    contexts = sorted({episode.context for episode in settled})
    counts = Counter((episode.context, place) for episode in settled for place in episode.kept)
    totals: Counter[str] = Counter()
    for (_, place), count in counts.items():
        totals[place] += count
    if not totals:
        say_empty(axes, "nothing was kept")
        return
    places = sorted(place for place, _ in totals.most_common(MAX_PLACES))
    num_episodes = Counter(episode.context for episode in settled)
    shares = np.array([[counts[context, place] / num_episodes[context] for place in places] for context in contexts])
    image = axes.imshow(shares, cmap="cividis", vmin=0.0, vmax=max(1.0, float(shares.max())), aspect="auto")
    axes.set_xticks(range(len(places)), places, rotation=35, ha="right", fontsize=9)
    axes.set_yticks(range(len(contexts)), contexts, fontsize=9)
    hidden = len(totals) - len(places)
    axes.set_xlabel("slot:blueprint" + (f" ({hidden} rarer ones not shown)" if hidden else ""))
    axes.set_ylabel("context")
    if shares.size <= 80:
        for row, column in zip(*np.nonzero(shares), strict=True):
            share = shares[row, column]
            axes.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=8, color="black" if share > 0.55 else "white")
    figure.colorbar(image, ax=axes, label="kept per episode")
