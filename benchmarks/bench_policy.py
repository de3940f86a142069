"""How long the policy takes to decide (P6), and what share of a round learning takes (P8).

python -m benchmarks.bench_policy --repeats 5 --json policy.json
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.graphs import host_graph, repeated, with_edges
from benchmarks.measure import Figure, figure, run_benchmark, timed
from benchmarks.workloads import QUICK, SEEDS
from esper.distributed.collector import Collector
from esper.distributed.config import read_run_config
from esper.distributed.facts import examine
from esper.distributed.requests import training_round
from esper.distributed.run_dir import create_run_dir
from esper.distributed.runtime import open_local
from esper.leyline.actions import NUM_HEADS
from esper.leyline.graph import NODE_WIDTHS
from esper.tamiyo import TamiyoGNNConfig, TamiyoPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esper.leyline.graph import GraphBatch

FLOOR_LAYERS = 4
"""As many as the network has."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Read the command line, measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--calls", type=int, default=200, help="decisions per repeat")
    parser.add_argument("--only", nargs="+", choices=("P6", "P8"), default=("P6", "P8"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", help="settings of P8's run, e.g. rollout.num_envs=8")
    arguments = parser.parse_args(argv)

    def measure() -> dict[str, Figure]:
        figures: dict[str, Figure] = {}
        if "P6" in arguments.only:
            figures |= measure_inference(repeats=arguments.repeats, calls=arguments.calls)
        if "P8" in arguments.only:
            figures["P8"] = measure_update(arguments.overrides, repeats=arguments.repeats)
        return figures

    return run_benchmark(measure, arguments.json)


def measure_inference(*, repeats: int, calls: int) -> dict[str, Figure]:
    """P6: median time of one sampled decision, beside bare matrix products over the same nodes."""
    ten_layers = host_graph(num_layers=10, num_slots=3)
    batches = {
        "10_layers": ten_layers,
        "100_nodes": with_edges(host_graph(num_layers=32, num_slots=4), 500, SEEDS.child("edges").numpy()),
        "16_graphs": repeated(ten_layers, 16),
    }
    widths = {"default": TamiyoGNNConfig(), "quick": read_run_config(QUICK).policy}
    return {
        f"P6_{width}_{size}": measure_decision(config, batch, repeats=repeats, calls=calls)
        for width, config in widths.items()
        for size, batch in batches.items()
    }


def measure_decision(config: TamiyoGNNConfig, batch: GraphBatch, *, repeats: int, calls: int) -> Figure:
    """Time `act` on one batch of observations."""
    with SEEDS.child("policy").torch_scope():
        policy = TamiyoPolicy(config).eval()
    noise = SEEDS.child("noise").numpy().random((len(batch), NUM_HEADS))
    num_nodes = sum(len(rows) for rows in batch.nodes.values())
    decide, floor = partial(policy.act, batch, noise), partial(dense_floor, num_nodes, config.hidden_dim)
    call_ms(decide, max(calls // 10, 1))
    decided, floors = [], []
    for _ in range(repeats):
        decided.append(call_ms(decide, calls))
        floors.append(call_ms(floor, calls))
    return figure(
        "one sampled decision, p50",
        "ms",
        values=[median(run["wall"]) for run in decided],
        reference=f"{FLOOR_LAYERS} products [nodes, hidden] · [hidden, hidden], p50",
        reference_values=[median(run["wall"]) for run in floors],
        p95_ms=[quantiles(run["wall"], n=20, method="inclusive")[-1] for run in decided],
        cpu_p50_ms=[median(run["cpu"]) for run in decided],
        num_graphs=len(batch),
        num_nodes=num_nodes,
        num_edges=sum(index.shape[1] for index in batch.edges.values()),
        nodes_per_type={kind: len(batch.nodes[kind]) for kind in NODE_WIDTHS},
        hidden_dim=config.hidden_dim,
        calls_per_repeat=calls,
    )


@torch.inference_mode()
def dense_floor(num_nodes: int, width: int) -> None:
    """The least arithmetic of a network of this width: one product per layer."""
    x, weight = torch.ones(num_nodes, width), torch.ones(width, width)
    for _ in range(FLOOR_LAYERS):
        torch.relu(x @ weight)


def call_ms(action: Callable[[], object], calls: int) -> dict[str, list[float]]:
    """Milliseconds of every call, by either clock; at least two calls, since quantiles need them."""
    runs = [timed(action) for _ in range(max(calls, 2))]
    return {"wall": [1e3 * run.wall_sec for run in runs], "cpu": [1e3 * run.cpu_sec for run in runs]}


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
                play = timed(partial(collector.play, groups, greedy=False))
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
