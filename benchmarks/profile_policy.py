"""What a decision of the policy is spent on, operator by operator, beside its matrix products alone.

python -m benchmarks.profile_policy --json benchmarks/results/profile_policy.json
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.bench_policy import call_ms, count_gflop, small_batches
from benchmarks.graphs import large_graph
from benchmarks.measure import Figure, figure, run_benchmark
from benchmarks.profile_env_step import Traffic, copy_rate, product_rate
from benchmarks.workloads import QUICK, SEEDS
from esper.distributed.config import read_run_config
from esper.leyline.actions import NUM_HEADS
from esper.tamiyo import TamiyoGNNConfig, TamiyoPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esper.leyline.graph import GraphBatch

LARGE = "10k_nodes"
GRAPHS = ("10_layers", "100_nodes", "16_graphs", LARGE)
PRODUCTS = frozenset({"mm", "matmul", "addmm", "addmm_", "linear"})


class Products(TorchDispatchMode):
    """Notes the matrix products that are computed: [m, k] · [k, n], and bare ones of the same sizes to run instead."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.pairs: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Run an operator, and note it if it is a product."""
        name = func.overloadpacket.__name__
        if name in PRODUCTS:
            left, right = args[1:3] if name.startswith("addmm") else args[:2]
            if left.dim() == 2 and right.dim() == 2:
                size = right.shape[::-1] if name == "linear" else right.shape
                self.pairs.append((torch.ones(left.shape, dtype=left.dtype), torch.ones(size, dtype=right.dtype)))
        return func(*args, **kwargs or {})

    @torch.inference_mode()
    def run(self) -> None:
        """The bare products, each with a weight of its own, as in the network."""
        for left, right in self.pairs:
            torch.mm(left, right)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Read the command line, measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--calls", type=int, default=200, help="decisions per repeat; a fiftieth of them on the large graph")
    parser.add_argument("--graphs", nargs="+", choices=GRAPHS, default=GRAPHS)
    parser.add_argument("--top", type=int, default=12, help="operators to name")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)

    def measure() -> dict[str, Figure]:
        widths = {"default": TamiyoGNNConfig(), "quick": read_run_config(QUICK).policy}
        figures = {}
        for name in arguments.graphs:
            batch = large_graph(SEEDS.child("large").numpy()) if name == LARGE else small_batches()[name]
            calls = max(arguments.calls // 50, 2) if name == LARGE else arguments.calls
            for width, config in widths.items():
                if name != LARGE or width == "default":
                    figures[f"{name}_{width}"] = measure_decision(config, batch, calls, repeats=arguments.repeats, top=arguments.top)
        return figures

    return run_benchmark(measure, arguments.json)


def measure_decision(config: TamiyoGNNConfig, batch: GraphBatch, calls: int, *, repeats: int, top: int) -> Figure:
    """Least CPU of a sampled decision, beside that of its products alone, and beside its traffic at the machine's rates."""
    with SEEDS.child("policy").torch_scope():
        policy = TamiyoPolicy(config).eval()
    decide = partial(policy.act, batch, SEEDS.child("noise").numpy().random((len(batch), NUM_HEADS)))
    decide()
    products, traffic = Products(), Traffic()
    with products:
        decide()
    with traffic:
        decide()
    times, floors, bandwidths, rates = [], [], [], []
    for _ in range(repeats):
        bandwidths.append(copy_rate())
        rates.append(product_rate())
        times.append(least_ms(decide, calls))
        floors.append(least_ms(products.run, calls))
    bandwidth, rate = median(bandwidths), median(rates)
    traffic_sec = sum(max(count / bandwidth, traffic.flops[name] / rate) for name, count in traffic.bytes.items())
    gflop = count_gflop(products.run)
    return figure(
        "least CPU of one sampled decision",
        "ms",
        values=times,
        reference="its matrix products alone, on operands of the same sizes",
        reference_values=floors,
        traffic_ms=1e3 * traffic_sec,
        products=len(products.pairs),
        products_gflop=gflop,
        products_gflop_per_sec=1e3 * gflop / median(floors),
        large_product_gflop_per_sec=rate / 1e9,
        copied_bytes_per_sec=bandwidth,
        bytes=sum(traffic.bytes.values()),
        operators=sum(traffic.calls.values()),
        shares_inside=operator_shares(decide, max(calls // 10, 2), top),
        num_graphs=len(batch),
        hidden_dim=config.hidden_dim,
        calls_per_repeat=calls,
    )


def least_ms(action: Callable[[], object], calls: int) -> float:
    """Least CPU milliseconds of a call."""
    action()
    return min(call_ms(action, calls)["cpu"])


def operator_shares(action: Callable[[], object], times: int, top: int) -> dict[str, float]:
    """Each operator's part of the time that is spent inside operators, the largest first."""
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        for _ in range(times):
            action()
    spent = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    total = sum(spent.values())
    return {name: spent[name] / total for name in sorted(spent, key=spent.__getitem__, reverse=True)[:top]}


if __name__ == "__main__":
    main()
