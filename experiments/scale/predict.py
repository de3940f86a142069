"""Fits a model to `results.json` and says what ten thousand environments would ask of each part.

CPU of a part is a·(environment steps) + c·(seconds): c is what it takes while nothing happens, polling and heartbeats.
A part is one process, so it keeps up until that is a second of CPU per second; what needs more must be sharded.

python -m experiments.scale.predict
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER = Path(__file__).parent
ROLES = ("driver", "learner", "queue", "sink")
"""Parts that are one process, whatever the number of environments."""


@dataclass(frozen=True)
class Line:
    """CPU of one part."""

    step_ms: float
    """For an environment step."""
    idle_ms: float
    """For a second."""

    def at(self, steps_per_sec: float) -> float:
        """CPU milliseconds per environment step."""
        return self.step_ms + self.idle_ms / steps_per_sec

    def processes(self, steps_per_sec: float) -> int:
        """Processes that keep up with so many steps."""
        return math.ceil((self.step_ms * steps_per_sec + self.idle_ms) / 1e3)

    def most_envs(self, step_sec: float) -> float:
        """Environments, a step of which takes so long, that one process keeps up with."""
        return step_sec * (1e3 - self.idle_ms) / self.step_ms


def main() -> None:
    """Print the tables of README.md and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=FOLDER / "results.json")
    parser.add_argument("--envs", type=int, default=10_000)
    options = parser.parse_args()
    rows = sorted(json.loads(options.results.read_text())["figures"].values(), key=lambda row: row["num_envs"])
    lines = fit(rows)
    print(measured_table(rows), predicted_table(lines, rows, options.envs), sep="\n\n")
    draw(rows, lines, options.envs, FOLDER / "scale.png")


def fit(rows: Sequence[dict[str, Any]]) -> dict[str, Line]:
    """One line per part: cost per step against seconds per step."""
    lines = {}
    for role in ROLES:
        idle, step = linear_regression([1.0 / row["env_steps_per_sec"] for row in rows], [cost(row, role) for row in rows])
        lines[role] = Line(step, idle)
    return lines


def cost(row: dict[str, Any], role: str) -> float:
    """CPU milliseconds per environment step; the sink's with what it stored after the round."""
    return float(row["sink_cpu_ms_per_env_step_drained"] if role == "sink" else row["cpu_ms_per_env_step"][role])


def measured_table(rows: Sequence[dict[str, Any]]) -> str:
    """What was measured."""
    head = "| envs | actors | env steps/s | actors busy | driver | learner | queue | sink | queue depth | load |"
    lines = [head, "|" + "---|" * 10]
    for row in rows:
        costs = " | ".join(f"{cost(row, role):.2f}" for role in ROLES)
        lines.append(
            f"| {row['num_envs']:,} | {row['num_actors']} | {row['env_steps_per_sec']:.1f} | {100 * row['busy_frac']:.0f} % "
            f"| {costs} | {row['queue_depth_max']} | {row['load_average']:.1f} |"
        )
    return "\n".join(lines)


def predicted_table(lines: dict[str, Line], rows: Sequence[dict[str, Any]], num_envs: int) -> str:
    """What so many environments would need."""
    step_sec = rows[-1]["step_sec"]
    wanted = num_envs / step_sec
    table = [
        "| part | CPU ms per env step | CPU ms per idle second | one process is enough up to, envs | processes needed |",
        "|" + "---|" * 5,
    ]
    for role, line in lines.items():
        most = f"{line.most_envs(step_sec):,.0f}"
        table.append(f"| {role} | {line.step_ms:.2f} | {line.idle_ms:.1f} | {most} | {line.processes(wanted)} |")
    note = f"{num_envs:,} environments whose step takes {step_sec:g} s want {wanted:,.0f} env steps a second."
    return "\n".join([note, "", *table])


def draw(rows: Sequence[dict[str, Any]], lines: dict[str, Line], num_envs: int, path: Path) -> None:
    """Cost and utilisation against the number of environments."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    envs = [row["num_envs"] for row in rows]
    step_sec = rows[-1]["step_sec"]
    sizes = [2**i for i in range(1, math.ceil(math.log2(num_envs)) + 1)]
    for role, line in lines.items():
        (points,) = left.plot(envs, [cost(row, role) for row in rows], "o", label=role)
        left.plot(sizes, [line.at(size / step_sec) for size in sizes], "-", color=points.get_color(), linewidth=1)
    left.set(xscale="log", yscale="log", xlabel="environments", ylabel="CPU ms per env step", title="cost: measured, and the model's lines")
    left.legend()
    right.plot(envs, [100 * row["busy_frac"] for row in rows], "o-")
    right.axhline(95, linestyle=":", color="grey")
    right.set(xscale="log", ylim=(0, 102), xlabel="environments", ylabel="% of the round", title="environment actors busy (goal: 95 %)")
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
