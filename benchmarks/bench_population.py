"""What hosts gain by being trained as one instead of one by one, by host and number of members (P2, P3).

python -m benchmarks.bench_population --write --json benchmarks/results/population.json
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import resources
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Figure, figure, run_benchmark, timed
from benchmarks.members import BLUEPRINTS, CASES, Case, find_case, grow, make_engines
from esper.tolaria.counterfactual import plan_configurations
from esper.tolaria.engine.choose import TABLE, HostSize, Measurement, host_size
from esper.tolaria.engine.population import PopulationEngine

if TYPE_CHECKING:
    from collections.abc import Sequence

DIGITS, MLP = "atten 8×8", "mlp 16-16"
MIXED = BLUEPRINTS["cnn"]
HOMOGENEOUS = ("conv_light",)
GOAL_MEMBERS = 16


@dataclass(frozen=True, slots=True)
class Comparison:
    """CPU milliseconds of an epoch and its validation, repeat by repeat."""

    size: HostSize
    one_by_one: list[float]
    as_one: list[float]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Read the command line, measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--members", nargs="+", type=int, default=(1, 2, 4, 8, 16, 64))
    parser.add_argument("--hosts", nargs="*", choices=[case.host for case in CASES], default=[case.host for case in CASES])
    parser.add_argument("--goals", action=argparse.BooleanOptionalAction, default=True, help="also measure P2 and P3")
    parser.add_argument("--write", action="store_true", help=f"put what was measured into {TABLE}, from which engines are chosen")
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", help="settings, e.g. task.num_train=64")
    arguments = parser.parse_args(argv)
    cases = [find_case(host) for host in arguments.hosts]

    def measure() -> dict[str, Figure]:
        figures: dict[str, Figure] = {}
        for case in cases:
            for size in arguments.members:
                figures[f"{case.host} K={size}"] = measure_case(case, size, arguments.overrides, repeats=arguments.repeats)
        return figures | (measure_goals(arguments.overrides, repeats=arguments.repeats) if arguments.goals else {})

    result = run_benchmark(measure, arguments.json)
    if arguments.write:
        write_table(result)
    return result


def measure_case(case: Case, num_members: int, overrides: Sequence[str], *, repeats: int) -> Figure:
    """A host without seeds, and with a seed of its family's blueprints in turn in every slot."""
    bare = compare(case, num_members, (), overrides=overrides, repeats=repeats)
    grown = compare(case, num_members, BLUEPRINTS[case.family], overrides=overrides, repeats=repeats)
    row = Measurement(
        family=case.family,
        host=case.host,
        macs=bare.size.macs,
        values=bare.size.values,
        num_members=num_members,
        one_by_one_ms=round(median(bare.one_by_one), 2),
        as_one_ms=round(median(bare.as_one), 2),
        grown_one_by_one_ms=round(median(grown.one_by_one), 2),
        grown_as_one_ms=round(median(grown.as_one), 2),
    )
    return figure(
        f"{num_members} × {case.host}, an epoch and its validation, one by one",
        "CPU ms",
        values=bare.one_by_one,
        reference="the same as one",
        reference_values=bare.as_one,
        grown={"one_by_one": grown.one_by_one, "as_one": grown.as_one, "ratio": row.grown_speedup},
        measurement=asdict(row),
    )


def measure_goals(overrides: Sequence[str], *, repeats: int) -> dict[str, Figure]:
    """P2: digits with seeds of one kind and of several; P3: perceptrons. Both with 16 members."""
    kinds = {"homogeneous": HOMOGENEOUS, "mixed": MIXED, "bare": ()}
    digits = {
        name: compare(find_case(DIGITS), GOAL_MEMBERS, kind, overrides=overrides, repeats=repeats, configurations=1)
        for name, kind in kinds.items()
    }
    each = [
        median(
            compare(find_case(DIGITS), GOAL_MEMBERS, (name,), overrides=overrides, repeats=max(repeats // 2, 1), configurations=1).as_one
        )
        for name in MIXED
    ]
    mlp = compare(find_case(MLP), GOAL_MEMBERS, (), overrides=overrides, repeats=repeats)
    what = f"{GOAL_MEMBERS} × {DIGITS}, an epoch and its validation"
    ratios = {
        f"P2_{name}": figure(
            f"{what}, {name}, one by one",
            "CPU ms",
            values=runs.one_by_one,
            reference="the same as one",
            reference_values=runs.as_one,
            blueprints=list(kinds[name]),
        )
        for name, runs in digits.items()
    }
    return {
        **ratios,
        "P2_mixed_over_homogeneous": figure(
            f"{what} as one, a seed in every slot: {', '.join(MIXED)} in turn",
            "CPU ms",
            values=digits["mixed"].as_one,
            reference=f"the same with {HOMOGENEOUS[0]} everywhere",
            reference_values=digits["homogeneous"].as_one,
            mean_of_each_blueprint_everywhere=sum(each) / len(each),
            each_blueprint_everywhere=dict(zip(MIXED, each, strict=True)),
        ),
        "P3": figure(
            f"{GOAL_MEMBERS} × {MLP}, an epoch and its validation, one by one",
            "CPU ms",
            values=mlp.one_by_one,
            reference="the same as one",
            reference_values=mlp.as_one,
        ),
    }


def compare(
    case: Case, num_members: int, blueprints: Sequence[str], *, overrides: Sequence[str], repeats: int, configurations: int | None = None
) -> Comparison:
    """Train the same hosts both ways in turn.

    Args:
        case: The host.
        num_members: How many.
        blueprints: What grows in their slots, in turn; nothing if empty.
        overrides: Settings.
        repeats: Epochs, each with a validation.
        configurations: How many counterfactual configurations the validation has; all of them unless given.
    """
    single, joined = (make_engines(case, num_members, overrides) for _ in range(2))
    for engines in (single, joined):
        if blueprints:
            grow(engines, blueprints)
    planned = plan_configurations(single[0].model.live_slots(), (), is_last=False)[:configurations]
    population = PopulationEngine(joined)

    def one_by_one(epoch: int) -> None:
        for engine in single:
            engine.train_epoch(epoch)
            engine.evaluate("val", planned)

    def as_one(epoch: int) -> None:
        population.train_epoch(epoch)
        population.evaluate("val", [planned] * num_members)

    spent: dict[str, list[float]] = {"one_by_one": [], "as_one": []}
    as_one(0)
    for repeat in range(repeats):
        epoch = repeat % single[0].plan.max_epochs
        spent["one_by_one"].append(1e3 * timed(partial(one_by_one, epoch)).cpu_sec)
        spent["as_one"].append(1e3 * timed(partial(as_one, epoch)).cpu_sec)
    return Comparison(host_size(single[0]), **spent)


def write_table(result: dict[str, Any]) -> None:
    """Put a result's measurements into the table that ships, in place of those of the same hosts and numbers of members."""
    path = Path(str(resources.files("esper.tolaria.engine").joinpath(TABLE)))
    kept = {(row["host"], row["num_members"]): row for row in json.loads(path.read_text())["measurements"]}
    fresh = [found["measurement"] for found in result["figures"].values() if "measurement" in found]
    kept |= {(row["host"], row["num_members"]): row for row in fresh}
    order = [case.host for case in CASES]
    rows = sorted(kept.values(), key=lambda row: (order.index(row["host"]), row["num_members"]))
    state = result["machine"] | {"measured_on": datetime.now(UTC).date().isoformat()}
    versions = state.pop("versions")
    head = f'"machine": {json.dumps(state)},\n"versions": {json.dumps(versions)},\n"measurements": [\n'
    path.write_text("{" + head + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]}\n")


if __name__ == "__main__":
    main()
