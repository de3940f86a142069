"""What was rewarded, and how the machine fared."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from esper.karn.details import machine_readings, reward_rounds
from esper.karn.queries import learning_curve
from esper.karn.report.figures import COLOURS, GREY, draw_lines, label_axes, new_figure, say_empty, whole_ticks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from esper.karn.details import MachineReading
    from esper.karn.store import Store

_TIMES = ("avg_forward_time_ms", "avg_backward_time_ms", "avg_optimizer_time_ms", "avg_data_transfer_time_ms")


def reward_figure(store: Store) -> Any:
    """Mean reward of a step in every round: its parts stacked, the total as a line."""
    rounds = reward_rounds(store)
    figure = new_figure(height=3.2)
    axes = figure.subplots()
    label_axes(axes, title="What rewards were made of", x="round", y="mean per step, reward units")
    if not rounds:
        say_empty(axes, "no reward was recorded")
        return figure
    places = [one.round_idx for one in rounds]
    above, below = [0.0] * len(rounds), [0.0] * len(rounds)
    for index, part in enumerate(rounds[0].parts):
        values = [one.parts[part] for one in rounds]
        bottoms = [above[i] if value >= 0 else below[i] for i, value in enumerate(values)]
        hatch = None if index < len(COLOURS) else "//"
        axes.bar(places, values, bottom=bottoms, width=0.8, color=COLOURS[index % len(COLOURS)], alpha=0.8, hatch=hatch, label=part)
        above = [base + max(value, 0.0) for base, value in zip(above, values, strict=True)]
        below = [base + min(value, 0.0) for base, value in zip(below, values, strict=True)]
    axes.plot(places, [one.mean_total for one in rounds], color="#222222", marker="o", markersize=3, linewidth=1.4, label="total")
    axes.axhline(0.0, color=GREY, linewidth=0.8)
    axes.use_sticky_edges = False  # bars would leave no room above the highest total
    axes.autoscale_view()
    whole_ticks(axes)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def machine_figure(store: Store) -> Any:
    """The infrastructure timeline: speed, load, memory, and where an epoch's time went."""
    readings = machine_readings(store)
    figure = new_figure(height=5.8)
    (a, b), (c, d) = figure.subplots(2, 2)
    curve = learning_curve(store)
    speeds = {"env steps": [point.env_steps_per_sec for point in curve]}
    draw_lines(a, [point.round_idx for point in curve], speeds, title="Speed", y="env steps per second", x_label="round")
    _draw_readings(b, readings, ("cpu_utilization_pct", "gpu_utilization_pct"), title="Load", y="percent")
    _draw_readings(c, readings, ("host_memory_used_gb", "cuda_memory_active_gb"), title="Memory", y="GB")
    _draw_times(d, readings)
    return figure


def _draw_readings(axes: Any, readings: Sequence[MachineReading], names: Sequence[str], *, title: str, y: str) -> None:
    start = readings[0].timestamp if readings else datetime.min
    label_axes(axes, title=title, x="minutes since the first snapshot", y=y)
    lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for one in readings:
        for name in names:
            value = getattr(one, name)
            if value is not None:
                what = "" if name == names[0] else " GPU"
                lines[f"{one.source}{what}"].append(((one.timestamp - start).total_seconds() / 60, value))
    if not lines:
        say_empty(axes, "not measured in this run")
        return
    for index, (label, points) in enumerate(lines.items()):
        axes.plot(*zip(*points, strict=True), color=COLOURS[index % len(COLOURS)], marker="o", markersize=3, linewidth=1.4, label=label)
    highest = max(value for points in lines.values() for _, value in points)
    axes.set_ylim(0.0, 1.06 * highest if highest > 0.0 else 1.0)
    axes.legend(fontsize=8, frameon=False)


def _draw_times(axes: Any, readings: Sequence[MachineReading]) -> None:
    label_axes(axes, title="Where a host epoch's time goes", x="process", y="ms per sampled epoch")
    means = _mean_times(readings)
    if not means:
        say_empty(axes, "not measured in this run")
        return
    bottoms = [0.0] * len(means)
    for index, name in enumerate(_TIMES):
        heights = [times.get(name, 0.0) for times in means.values()]
        label = name.removeprefix("avg_").removesuffix("_time_ms").replace("_", " ")
        axes.bar(list(means), heights, bottom=bottoms, width=0.55, color=COLOURS[index], alpha=0.85, label=label)
        bottoms = [base + height for base, height in zip(bottoms, heights, strict=True)]
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _mean_times(readings: Sequence[MachineReading]) -> Mapping[str, Mapping[str, float]]:
    """Process → measured time → mean over its snapshots."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in readings:
        for name in _TIMES:
            value = getattr(one, name)
            if value is not None:
                found[one.source][name].append(value)
    return {source: {name: sum(values) / len(values) for name, values in times.items()} for source, times in found.items()}
