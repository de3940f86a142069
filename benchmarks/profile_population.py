"""What stands between the population engine and P2, P3: its operators, beside the same ones called bare, one after another.

python -m benchmarks.profile_population --json benchmarks/results/profile_population.json
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.bench_population import DIGITS, GOAL_MEMBERS, HOMOGENEOUS, MIXED, MLP
from benchmarks.measure import Figure, figure, run_benchmark, timed
from benchmarks.members import find_case, grow, make_engines
from benchmarks.profile_env_step import ALLOCATIONS
from esper.tolaria.counterfactual import plan_configurations
from esper.tolaria.engine.population import PopulationEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Operator = tuple[Any, tuple[Any, ...], dict[str, Any]]
"""Function, arguments and named arguments."""
WORKLOADS: dict[str, tuple[str, Sequence[str], int | None, Sequence[str]]] = {
    "mixed": (DIGITS, MIXED, 1, ("task.num_train=128",)),
    "homogeneous": (DIGITS, HOMOGENEOUS, 1, ("task.num_train=128",)),
    "perceptrons": (MLP, (), None, ()),
}
"""Host, what grows in it, how many configurations are validated (None: all), and settings; four training steps each, since all
that operators are given is kept in memory."""


@dataclass(frozen=True, slots=True)
class Recording:
    """The operators of one epoch and its validation, in order."""

    operators: tuple[Operator, ...]
    trained: tuple[tuple[Tensor, Tensor], ...]
    """What the optimizer writes to, and what it was before: numbers that drift off from replay to replay would cost otherwise."""

    @staticmethod
    def of(operators: Sequence[Operator]) -> Recording:
        """A recording that begins anew from the numbers of this moment."""
        updates = [args for func, args, _ in operators if func.overloadpacket.__name__.startswith("_fused")]
        written = {id(x): x for x in tree_leaves(updates) if isinstance(x, Tensor)}
        return Recording(tuple(operators), tuple((x, x.clone()) for x in written.values()))

    def replay(self) -> None:
        """Call all of them again, on what they were given then."""
        for func, args, kwargs in self.operators:
            func(*args, **kwargs)

    def rewind(self) -> None:
        """Undo what the optimizer did."""
        for x, before in self.trained:
            x.copy_(before)

    def without_views(self) -> Recording:
        """Those that compute: no views, no empty memory."""
        computing = tuple(operator for operator in self.operators if not operator[0].is_view and _name(operator) not in ALLOCATIONS)
        return Recording(computing, self.trained)

    @torch.no_grad()
    def rank(self, repeats: int, top: int) -> list[dict[str, Any]]:
        """What takes longest by itself: every call's shortest time of several replays, summed by name."""
        best = [10**12] * len(self.operators)
        for _ in range(repeats):
            for i, (func, args, kwargs) in enumerate(self.operators):
                started = perf_counter_ns()
                func(*args, **kwargs)
                best[i] = min(best[i], perf_counter_ns() - started)
            self.rewind()
        spent, calls = Counter[str](), Counter[str]()
        for operator, nanoseconds in zip(self.operators, best, strict=True):
            spent[_name(operator)] += nanoseconds
            calls[_name(operator)] += 1
        total = spent.total()
        return [
            {"operator": name, "calls": calls[name], "ms": count / 1e6, "share": count / total} for name, count in spent.most_common(top)
        ]


class Recorder(TorchDispatchMode):
    """Keeps every operator and what it was given."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: list[Operator] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Run an operator and keep it."""
        self.operators.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Read the command line, measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--members", type=int, default=GOAL_MEMBERS)
    parser.add_argument("--only", nargs="+", choices=tuple(WORKLOADS), default=tuple(WORKLOADS))
    parser.add_argument("--top", type=int, default=15, help="operators to name")
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", help="settings, e.g. task.num_train=64")
    arguments = parser.parse_args(argv)

    def measure() -> dict[str, Figure]:
        return {
            name: measure_workload(name, arguments.overrides, num_members=arguments.members, repeats=arguments.repeats, top=arguments.top)
            for name in arguments.only
        }

    return run_benchmark(measure, arguments.json)


def measure_workload(name: str, overrides: Sequence[str], *, num_members: int, repeats: int, top: int) -> Figure:
    """An epoch and its validation beside its operators alone, with and without those that only look at memory another way."""
    host, blueprints, num_configurations, settings = WORKLOADS[name]
    epoch = make_epoch(host, blueprints, num_configurations, [*settings, *overrides], num_members=num_members)
    epoch()
    recorder = Recorder()
    with recorder:
        epoch()
    everything = Recording.of(recorder.operators)
    computing = everything.without_views()
    spent: dict[str, list[float]] = {"epoch": [], "operators": [], "computing": []}
    with torch.no_grad():
        for _ in range(repeats):
            spent["epoch"].append(1e3 * timed(torch.enable_grad()(epoch)).cpu_sec)
            for part, recording in (("operators", everything), ("computing", computing)):
                spent[part].append(1e3 * timed(recording.replay).cpu_sec)
                recording.rewind()
    return figure(
        f"{num_members} × {host} as one, {name}, four training steps and a validation",
        "CPU ms",
        values=spent["epoch"],
        reference="the same operators on the same numbers, called one after another",
        reference_values=spent["operators"],
        operators_that_compute_ms=sorted(spent["computing"])[repeats // 2],
        num_operators=len(everything.operators),
        num_operators_that_compute=len(computing.operators),
        operators=everything.rank(repeats, top),
        blueprints=list(blueprints),
        settings=list(settings),
    )


def make_epoch(
    host: str, blueprints: Sequence[str], num_configurations: int | None, settings: Sequence[str], *, num_members: int
) -> Callable[[], None]:
    """Train a population for an epoch and validate it, whenever called."""
    engines = make_engines(find_case(host), num_members, settings)
    if blueprints:
        grow(engines, blueprints)
    planned = plan_configurations(engines[0].model.live_slots(), (), is_last=False)[:num_configurations]
    population = PopulationEngine(engines)

    def epoch() -> None:
        population.train_epoch(1)
        population.evaluate("val", [planned] * num_members)

    return epoch


def _name(operator: Operator) -> str:
    name: str = operator[0].overloadpacket.__name__
    return name


if __name__ == "__main__":
    main()
