"""How long the policy takes to decide (P6, P7) and to build what it sees, and what share of a round learning takes (P8).

python -m benchmarks.bench_policy --only P6 P7 --json policy.json
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.graphs import host_graph, host_report, large_graph, repeated, with_edges
from benchmarks.measure import Figure, figure, run_benchmark, timed
from benchmarks.pyg_reference import PygReference, reference_inputs
from benchmarks.workloads import QUICK, SEEDS
from esper.distributed.collector import Collector
from esper.distributed.config import read_run_config
from esper.distributed.facts import examine
from esper.distributed.requests import training_round
from esper.distributed.run_dir import create_run_dir
from esper.distributed.runtime import open_local
from esper.leyline.actions import NUM_HEADS
from esper.leyline.graph import NODE_WIDTHS
from esper.leyline.rollout import ActMode
from esper.tamiyo import TamiyoGNNConfig, TamiyoPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esper.leyline.graph import GraphBatch

GOALS = ("P6", "P7", "P8", "builder")


@dataclass(frozen=True, slots=True)
class Effort:
    """How often things are measured."""

    repeats: int
    calls: int
    """Decisions of a repeat on a small graph."""
    large_calls: int
    """Decisions of a repeat on a large one."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Read the command line, measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--calls", type=int, default=1000, help="decisions per repeat on small graphs (P6)")
    parser.add_argument("--large-calls", type=int, default=20, help="decisions per repeat on the large graph (P7)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="thread counts of P6 and P7")
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"], help="of P7")
    parser.add_argument("--only", nargs="+", choices=GOALS, default=GOALS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", help="settings of P8's run, e.g. rollout.num_envs=8")
    arguments = parser.parse_args(argv)
    effort = Effort(arguments.repeats, arguments.calls, arguments.large_calls)

    def measure() -> dict[str, Figure]:
        figures: dict[str, Figure] = {}
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            if "P6" in arguments.only:
                figures |= measure_small(effort, threads)
            if "P7" in arguments.only:
                figures |= measure_large(effort, threads, arguments.precisions)
        torch.set_num_threads(1)
        if "builder" in arguments.only:
            figures["builder"] = measure_builder(effort)
        if "P8" in arguments.only:
            figures["P8"] = measure_update(arguments.overrides, repeats=effort.repeats)
        return figures

    return run_benchmark(measure, arguments.json)


def small_batches() -> dict[str, GraphBatch]:
    """The observations of P6."""
    ten_layers = host_graph(num_layers=10, num_slots=3)
    return {
        "10_layers": ten_layers,
        "100_nodes": with_edges(host_graph(num_layers=32, num_slots=4), 500, SEEDS.child("edges").numpy()),
        "16_graphs": repeated(ten_layers, 16),
    }


def measure_small(effort: Effort, threads: int) -> dict[str, Figure]:
    """P6: median time of one sampled decision on the graphs of small hosts."""
    widths = {"default": TamiyoGNNConfig(), "quick": read_run_config(QUICK).policy}
    return {
        f"P6_{width}_{size}_{threads}_threads": measure_decision(config, batch, repeats=effort.repeats, calls=effort.calls)
        for width, config in widths.items()
        for size, batch in small_batches().items()
    }


def measure_large(effort: Effort, threads: int, precisions: Sequence[str]) -> dict[str, Figure]:
    """P7: 95th percentile of one sampled decision on a graph of 10,000 nodes and 50,000 edges."""
    batch = large_graph(SEEDS.child("large").numpy())
    figures = {}
    for name in precisions:
        config = TamiyoGNNConfig(has_autocast=name == "bf16")
        figures[f"P7_{name}_{threads}_threads"] = measure_decision(config, batch, repeats=effort.repeats, calls=effort.large_calls)
    return figures


def measure_decision(config: TamiyoGNNConfig, batch: GraphBatch, *, repeats: int, calls: int) -> Figure:
    """Time `act` on one batch of observations, beside the network alone from PyTorch Geometric's layers."""
    with SEEDS.child("policy").torch_scope():
        policy = TamiyoPolicy(config).eval()
    noise = SEEDS.child("noise").numpy().random((len(batch), NUM_HEADS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the last layer leaves out what is not read
        reference = PygReference(policy.gnn).eval()
    encode = torch.inference_mode()(partial(reference, **reference_inputs(batch, config)))
    decide = partial(policy.act, batch, noise)
    runs, references, rates = [], [], []
    call_ms(decide, max(calls // 10, 2))
    encode()
    for _ in range(repeats):
        runs.append(call_ms(decide, calls))
        references.append(call_ms(encode, max(calls // 10, 2)))
        rates.append(matmul_rate(batch, config.hidden_dim))
    gflop = count_gflop(decide)
    p50 = [median(run["wall"]) for run in runs]
    return figure(
        "one sampled decision, p50",
        "ms",
        values=p50,
        reference="the network alone from PyTorch Geometric's layers, fp32, p50",
        reference_values=[median(run["wall"]) for run in references],
        p95_ms=[percentile(run["wall"], 95) for run in runs],
        p99_ms=[percentile(run["wall"], 99) for run in runs],
        cpu_p50_ms=[median(run["cpu"]) for run in runs],
        cpu_least_ms=min(min(run["cpu"]) for run in runs),
        threads=torch.get_num_threads(),
        gflop=gflop,
        reference_gflop=count_gflop(encode),
        matmul_gflop_per_sec=rates,
        share_of_matmul_rate=median(1e3 * gflop / time / rate for time, rate in zip(p50, rates, strict=True)),
        bf16_error=bf16_error(policy, batch),
        num_graphs=len(batch),
        num_nodes=sum(len(rows) for rows in batch.nodes.values()),
        num_edges=sum(index.shape[1] for index in batch.edges.values()),
        nodes_per_type={kind: len(batch.nodes[kind]) for kind in NODE_WIDTHS},
        hidden_dim=config.hidden_dim,
        calls_per_repeat=calls,
    )


def bf16_error(policy: TamiyoPolicy, batch: GraphBatch) -> dict[str, float]:
    """Largest error of bfloat16 against float32, relative to the largest magnitude; for probabilities absolute."""
    told = []
    for has_autocast in (False, True):
        with SEEDS.child("policy").torch_scope():
            other = TamiyoPolicy(replace(policy.config, has_autocast=has_autocast)).eval()
        other.load_state_dict(policy.state_dict())
        told.append(other.inspect(batch))
    exact, rough = told
    embedding = np.abs(rough.graph_embedding - exact.graph_embedding).max() / np.abs(exact.graph_embedding).max()
    return {"graph_embedding": float(embedding), "op_probs": float(np.abs(rough.op_probs - exact.op_probs).max())}


@torch.inference_mode()
def matmul_rate(batch: GraphBatch, width: int) -> float:
    """Billions of operations per second of [layer nodes, width] · [width, width], fp32."""
    num_rows = len(batch.nodes["layer"])
    x, weight = torch.ones(num_rows, width), torch.ones(width, width)
    run = call_ms(lambda: x @ weight, 50)
    return 2e-6 * num_rows * width * width / median(run["wall"])


def count_gflop(action: Callable[[], object]) -> float:
    """Billions of operations in matrix products."""
    with FlopCounterMode(display=False) as counter:
        action()
    return float(counter.get_total_flops()) / 1e9


def percentile(values: Sequence[float], percent: int) -> float:
    """Linear interpolation between the two nearest values."""
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def call_ms(action: Callable[[], object], calls: int) -> dict[str, list[float]]:
    """Milliseconds of every call, by either clock; at least two calls, since quantiles need them."""
    runs = [timed(action) for _ in range(max(calls, 2))]
    return {"wall": [1e3 * run.wall_sec for run in runs], "cpu": [1e3 * run.cpu_sec for run in runs]}


def measure_builder(effort: Effort) -> Figure:
    """95th percentile of building one small graph, beside one decision on it."""
    builder, report = host_report(num_layers=10, num_slots=3)
    with SEEDS.child("policy").torch_scope():
        policy = TamiyoPolicy(TamiyoGNNConfig()).eval()
    build = partial(builder.build, [report])
    decide = partial(policy.act, build(), None)
    built, decided = [], []
    for _ in range(effort.repeats):
        built.append(call_ms(build, effort.calls))
        decided.append(call_ms(decide, max(effort.calls // 10, 2)))
    return figure(
        "one graph of 10 layers built, p95",
        "ms",
        values=[percentile(run["wall"], 95) for run in built],
        reference="one greedy decision on it, p50",
        reference_values=[median(run["wall"]) for run in decided],
        p50_ms=[median(run["wall"]) for run in built],
        cpu_p50_ms=[median(run["cpu"]) for run in built],
        calls_per_repeat=effort.calls,
    )


def measure_update(overrides: Sequence[str], *, repeats: int) -> Figure:
    """P8: CPU of the PPO update, beside the whole round of the quick preset that it ends."""
    config = read_run_config(QUICK, overrides)
    facts = examine(config)
    updates, rounds, passes = [], [], []
    with TemporaryDirectory() as folder:
        paths = create_run_dir(Path(folder) / "run")
        with open_local(config, facts, paths, keep_rounds=None) as runtime:
            collector = Collector(runtime.executor, runtime.workers, runtime.learner, num_steps=facts.max_epochs, should_stop=lambda: False)
            for repeat in range(repeats):
                groups = training_round(repeat, config, SEEDS.child("train"))
                play = timed(partial(collector.play, groups, ActMode.TRAIN))
                update = timed(partial(runtime.learner.update, f"train/learned/{repeat}"))
                updates.append(update.cpu_sec)
                rounds.append(play.cpu_sec + update.cpu_sec)
                passes.append(len(update.result.passes))
    return figure(
        "PPO update",
        "CPU seconds",
        values=updates,
        reference="round of the quick run: playing and updating",
        reference_values=rounds,
        num_envs=config.rollout.num_envs,
        max_epochs=facts.max_epochs,
        passes=passes,
        settings=list(overrides),
    )


if __name__ == "__main__":
    main()
