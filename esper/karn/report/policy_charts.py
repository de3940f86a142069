"""How the policy learned: gradient health, trust region, value quality, entropy by head, and what every head did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from esper.karn.details import update_columns
from esper.karn.report.figures import COLOURS, draw_lines, is_known, label_axes, new_figure, say_empty
from esper.leyline.actions import HEAD_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from esper.karn.store import Store

PASS = "pass of PPO"
_CHARTS = (
    ("Gradient health", "l2 norm", ("pre_clip_grad_norm", "grad_norm")),
    ("Trust region", "nats, or share of samples", ("kl_divergence", "approx_kl_max", "clip_fraction")),
    ("Value quality", "1 is perfect", ("explained_variance", "value_target_correlation")),
)
_HEAD_FIGURES = (
    ("kl", "KL of old from new, nats"),
    ("clip_fraction", "share of samples clipped"),
    ("grad_norm", "l2 norm of the gradient"),
    ("active_ratio", "share of samples that it mattered in"),
)


def policy_figure(store: Store) -> Any:
    """Gradient before and after clipping, trust region, value quality, and the entropies of all heads stacked."""
    columns = [name for _, _, names in _CHARTS for name in names]
    entropies = [f"head_{head}_entropy" for head in HEAD_NAMES]
    found = update_columns(store, [*columns, *entropies])
    figure = new_figure(height=6.4)
    (a, b), (c, d) = figure.subplots(2, 2)
    for axes, (title, unit, names) in zip((a, b, c), _CHARTS, strict=True):
        draw_lines(axes, found["pass_idx"], {name: found[name] for name in names}, title=title, y=unit, x_label=PASS)
    _draw_entropies(d, found, entropies)
    return figure


def head_figure(store: Store) -> Any:
    """KL, clipped share, gradient norm and active share of every head."""
    names = [f"head_{head}_{what}" for what, _ in _HEAD_FIGURES for head in HEAD_NAMES]
    found = update_columns(store, names)
    figure = new_figure(height=6.4)
    grid = figure.subplots(2, 2)
    has_legend = False
    for axes, (what, unit) in zip(grid.flat, _HEAD_FIGURES, strict=True):
        series = {head: found[f"head_{head}_{what}"] for head in HEAD_NAMES}
        drawn = draw_lines(axes, found["pass_idx"], series, title=what.replace("_", " "), y=unit, x_label=PASS)
        if drawn:
            axes.get_legend().remove()
            if not has_legend:
                handles, labels = axes.get_legend_handles_labels()
                figure.legend(handles, labels, loc="outside lower center", ncols=8, fontsize=8, frameon=False)
                has_legend = True
    return figure


def _draw_entropies(axes: Any, found: Mapping[str, Sequence[Any]], names: Sequence[str]) -> None:
    label_axes(axes, title="Entropy by head", x=PASS, y="share of the largest possible, stacked")
    known = [name for name in names if any(is_known(value) for value in found[name])]
    if not known:
        say_empty(axes, "not measured in this run")
        return
    heights = np.array([[value if is_known(value) else 0.0 for value in found[name]] for name in known], dtype=float)
    labels = [name.removeprefix("head_").removesuffix("_entropy") for name in known]
    axes.stackplot(found["pass_idx"], heights, labels=labels, colors=COLOURS, alpha=0.85)
    axes.set_xlim(found["pass_idx"][0], max(found["pass_idx"][-1], found["pass_idx"][0] + 1))
    handles, texts = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], texts[::-1], fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
