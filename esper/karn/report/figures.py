"""The ground of every chart in a report: size, axes, what is said where there is nothing to show, and SVG as text."""

from __future__ import annotations

import base64
import io
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BLUE, ORANGE = "#0072B2", "#D55E00"
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A8A8A")
"""From the palette of Okabe and Ito, which people with any common colour vision can tell apart."""
GREY = "#767676"
"""Of what is no data."""
STYLES = ("-", "--", "-.", ":")


def new_figure(*, height: float = 3.4, width: float = 11.0) -> Any:
    """An empty figure; sizes in inches at 100 dots each."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # takes long, and only reports draw
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def as_data_uri(figure: Any) -> str:
    """The figure as an SVG image that stands in a page by itself."""
    from matplotlib import rc_context

    out = io.BytesIO()
    with rc_context({"svg.hashsalt": "esper", "svg.fonttype": "path"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue()).decode()


def draw_lines(
    axes: Any, x: Sequence[Any], series: Mapping[str, Sequence[float | None]], *, title: str = "", y: str = "", x_label: str = ""
) -> bool:
    """One line for each of `series` that has any value, over whole numbers; gaps where None. Says so if there is nothing.

    Returns:
        Whether anything was drawn.
    """
    label_axes(axes, title=title, x=x_label, y=y)
    known = {name: values for name, values in series.items() if any(is_known(v) for v in values)}
    for index, (name, values) in enumerate(known.items()):
        points = [(place, value) for place, value in zip(x, values, strict=True) if is_known(value)]
        axes.plot(
            [place for place, _ in points],
            [value for _, value in points],
            color=COLOURS[index % len(COLOURS)],
            linestyle=STYLES[index // len(COLOURS) % len(STYLES)],
            linewidth=1.5,
            marker="o" if len(points) <= 40 else None,
            markersize=3,
            label=name,
        )
    whole_ticks(axes)
    if not known:
        say_empty(axes, "not measured in this run")
    elif len(series) > 1:
        axes.legend(fontsize=8, frameon=False, loc="best", ncols=1 if len(known) <= 4 else 2)
    return bool(known)


def whole_ticks(axes: Any) -> None:
    """Ticks of the horizontal axis at whole numbers only, one where there is one."""
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def label_axes(axes: Any, *, title: str, x: str, y: str) -> None:
    """Title to the left, labels, and a faint grid."""
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def say_empty(axes: Any, message: str) -> None:
    """Write `message` where the data would be."""
    axes.text(0.5, 0.5, message, transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)


def is_known(value: float | None) -> bool:
    """Whether there is a finite number to draw."""
    return value is not None and math.isfinite(value)
