from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks import bench_counterfactual, bench_env_step, bench_memory, bench_policy, bench_population
from benchmarks.bare import LAYOUTS, Layout, train_each, train_in_channels
from benchmarks.graphs import host_graph, large_graph, repeated, with_edges
from benchmarks.measure import figure
from benchmarks.members import BLUEPRINTS, find_case, grow, make_engines
from benchmarks.workloads import cnn_of, make_workload
from esper.leyline.rng import SeedTree
from esper.tolaria.engine.choose import Measurement
from esper.tolaria.engine.together import likeness

if TYPE_CHECKING:
    from pathlib import Path

SMALL = ("task.num_train=64", "task.num_val=32", "task.num_test=32", "task.max_epochs=2")


def check(result: dict[str, Any], path: Path, names: set[str], *, is_positive: bool = True) -> None:
    assert json.loads(path.read_text()) == result
    assert set(result["figures"]) == names
    assert result["machine"]["threads"] == 1
    assert len(result["machine"]["load_average"]) == 3
    assert "torch" in result["machine"]["versions"]
    assert result["cpu_sec"] > 0
    for name, measured in result["figures"].items():
        assert measured["repeats"] == len(measured["values"]) == len(measured["reference"]["values"]), name
        for number in (measured["median"], measured["reference"]["median"], measured["ratio"]):
            assert math.isfinite(number) and (number > 0 or not is_positive), name


@pytest.mark.parametrize("preset", ["reference", "image-mix"])
def test_env_step_benchmark_reports_throughput_beside_bare_pytorch(tmp_path: Path, preset: str) -> None:
    path = tmp_path / "result.json"
    result = bench_env_step.main([*SMALL, "--repeats", "1", "--envs", "1", "2", "--preset", preset, "--only", "P1", "--json", str(path)])
    check(result, path, {f"P1_{preset}_{policy}_K{num_envs}" for policy in ("learned", "random", "wait") for num_envs in (1, 2)})
    learned = result["figures"][f"P1_{preset}_learned_K2"]
    workload = learned["workload"]
    assert (workload["num_train"], workload["num_val"], workload["max_epochs"], workload["num_envs"]) == (64, 32, 2, 2)
    layouts = {"contiguous", "channels_last", "channels_last_bf16"}
    assert set(result["figures"][f"P1_{preset}_random_K1"]["share_of_bare"]) == layouts
    assert set(learned["share_of_bare"]) == layouts | {f"in_channels_{layout}" for layout in layouts}
    assert learned["ratio"] == pytest.approx(min(learned["share_of_bare"].values()))
    shares = learned["shares_of_cpu"]
    assert set(shares) == {"training", "evaluation", "probe", "observation", "decisions", "rest"}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert min(shares.values()) > 0.0


def test_reference_workload_has_the_sizes_it_is_compared_at() -> None:
    workload = make_workload("reference")
    data = workload.make_episode(workload.requests(0, 1)[0]).dataset
    assert data.train_x.shape == (512, 3, 32, 32)
    assert len(data.val_y) == 256
    assert data.augmentation == "crop_flip"
    assert workload.plan.batch_size == 128
    assert len(workload.make_trial(workload.requests(0, 1)[0]).model.specs) == 3


def test_counterfactual_benchmark_brings_three_seeds_to_life(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    result = bench_counterfactual.main([*SMALL[:3], "--repeats", "2", "--envs", "2", "--presets", "reference", "--json", str(path)])
    check(result, path, {"P5_reference_sequential", "P5_reference_population"}, is_positive=False)
    assert all("8 configurations" in measured["what"] for measured in result["figures"].values())


def test_population_benchmark_compares_bare_and_grown_hosts_of_every_family(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    hosts = ["blind0 8×8", "mlp 16-16", "t-noattn"]
    result = bench_population.main([*SMALL[:3], "--repeats", "1", "--members", "2", "--no-goals", "--json", str(path), "--hosts", *hosts])
    check(result, path, {f"{host} K=2" for host in hosts})
    rows = [Measurement(**measured["measurement"]) for measured in result["figures"].values()]
    assert [row.family for row in rows] == ["cnn", "mlp", "transformer"]
    assert all(row.num_members == 2 and row.grown_one_by_one_ms > row.one_by_one_ms for row in rows)


@pytest.mark.parametrize("host", ["impaired 32×32", "t-full", "mlp 64-64"])
def test_hosts_are_alike_and_grow_in_every_slot(host: str) -> None:
    case = find_case(host)
    engines = make_engines(case, 2, SMALL[:3])
    assert likeness(engines[0]) == likeness(engines[1]) is not None
    grow(engines, BLUEPRINTS[case.family])
    kinds = [[seed.blueprint_id for seed in engine.model.seed_reports() if seed is not None] for engine in engines]
    assert all(len(own) == len(engine.model.specs) for own, engine in zip(kinds, engines, strict=True))
    assert kinds[0][1:] == kinds[1][:-1]
    assert all(engine.model.live_slots() == tuple(range(len(engine.model.specs))) for engine in engines)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bare_hosts_in_channels_learn_like_bare_hosts(layout: Layout) -> None:
    workload = make_workload("reference", SMALL)
    episodes = [workload.make_episode(request) for request in workload.requests(0, 3)]
    before = [parameter.detach().clone() for parameter in cnn_of(episodes[0]).parameters()]
    assert train_in_channels(episodes, workload.plan, layout) == train_each(episodes, workload.plan, layout) == 6
    assert any(not torch.equal(old, new) for old, new in zip(before, cnn_of(episodes[0]).parameters(), strict=True))


@pytest.mark.slow
def test_start_benchmark_times_a_process(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    result = bench_env_step.main(["--repeats", "1", "--only", "P11", "--json", str(path)])
    check(result, path, {"P11"})
    measured = result["figures"]["P11"]
    assert sum(measured["phases"].values()) == pytest.approx(measured["median"])
    assert set(measured["loaded"]) & {"ray", "matplotlib", "wandb"} == set()


@pytest.mark.slow
def test_memory_benchmark_compares_trials_with_their_data(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    result = bench_memory.main(["--repeats", "1", "--presets", "digits", "--trials", "1", "2", "--json", str(path), *SMALL])
    names = {"P12_digits", "P12_digits_per_trial"}
    check(result, path, names, is_positive=False)
    whole, per_trial = (result["figures"][name] for name in sorted(names))
    assert whole["ratio"] > 1
    assert set(whole["uss_mb_by_trials"]) == {"1", "2"}
    assert per_trial["reference"]["median"] == pytest.approx(128 * (64 * 4 + 8) / 1e6)
    assert set(whole["loaded"]) & {"torch_geometric", "duckdb", "matplotlib", "ray", "wandb"} == set()


def test_memory_benchmark_refuses_a_slope_through_one_point(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench_memory.main(["--trials", "4"])
    assert "--trials" in capsys.readouterr().err


def test_policy_benchmark_reports_inference_and_update(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    changes = ["rollout.num_envs=2", "rollout.envs_per_actor=2", "ppo.epochs=1", *SMALL]
    options = ["--repeats", "1", "--calls", "2", "--threads", "1", "--json", str(path)]
    result = bench_policy.main([*options, *changes, "--only", "P6", "P8", "builder"])
    sizes = ("10_layers", "100_nodes", "16_graphs")
    check(result, path, {"P8", "builder", *(f"P6_{width}_{size}_1_threads" for width in ("default", "quick") for size in sizes)})
    assert result["figures"]["P8"]["ratio"] < 1
    assert result["figures"]["P6_quick_10_layers_1_threads"]["nodes_per_type"]["layer"] == 10
    assert result["figures"]["P6_default_100_nodes_1_threads"]["num_nodes"] == 100
    assert result["figures"]["P6_default_100_nodes_1_threads"]["num_edges"] == 500
    batch = result["figures"]["P6_quick_16_graphs_1_threads"]
    assert batch["num_graphs"] == 16
    assert 0 < batch["gflop"] < batch["reference_gflop"]
    assert 0 < batch["bf16_error"]["graph_embedding"] < 0.1


def test_large_graph_has_the_shape_asked_for() -> None:
    graph = large_graph(SeedTree(2).numpy(), num_nodes=500, num_edges=2500, num_slots=20)
    assert sum(len(rows) for rows in graph.nodes.values()) == 500
    assert sum(index.shape[1] for index in graph.edges.values()) == 2500
    assert len(graph.nodes["seed"]) == graph.masks.slot.shape[2] == 20
    for (source, _, destination), index in graph.edges.items():
        assert index[0].max() < len(graph.nodes[source])
        assert index[1].max() < len(graph.nodes[destination])


def test_added_edges_stay_within_their_graph() -> None:
    graph = with_edges(host_graph(num_layers=4, num_slots=2), 60, SeedTree(1).numpy())
    for (source, _, destination), index in graph.edges.items():
        assert index[0].max(initial=0) < len(graph.nodes[source])
        assert index[1].max(initial=0) < len(graph.nodes[destination])
    batch = repeated(graph, 3)
    assert len(batch) == 3
    assert sum(int(count.sum()) for count in batch.num_edges.values()) == 180
    with pytest.raises(ValueError, match="60 edges, 10 were wanted"):
        with_edges(graph, 10, SeedTree(1).numpy())


def test_figure_takes_its_ratio_repeat_by_repeat() -> None:
    measured = figure("a", "s", values=[1.0, 4.0, 9.0], reference="b", reference_values=[1.0, 2.0, 3.0])
    assert measured["ratio"] == 2.0
    assert measured["median"] == 4.0
    with pytest.raises(ValueError, match="2 values and 1"):
        figure("a", "s", values=[1.0, 2.0], reference="b", reference_values=[1.0])
