"""Writes what was measured into README.md: goals from `benchmarks/results`, gains of engines from the table that ships.

python -m benchmarks.table            # rewrite the part between the two markers
python -m benchmarks.table --check    # exit with 1 if that would change anything
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.tolaria.engine.choose import read_results, read_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from esper.tolaria.engine.choose import Measurement

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- measured: begin, written by `python -m benchmarks.table` -->", "<!-- measured: end -->"
GOALS = {
    "P1": "≥ 54 env steps per CPU second on the reference workload, ≥ 85 % of the fastest bare loop",
    "P2": "digits, K = 16, every slot grown: one by one over as one ≥ 3; mixed over homogeneous ≤ 1.10",
    "P3": "perceptrons, K = 16: one by one over as one ≥ 6",
    "P4": "32×32 hosts of 16 channels or more: ≥ 2.5 over eager contiguous fp32",
    "P5": "counterfactuals with three seeds ≤ 15 % of an env step",
    "P6": "decision for 10 layers / 100 nodes / 16 graphs ≤ 3 / 5 / 8 ms",
    "P7": "decision at 10,000 nodes and 50,000 edges: p95 ≤ 30 ms on two cores, ≥ 7 times as fast as PyTorch Geometric's layers",
    "P8": "PPO update ≤ 15 % of a round",
    "P9": "telemetry: ≤ 2 % of an env step's CPU, ≥ 100,000 rows per second into DuckDB, ≤ 1 kB per env step, ≤ 40 MB per million events",
    "P11": "first env step ≤ 4 s in one process, ≤ 12 s on a fresh local Ray",
    "P12": "≤ 250 MB an env actor, ≤ 2 MB a further trial",
}
_NAME = re.compile(r"P(\d+)(_|$)")


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrite or check the README; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    before = arguments.readme.read_text()
    results = {path.name: json.loads(path.read_text()) for path in sorted(arguments.results.glob("*.json"))}
    parts = [render_goals(results), render_gains(read_table(), read_results())]
    after = replace_marked(before, "\n".join(parts))
    if arguments.check:
        return int(before != after)
    arguments.readme.write_text(after)
    return 0


def render_goals(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One row for every figure that belongs to a goal, goals in order.

    Args:
        results: What benchmarks printed, by file name.
    """
    rows = [
        (int(found[1]), name, figure, result)
        for result in results.values()
        for name, figure in result.get("figures", {}).items()
        if (found := _NAME.match(name))
    ]
    rows.sort(key=lambda row: row[0])
    lines = ["| goal | figure | measured | beside it in the same run | ratio | load |", "|---|---|---|---|---|---|"]
    previous = None
    for number, name, figure, result in rows:
        goal = f"P{number}: {GOALS.get(f'P{number}', '')}" if number != previous else ""
        previous, reference = number, figure["reference"]
        beside = f"{reference['what']}: {short(reference['median'])}"
        measured = f"{short(figure['median'])} {figure['unit']}"
        lines.append(f"| {goal} | `{name}` | {measured} | {beside} | {figure['ratio']:.2f} | {render_load(result)} |")
    return "\n".join(lines) + "\n"


def render_gains(table: Sequence[Measurement], results: Mapping[str, Any]) -> str:
    """CPU one by one over CPU as one, by host and number of hosts."""
    counts = sorted({row.num_members for row in table})
    machine, torch = results["machine"], results["versions"]["torch"]
    where = f"{machine['cpu']}, {machine['cpus']} cores at load {machine['load_average'][0]:.1f}, torch {torch}, one thread"
    lines = [
        "K hosts trained and validated as one, CPU one by one over CPU as one: without seeds / with a seed in every slot. "
        f"{where}, {machine['measured_on']}.",
        "",
        "| host | " + " | ".join(f"K = {count}" for count in counts) + " |",
        "|---|" + "---|" * len(counts),
    ]
    for host, rows in groupby(table, key=lambda row: row.host):
        own = {row.num_members: row for row in rows}
        cells = [f"{own[count].speedup:.1f} / {own[count].grown_speedup:.1f}" if count in own else "" for count in counts]
        lines.append(f"| {host} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def render_load(result: Mapping[str, Any]) -> str:
    """Load average over one minute before and after, and the cores it is spread over."""
    machine = result["machine"]
    return f"{machine['load_average'][0]:.1f}–{result['load_average_after'][0]:.1f} on {machine['cpus']}"


def short(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def replace_marked(text: str, content: str) -> str:
    """Put `content` between the markers.

    Raises:
        ValueError: If the text does not hold both markers once, in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"the text should hold {BEGIN!r} and then {END!r}, each once")
    return f"{before}{BEGIN}\n\n{content}\n{END}{after}"


if __name__ == "__main__":
    sys.exit(main())
