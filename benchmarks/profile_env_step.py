"""What an env step is spent on, operator by operator, beside the least that its memory traffic and arithmetic would take.

python -m benchmarks.profile_env_step --preset reference --envs 16 --json benchmarks/results/profile_reference.json
"""

from __future__ import annotations

import argparse
from collections import Counter
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.bench_env_step import play_scripted, rate_of
from benchmarks.measure import Figure, figure, run_benchmark, timed
from benchmarks.workloads import PresetName, make_workload, open_player

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.workloads import Player, Workload

COPY_BYTES = 1 << 28
"""Far larger than any cache."""
PRODUCT_SIZE = 1024
ALLOCATIONS = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})
"""Operators that make a tensor and write nothing into it."""


class Traffic(TorchDispatchMode):
    """Counts what every operator reads, writes and multiplies, as if nothing stayed in a cache from one to the next."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes: Counter[str] = Counter()
        self.flops: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Run an operator and count it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if func.is_view or name in ALLOCATIONS:
            return out
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
        self.calls[name] += 1
        self.bytes[name] += sum(x.numel() * x.element_size() for x in tensors)
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            self.flops[name] += count(*args, **kwargs, out_val=out)
        return out


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Read the command line, measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--preset", choices=get_args(PresetName), default="reference")
    parser.add_argument("--envs", type=int, default=16, help="hosts in lockstep")
    parser.add_argument("--policies", nargs="+", choices=("random", "wait"), default=("random", "wait"))
    parser.add_argument("--top", type=int, default=15, help="operators to name")
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", help="settings, e.g. task.max_epochs=6 engine.kind=sequential")
    arguments = parser.parse_args(argv)
    workload = make_workload(arguments.preset, arguments.overrides)

    def measure() -> dict[str, Figure]:
        return {
            f"profile_{policy}_K{arguments.envs}": measure_policy(
                workload, policy, num_envs=arguments.envs, repeats=arguments.repeats, top=arguments.top
            )
            for policy in arguments.policies
        }

    return run_benchmark(measure, arguments.json)


def measure_policy(workload: Workload, policy: str, *, num_envs: int, repeats: int, top: int) -> Figure:
    """Rate of a scripted policy beside the rate that its traffic would allow, and both taken apart by operator."""
    requests = workload.requests(1, num_envs)
    with open_player(workload) as player:
        play = partial(play_scripted, player, policy, requests)
        play()
        traffic = Traffic()
        with traffic:
            num_steps = play()
        rates, floors, copies, products = [], [], [], []
        for _ in range(repeats):
            bandwidth, flops_per_sec = copy_rate(), product_rate()
            rates.append(rate_of(play))
            seconds = sum(max(traffic.bytes[name] / bandwidth, traffic.flops[name] / flops_per_sec) for name in traffic.bytes)
            floors.append(num_steps / seconds)
            copies.append(bandwidth)
            products.append(flops_per_sec)
        purposes = spent_on(player, play)
        operators = operator_shares(play, top)
    total = sum(traffic.bytes.values())
    return figure(
        f"env steps of {num_envs} hosts, {policy} policy",
        "env steps per CPU second",
        values=rates,
        reference="if every operator took only its memory traffic or its arithmetic, whichever is longer, and nothing else took time",
        reference_values=floors,
        bytes_per_env_step=total / num_steps,
        flops_per_env_step=sum(traffic.flops.values()) / num_steps,
        calls_per_env_step=sum(traffic.calls.values()) / num_steps,
        copied_bytes_per_sec=median(copies),
        product_flops_per_sec=median(products),
        shares_of_traffic={name: count / total for name, count in traffic.bytes.most_common(top)},
        shares_of_cpu=purposes,
        operators=operators,
        settings={"preset": workload.name, "num_envs": num_envs, "batch_size": workload.plan.batch_size},
    )


def copy_rate() -> float:
    """Bytes read and written per CPU second by a copy of a large tensor."""
    source = torch.ones(COPY_BYTES // 4)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * COPY_BYTES / min(timed(lambda: target.copy_(source)).cpu_sec for _ in range(3))


def product_rate() -> float:
    """Floating-point operations per CPU second of a matrix product in float32."""
    x = torch.ones(PRODUCT_SIZE, PRODUCT_SIZE)
    torch.mm(x, x)
    return 2 * PRODUCT_SIZE**3 / min(timed(lambda: torch.mm(x, x)).cpu_sec for _ in range(5))


def spent_on(player: Player, play: Callable[[], int]) -> dict[str, float]:
    """Share of CPU by what the trainer was asked for."""
    player.spent.clear()
    run = timed(play)
    shares = {name: seconds / run.cpu_sec for name, seconds in player.spent.items()}
    return shares | {"rest": 1.0 - sum(shares.values())}


def operator_shares(play: Callable[[], int], top: int) -> list[dict[str, Any]]:
    """The operators that take most CPU themselves; `outside` is Python and what is no operator."""
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        run = timed(play)
    events = sorted(profiler.key_averages(), key=lambda event: event.self_cpu_time_total, reverse=True)
    seconds = run.cpu_sec
    rows = [{"operator": event.key, "calls": event.count, "share": event.self_cpu_time_total / 1e6 / seconds} for event in events[:top]]
    inside = sum(event.self_cpu_time_total for event in events) / 1e6
    return [*rows, {"operator": "outside", "calls": None, "share": max(0.0, 1.0 - inside / seconds)}]


if __name__ == "__main__":
    main()
