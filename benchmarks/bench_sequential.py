"""What memory format, bf16 and compilation do for hosts that train one by one, by host and batch size (P4).

python -m benchmarks.bench_sequential --write --json benchmarks/results/sequential.json
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib import resources
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Figure, figure, machine, run_benchmark, timed
from benchmarks.members import BLUEPRINTS, NOISE, Case, find_case, grow, make_engines
from esper.distributed.build import prepare_process
from esper.tolaria.engine.layouts import BF16_INSTRUCTIONS, LAYOUT_TABLE, LayoutMeasurement, cpu_instructions, read_layouts
from esper.tolaria.tasks.base import Context

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from esper.tolaria.engine.layouts import MemoryFormat, Precision
    from esper.tolaria.engine.sequential import SequentialEngine

CASES = (
    find_case("atten 8×8"),
    find_case("wide 16×16"),
    find_case("impaired 32×32"),
    find_case("plain 32×32"),
    Case("cnn", "base 16 32×32", "cifar10", Context(NOISE, "plain", 2.0)),
    Case("cnn", "base 32 32×32", "cifar10", Context(NOISE, "plain", 4.0)),
)
ACCURACIES = Path(__file__).parent / "results" / "precision.json"
GOAL_HOST, GOAL_BATCH = "base 16 32×32", 128
LAYOUTS: tuple[tuple[MemoryFormat, Precision], ...] = (
    ("contiguous", "fp32"),
    ("channels_last", "fp32"),
    ("contiguous", "bf16"),
    ("channels_last", "bf16"),
)


@dataclass(frozen=True, slots=True)
class Point:
    """What is measured in every layout."""

    case: Case
    batch_size: int
    has_seeds: bool
    steps: int
    """Of one epoch, which is one repeat."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.case.host}, batch {self.batch_size}, {'a seed in every slot' if self.has_seeds else 'no seeds'}"

    def make_engine(self, memory_format: str, precision: str, *, is_compiled: bool) -> SequentialEngine:
        """An engine of this layout."""
        count = self.steps * self.batch_size
        overrides = [
            f"task.batch_size={self.batch_size}",
            f"task.num_train={count}",
            "task.num_val=32",
            "task.num_test=32",
            f"engine.memory_format={memory_format}",
            f"engine.precision={precision}",
            f"engine.compile={'on' if is_compiled else 'off'}",
        ]
        (engine,) = make_engines(self.case, 1, overrides)
        if self.has_seeds:
            grow([engine], BLUEPRINTS["cnn"])
        return engine


@dataclass(frozen=True, slots=True)
class Times:
    """CPU milliseconds per training step, repeat by repeat."""

    values: list[float]
    compile_sec: float | None = None


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Read the command line, measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="training steps of a repeat")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=(32, 128))
    parser.add_argument("--hosts", nargs="*", choices=[case.host for case in CASES], default=[case.host for case in CASES])
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="also measure compiled steps")
    parser.add_argument("--write", action="store_true", help=f"put what was measured into {LAYOUT_TABLE}, by which auto chooses")
    parser.add_argument("--accuracies", type=Path, default=ACCURACIES, help="results of bench_precision, without which no bf16 is chosen")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    accuracies = json.loads(arguments.accuracies.read_text()) if arguments.write else {}
    cases = [case for case in CASES if case.host in arguments.hosts]
    points = [Point(case, size, grown, arguments.steps) for case in cases for size in arguments.batch_sizes for grown in (False, True)]

    def measure() -> dict[str, Figure]:
        figures: dict[str, Figure] = {}
        prepare_process()
        with TemporaryDirectory() as folder:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # so that compiling is paid for
            for point in points:
                figures |= measure_point(point, repeats=arguments.repeats, has_compiled=arguments.compile)
        return figures

    result = run_benchmark(measure, arguments.json)
    if arguments.write:
        write_table([LayoutMeasurement(**found["measurement"]) for found in result["figures"].values()], accuracies)
    return result


def measure_point(point: Point, *, repeats: int, has_compiled: bool) -> dict[str, Figure]:
    """Every layout of one host beside contiguous fp32, in turn; compilation where it could be chosen."""
    has_bf16 = cpu_instructions() in BF16_INSTRUCTIONS
    layouts = [layout for layout in LAYOUTS if layout[1] == "fp32" or has_bf16 or not point.has_seeds]
    compiled = [layout for layout in layouts[1:] if has_compiled and (layout[1] == "fp32" or has_bf16)]
    keys = [(layout, False) for layout in layouts] + [(layout, True) for layout in compiled]
    engines = {(layout, flag): point.make_engine(*layout, is_compiled=flag) for layout, flag in keys}
    first = {key: cpu_sec_with_children(engine) for key, engine in engines.items()}
    times: dict[Any, list[float]] = {key: [] for key in keys}
    for epoch in range(1, repeats + 1):
        for key, engine in engines.items():
            run = timed(partial(engine.train_epoch, epoch % engine.plan.max_epochs))
            times[key].append(1000.0 * run.cpu_sec / point.steps)
    reference = times[layouts[0], False]
    figures = {}
    for layout in layouts:
        with_compiler: Times | None = None
        if layout in compiled:
            cost = first[layout, True] - median(times[layout, False]) * point.steps / 1000.0
            with_compiler = Times(times[layout, True], max(cost, 0.0))
        row = make_row(engines[layout, False], point, layout, reference=reference, eager=times[layout, False], compiled=with_compiler)
        figures[f"P4 {point.name}: {layout[0]} {layout[1]}"] = make_figure(point, row, times[layout, False], reference, with_compiler)
    return figures


def make_row(
    engine: SequentialEngine,
    point: Point,
    layout: tuple[MemoryFormat, Precision],
    *,
    reference: Sequence[float],
    eager: Sequence[float],
    compiled: Times | None,
) -> LayoutMeasurement:
    """Medians for the table."""
    traits = engine.traits
    return LayoutMeasurement(
        host=point.case.host,
        macs=traits.macs,
        values=traits.values,
        has_seeds=point.has_seeds,
        instructions=cpu_instructions(),
        memory_format=layout[0],
        precision=layout[1],
        reference_ms=round(median(reference), 3),
        eager_ms=round(median(eager), 3),
        compiled_ms=None if compiled is None else round(median(compiled.values), 3),
        compile_sec=None if compiled is None or compiled.compile_sec is None else round(compiled.compile_sec, 2),
    )


def make_figure(point: Point, row: LayoutMeasurement, eager: Sequence[float], reference: Sequence[float], compiled: Times | None) -> Figure:
    """A layout beside contiguous fp32."""
    details: dict[str, Any] = {"speedup": median(b / a for a, b in zip(eager, reference, strict=True))}
    if compiled is not None:
        details["compiled"] = {
            "median": median(compiled.values),
            "values": compiled.values,
            "speedup": median(b / a for a, b in zip(compiled.values, reference, strict=True)),
            "compile_cpu_sec": compiled.compile_sec,
            "pays_after_steps": row.pays_after,
        }
    if (point.case.host, point.batch_size) == (GOAL_HOST, GOAL_BATCH):
        details["goal"] = goal_of(row.instructions)
    what = f"{point.name}: {row.memory_format} {row.precision}, eager"
    return figure(
        what,
        "CPU ms per training step",
        values=eager,
        reference="the same, contiguous fp32",
        reference_values=reference,
        measurement=asdict(row),
        **details,
    )


def goal_of(instructions: str) -> str:
    """What P4 asks, and whether this CPU can answer."""
    asked = "P4: at least 2.5 times contiguous fp32, by bf16, channels_last and compilation"
    if instructions in BF16_INSTRUCTIONS:
        return asked
    return f"{asked}; cannot be measured here: {instructions} has no bf16 instructions, and the floor is what fp32 reaches"


def cpu_sec_with_children(engine: SequentialEngine) -> float:
    """CPU of a first epoch, of this process and of the compilers that it waits for."""
    before = os.times()
    engine.train_epoch(0)
    after = os.times()
    return sum(after[:4]) - sum(before[:4])


def accuracy_is_equal(row: LayoutMeasurement, results: Mapping[str, Any]) -> bool | None:
    """Whether `results` of `bench_precision` show a layout's final accuracies to equal those of contiguous fp32 on such a CPU."""
    found = results["figures"].get(f"P4_accuracy {row.memory_format} {row.precision}")
    return None if found is None or found["instructions"] != row.instructions else bool(found["is_statistically_equal"])


def write_table(rows: Sequence[LayoutMeasurement], accuracies: Mapping[str, Any]) -> None:
    """Put rows in the place of those of the same hosts on such a CPU; every other row stays.

    Args:
        rows: What was measured.
        accuracies: What `bench_precision` found.
    """
    rows = [replace(row, accuracy_is_equal=accuracy_is_equal(row, accuracies)) for row in rows]
    measured = {(row.host, row.values, row.instructions) for row in rows}
    kept = [row for row in read_layouts() if (row.host, row.values, row.instructions) not in measured]
    state = machine()
    about = {
        "machine": {name: state[name] for name in ("python", "platform", "cpus", "threads", "load_average")}
        | {"instructions": cpu_instructions(), "measured_on": datetime.now(UTC).date().isoformat()},
        "versions": state["versions"],
    }
    lines = ",\n".join(json.dumps(asdict(row), ensure_ascii=False) for row in [*kept, *rows])
    head = json.dumps(about, ensure_ascii=False)[:-1]
    path = Path(str(resources.files("esper.tolaria.engine").joinpath(LAYOUT_TABLE)))
    path.write_text(f'{head},\n"measurements": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
