"""What grew: the life of every seed in the newest round, what became of seeds over the run, and who earned the accuracy."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from esper.karn.details import gains_by_size, last_round_envs, last_round_seeds, seed_fates, slot_attributions
from esper.karn.report.figures import COLOURS, GREY, label_axes, new_figure, say_empty, whole_ticks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from esper.karn.details import SeedEpoch
    from esper.karn.store import Store

STAGE_COLOURS = {
    "GERMINATED": "#F0E442",
    "TRAINING": "#56B4E9",
    "BLENDING": "#E69F00",
    "HOLDING": "#CC79A7",
    "FOSSILIZED": "#009E73",
    "PRUNED": "#D55E00",
    "EMBARGOED": "#D8D8D8",
    "RESETTING": "#BDBDBD",
}
REMOVED_STAGES = frozenset({"PRUNED", "EMBARGOED", "RESETTING"})
"""Stages of a slot whose seed is gone."""
ROW_INCHES = 0.3
PRUNE_MARK: Mapping[str, Any] = {"marker": "X", "color": "#D55E00", "markersize": 8, "markeredgecolor": "#222222", "zorder": 5}
MAX_ENVS = 8
"""Environments that the timeline shows."""


def timeline_figure(store: Store) -> Any:
    """The newest round: which seed lived where and when, its stage as colour, its alpha as height, its blueprint, and its removal."""
    seeds, num_envs = last_round_seeds(store, max_envs=MAX_ENVS), len(last_round_envs(store))
    rows = sorted({(one.env_id, one.slot_id) for one in seeds})
    figure = new_figure(height=max(2.0, 1.3 + ROW_INCHES * len(rows)))
    axes = figure.subplots()
    which = f", {MAX_ENVS} of its {num_envs} environments" if num_envs > MAX_ENVS else ""
    title = f"Seeds of the newest round{which}: colour is the stage, the dark line is alpha"
    label_axes(axes, title=title, x="host epoch", y="environment and slot")
    if not seeds:
        say_empty(axes, "no seed was planted")
        return figure
    for _, life in groupby(seeds, key=lambda one: (one.env_id, one.slot_id, one.seed_id)):
        states = list(life)
        _draw_life(axes, rows.index((states[0].env_id, states[0].slot_id)), states)
    axes.set_yticks(range(len(rows)), [f"env {env_id} {slot_id}" for env_id, slot_id in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    last = max(one.inner_epoch for one in seeds)
    axes.set_xlim(0, last)
    whole_ticks(axes)
    _draw_legend(figure, {one.stage for one in seeds})
    return figure


def fates_figure(store: Store) -> Any:
    """Seeds planted, kept and removed, round by round."""
    fates = seed_fates(store)
    figure = new_figure(height=2.8)
    axes = figure.subplots()
    label_axes(axes, title="Seeds over the run", x="round", y="seeds in a round")
    if not fates:
        say_empty(axes, "no seed was planted")
        return figure
    rounds = [one.round_idx for one in fates]
    for offset, name, colour in ((-0.27, "planted", COLOURS[0]), (0.0, "kept", COLOURS[2]), (0.27, "pruned", COLOURS[1])):
        counts = [getattr(one, f"num_{name}") for one in fates]
        axes.bar([r + offset for r in rounds], counts, width=0.26, color=colour, label=name)
    whole_ticks(axes)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def attribution_figure(store: Store) -> Any:
    """Shapley values by slot, and what sets of one, two and more seeds gained."""
    figure = new_figure(height=3.2)
    left, right = figure.subplots(1, 2)
    label_axes(left, title="Shapley value by slot: mean and quartiles", x="slot", y="points of accuracy")
    slots = slot_attributions(store)
    if slots:
        for place, one in enumerate(slots):
            left.plot([place, place], [one.low, one.high], color=COLOURS[0], linewidth=7, alpha=0.35, solid_capstyle="butt")
            left.plot([place], [one.mean_value], "o", color=COLOURS[0])
        left.set_xticks(range(len(slots)), [f"{one.slot_id}\n{one.num_episodes} seeds" for one in slots])
        left.set_xlim(-0.6, len(slots) - 0.4)
        left.axhline(0.0, color=GREY, linewidth=0.8)
    else:
        say_empty(left, "no attribution was computed")
    label_axes(right, title="Gain of sets of seeds over none", x="seeds switched on", y="points of accuracy")
    gains = gains_by_size(store)
    if gains:
        right.boxplot(list(gains.values()), tick_labels=[str(size) for size in gains], showfliers=False, medianprops={"color": COLOURS[1]})
        right.axhline(0.0, color=GREY, linewidth=0.8)
    else:
        say_empty(right, "no set of seeds was tried")
    return figure


def _draw_life(axes: Any, row: int, states: Sequence[SeedEpoch]) -> None:
    for state in states:
        colour = STAGE_COLOURS.get(state.stage, GREY)
        axes.barh(row, 1.0, left=state.inner_epoch - 1, height=0.86, color=colour, alpha=0.75, linewidth=0)
    edges = [x for state in states for x in (state.inner_epoch - 1, state.inner_epoch)]
    heights = [row + 0.42 - 0.84 * state.alpha for state in states for _ in range(2)]
    axes.plot(edges, heights, color="#222222", linewidth=1.1)
    gone = next((state for state in states if state.stage in REMOVED_STAGES), None)
    if gone is not None:
        axes.plot([gone.inner_epoch - 1], [row], linestyle="none", **PRUNE_MARK)
    axes.text(states[0].inner_epoch - 0.93, row - 0.02, states[0].blueprint_id, fontsize=6.5, va="center", ha="left", color="#111111")


def _draw_legend(figure: Any, stages: set[str]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    shown: list[Any] = [Patch(color=colour, alpha=0.75, label=stage.lower()) for stage, colour in STAGE_COLOURS.items() if stage in stages]
    if stages & REMOVED_STAGES:
        shown.append(Line2D([], [], linestyle="none", label="pruned", **PRUNE_MARK))
    figure.legend(handles=shown, loc="outside lower center", ncols=len(shown), fontsize=8, frameon=False)
