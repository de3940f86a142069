"""What happened step by step in the newest round: how hosts trained, where their gradients went, and what the policy weighed."""

from __future__ import annotations

from collections import Counter, defaultdict
from statistics import fmean, quantiles
from typing import TYPE_CHECKING, Any

import numpy as np

from esper.karn.details import update_columns
from esper.karn.report.figures import BLUE, COLOURS, ORANGE, draw_lines, is_known, label_axes, new_figure, say_empty, whole_ticks
from esper.karn.steps import decisions, host_epochs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from esper.karn.steps import Decision, HostEpoch
    from esper.karn.store import Store

EPOCH = "host epoch"
MAX_LAYERS = 16
"""Rows of the picture of gradients; the commonest layers."""
MIN_NORM = 1e-12
"""Norms below it are drawn as if they were it."""
_TIMES = ("forward_time_ms", "backward_time_ms", "optimizer_step_time_ms", "data_transfer_time_ms", "evaluation_time_ms")


def host_figure(store: Store) -> Any:
    """Losses, times and gradients of the newest round's hosts by host epoch, and the loss scale of the policy's updates."""
    epochs = host_epochs(store)
    figure = new_figure(height=6.8)
    (a, b), (c, d) = figure.subplots(2, 2)
    _draw_losses(a, epochs)
    _draw_times(b, epochs)
    _draw_gradients(figure, c, epochs)
    updates = update_columns(store, ["loss_scale"])
    draw_lines(d, updates["pass_idx"], {"loss scale": updates["loss_scale"]}, title="Mixed precision: loss scale", x_label="pass of PPO")
    return figure


def decision_figure(store: Store) -> Any:
    """What the policy did in the newest round by host epoch, and how sure it was."""
    found = [one for one in decisions(store) if one.inner_epoch is not None]
    figure = new_figure(height=3.2)
    left, right = figure.subplots(1, 2)
    _draw_operations(left, found)
    places = sorted({one.inner_epoch for one in found if one.inner_epoch is not None})
    by_epoch = [[one for one in found if one.inner_epoch == place] for place in places]
    series: dict[str, list[float | None]] = {
        "confidence in what was done": [fmean(one.action_confidence for one in some) for some in by_epoch],
        "likeliest operation not taken": [_mean(max(one.alternatives.values(), default=None) for one in some) for some in by_epoch],
    }
    drawn = draw_lines(right, places, series, title="How sure it was", y="mean probability", x_label=EPOCH)
    if drawn:
        right.set_ylim(0.0, 1.05)
        whole_ticks(right)
    return figure


def _draw_losses(axes: Any, epochs: Sequence[HostEpoch]) -> None:
    places = sorted({one.inner_epoch for one in epochs})
    label_axes(axes, title="Losses of the newest round's hosts: mean and quartiles", x=EPOCH, y="nats")
    if not places:
        say_empty(axes, "no host epoch was recorded")
        return
    for name, colour in (("train_loss", BLUE), ("val_loss", ORANGE)):
        found = {place: _values(getattr(one, name) for one in epochs if one.inner_epoch == place) for place in places}
        known = {place: values for place, values in found.items() if values}
        if not known:
            continue
        axes.plot(list(known), [fmean(values) for values in known.values()], color=colour, marker="o", markersize=3, label=name[:-5])
        bands = [quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3 for values in known.values()]
        axes.fill_between(list(known), [band[0] for band in bands], [band[2] for band in bands], color=colour, alpha=0.15, linewidth=0)
    axes.legend(fontsize=8, frameon=False)
    whole_ticks(axes)


def _draw_times(axes: Any, epochs: Sequence[HostEpoch]) -> None:
    label_axes(axes, title="Where a host epoch's time goes, in sampled epochs", x=EPOCH, y="ms, mean over hosts")
    sampled = [one for one in epochs if one.forward_time_ms is not None]
    places = sorted({one.inner_epoch for one in sampled})
    if not places:
        say_empty(axes, "not measured in this run")
        return
    bottoms = [0.0] * len(places)
    for index, name in enumerate(_TIMES):
        heights = [_mean(getattr(one, name) for one in sampled if one.inner_epoch == place) or 0.0 for place in places]
        label = name.removesuffix("_time_ms").replace("_", " ")
        axes.bar(places, heights, bottom=bottoms, width=0.6, color=COLOURS[index], alpha=0.85, label=label)
        bottoms = [base + height for base, height in zip(bottoms, heights, strict=True)]
    axes.set_xticks(places)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _draw_gradients(figure: Any, axes: Any, epochs: Sequence[HostEpoch]) -> None:
    label_axes(axes, title="Gradient flow: mean l2 norm by layer", x=f"{EPOCH} (sampled)", y="")
    norms: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in epochs:
        for layer, norm in (one.grad_norm_per_layer or {}).items():
            norms[_layer(layer)][one.inner_epoch].append(norm)
    if not norms:
        say_empty(axes, "not measured in this run")
        return
    common = Counter({layer: sum(map(len, found.values())) for layer, found in norms.items()}).most_common(MAX_LAYERS)
    layers = sorted(layer for layer, _ in common)
    places = sorted({place for layer in layers for place in norms[layer]})
    means = np.array([[_mean(norms[layer].get(place, ())) for place in places] for layer in layers], dtype=float)  # None is NaN
    image = axes.imshow(np.log10(np.maximum(means, MIN_NORM)), cmap="cividis", aspect="auto", interpolation="nearest")
    axes.set_xticks(range(len(places)), [str(place) for place in places])
    axes.set_yticks(range(len(layers)), layers, fontsize=7)
    axes.grid(visible=False)
    hidden = len(norms) - len(layers)
    if hidden:
        axes.set_xlabel(f"{EPOCH} (sampled); {hidden} rarer layers not shown", fontsize=9)
    figure.colorbar(image, ax=axes, label="log10 of the norm")


def _draw_operations(axes: Any, found: Sequence[Decision]) -> None:
    label_axes(axes, title="What the policy did in the newest round", x=EPOCH, y="share of hosts")
    if not found:
        say_empty(axes, "no decision was recorded")
        return
    places = sorted({one.inner_epoch for one in found if one.inner_epoch is not None})
    taken = Counter((one.action_name, one.inner_epoch) for one in found)
    totals = Counter(one.inner_epoch for one in found)
    bottoms = [0.0] * len(places)
    for index, name in enumerate(sorted({one.action_name for one in found})):
        heights = [taken[name, place] / totals[place] for place in places]
        axes.bar(places, heights, bottom=bottoms, width=0.8, color=COLOURS[index % len(COLOURS)], alpha=0.85, label=name.lower())
        bottoms = [base + height for base, height in zip(bottoms, heights, strict=True)]
    whole_ticks(axes)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _layer(name: str) -> str:
    """Layers of seeds together by slot: `slots.1.r0c1@4.rise` is `seed in slots.1`."""
    parts = name.split(".")
    return f"seed in {'.'.join(parts[:2])}" if parts[0] == "slots" else name


def _values(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and is_known(value)]


def _mean(values: Iterable[float | None]) -> float | None:
    known = _values(values)
    return fmean(known) if known else None
