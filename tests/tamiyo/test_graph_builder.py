"""Observations: every type is there, the unmeasured is masked, nothing unbounded leaves."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from esper.leyline.actions import LifecycleOp
from esper.leyline.alpha import AlphaMode
from esper.leyline.graph import EDGE_WIDTHS, NODE_WIDTHS, GraphBatch
from esper.leyline.reports import SeedMetrics, TrialReport
from esper.leyline.signals import SignalScale
from esper.leyline.stages import SeedStage
from esper.leyline.telemetry.seed import SeedTelemetry
from esper.tamiyo import GRAPH_SPEC, GraphBuilder
from esper.tamiyo.features import SLOT_OPS, STAGES
from esper.tamiyo.graph_spec import FEATURE_LIMIT, INDEX_SCALE
from esper.tamiyo.registries import LAYER_TYPES
from tests.tamiyo.reports import LIMITS, STEPS_PER_EPOCH, busy_report, make_report, make_seed


def build(*reports: TrialReport) -> GraphBatch:
    return GraphBuilder(LIMITS, steps_per_epoch=STEPS_PER_EPOCH).build(reports)


def channels(batch: GraphBatch, node_type: str, name: str) -> np.ndarray:
    return GRAPH_SPEC.read(node_type, batch.nodes[node_type], name)


def test_every_type_is_present_with_its_width_even_where_nothing_grows() -> None:
    batch = build(make_report())
    assert {t: (x.shape, x.dtype.name) for t, x in batch.nodes.items()} == {
        "layer": ((4, 128), "float32"),
        "seed": ((3, 64), "float32"),
        "activation": ((4, 32), "float32"),
        "parameter": ((4, 16), "float32"),
    }
    for edge, width in EDGE_WIDTHS.items():
        assert batch.edges[edge].shape == (2, int(batch.num_edges[edge][0]))
        assert batch.edge_attr[edge].shape == (int(batch.num_edges[edge][0]), width)
        assert batch.edge_attr[edge].dtype == np.float32
        assert batch.edges[edge].dtype == np.int64


def test_edges_stay_within_their_graph() -> None:
    rng = np.random.default_rng(0)
    batch = build(busy_report(rng, num_layers=4), busy_report(rng, num_layers=1), busy_report(rng, num_layers=7))
    for edge, index in batch.edges.items():
        graph = np.repeat(np.arange(3), batch.num_edges[edge])
        assert (index >= 0).all()
        assert (index[0] < batch.num_nodes[edge[0]][graph]).all()
        assert (index[1] < batch.num_nodes[edge[2]][graph]).all()


def test_building_together_equals_building_apart() -> None:
    rng = np.random.default_rng(1)
    reports = [busy_report(rng, num_layers=n) for n in (4, 2, 4)]
    reports[1] = replace(reports[1], max_epochs=30)
    together, apart = build(*reports), GraphBatch.concatenate([build(r) for r in reports])
    for node_type in NODE_WIDTHS:
        np.testing.assert_allclose(together.nodes[node_type], apart.nodes[node_type], rtol=1e-6)
    for edge in EDGE_WIDTHS:
        np.testing.assert_array_equal(together.edges[edge], apart.edges[edge])
        np.testing.assert_allclose(together.edge_attr[edge], apart.edge_attr[edge], rtol=1e-6)


def test_building_twice_changes_nothing() -> None:
    builder = GraphBuilder(LIMITS, steps_per_epoch=STEPS_PER_EPOCH)
    report = busy_report(np.random.default_rng(2))
    first = builder.build([report])
    builder.build([make_report(), busy_report(np.random.default_rng(3))])
    again = builder.build([report])
    for node_type in NODE_WIDTHS:
        np.testing.assert_array_equal(first.nodes[node_type], again.nodes[node_type])


def test_layers_carry_the_base_features_and_seeds_the_telemetry() -> None:
    report = make_report((None, make_seed(1, gradient_norm=2.0), None))
    batch = build(report)
    expected = report.signals.to_vector(SignalScale(report.max_epochs, report.max_epochs * STEPS_PER_EPOCH, 3))
    np.testing.assert_allclose(channels(batch, "layer", "signals"), np.tile(expected, (4, 1)), rtol=1e-6)
    seed = report.slots[1].seed
    assert seed is not None
    picture = SeedTelemetry.from_report(seed, report.epoch, report.max_epochs)
    np.testing.assert_allclose(channels(batch, "seed", "telemetry")[1], picture.to_features(), rtol=1e-6)
    np.testing.assert_array_equal(channels(batch, "seed", "telemetry_mask")[1], picture.feature_mask()[:4])
    assert not channels(batch, "seed", "telemetry")[[0, 2]].any()


def test_indices_survive_their_channel() -> None:
    batch = build(make_report((make_seed(0, blueprint_place=31), None, None)))
    np.testing.assert_array_equal(channels(batch, "seed", "blueprint")[:, 0] * INDEX_SCALE, [32, 0, 0])
    types = (channels(batch, "layer", "layer_type")[:, 0] * INDEX_SCALE).astype(int)
    assert [LAYER_TYPES[i] for i in types] == ["conv2d", "attention", "linear", "conv2d"]


def test_stages_and_legal_operations_stand_at_their_slots() -> None:
    holding = make_seed(1, SeedStage.HOLDING, age_epochs=9, alpha_mode=AlphaMode.HOLD)
    report = make_report((None, holding, make_seed(2, SeedStage.FOSSILIZED)))
    batch = build(report)
    stage = (channels(batch, "seed", "stage")[:, 0] * INDEX_SCALE).astype(int)
    assert [STAGES[i - 1] for i in stage] == [SeedStage.DORMANT, SeedStage.HOLDING, SeedStage.FOSSILIZED]
    legal = channels(batch, "seed", "legal_ops").astype(bool)
    assert [[op for op, is_legal in zip(SLOT_OPS, row, strict=True) if is_legal] for row in legal] == [
        [LifecycleOp.GERMINATE],
        [LifecycleOp.SET_ALPHA_TARGET, LifecycleOp.PRUNE, LifecycleOp.FOSSILIZE],
        [],
    ]


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_unmeasured_is_zero_and_masked(value: float | None) -> None:
    seed = make_seed(0, contribution=value, solo_contribution=value, gradient_ratio=value)
    report = make_report((seed, None, None))
    layers = tuple(replace(x, weight_norm=value, gradient_norm=value, saturation_rate=value) for x in report.layers)
    slots = tuple(replace(x, gradient_norm=value, activation_std=value) for x in report.slots)
    batch = build(replace(report, layers=layers, slots=slots, gradient_norm=value))
    for name in ("contribution", "solo", "gradient_ratio"):
        assert channels(batch, "seed", f"{name}_mask")[0, 0] == 0
    for name in ("contribution", "gradient_ratio") if value is None else ("gradient_ratio",):
        assert channels(batch, "seed", name)[0, 0] == 0
    assert not channels(batch, "seed", "slot_stats").any()
    assert not channels(batch, "seed", "slot_stats_mask").any()
    for name in ("weight_norm", "gradient_norm", "saturation_rate", "measured_mask", "host_gradient_norm", "host_gradient_norm_mask"):
        assert not channels(batch, "layer", name).any()


def test_measured_zero_is_not_unmeasured() -> None:
    report = make_report((make_seed(0, contribution=0.0), None, None))
    slots = tuple(replace(x, gradient_norm=0.0) for x in report.slots)
    batch = build(replace(report, slots=slots))
    assert channels(batch, "seed", "contribution_mask")[0, 0] == 1
    assert channels(batch, "seed", "slot_stats_mask")[:, 0].all()


@pytest.mark.parametrize("extreme", [math.nan, math.inf, -math.inf, 1e30, -1e30])
def test_nothing_unbounded_leaves(extreme: float) -> None:
    report = busy_report(np.random.default_rng(4))
    metrics = SeedMetrics(extreme, extreme, extreme, extreme, extreme, extreme, None, None, extreme, extreme, extreme)
    seeds = [replace(make_seed(0), metrics=metrics), None, None]
    layers = tuple(replace(x, weight_norm=extreme, gradient_variance=extreme, update_magnitude=extreme) for x in report.layers)
    slots = tuple(
        replace(x, seed=seed, gradient_norm=extreme, activation_mean=extreme, spatial_std=extreme)
        for x, seed in zip(report.slots, seeds, strict=True)
    )
    signals = report.signals._replace(train_loss=extreme, val_loss=extreme, accuracy_delta=extreme)
    bad = replace(
        report, layers=layers, slots=slots, signals=signals, val_accuracy=extreme, train_accuracy=extreme, learning_rate=abs(extreme)
    )
    batch = build(bad)
    for values in [*batch.nodes.values(), *batch.edge_attr.values()]:
        assert np.isfinite(values).all()
        assert np.abs(values).max() <= FEATURE_LIMIT


def test_the_slot_with_the_largest_gradient_stands_out() -> None:
    report = make_report()
    slots = tuple(replace(x, gradient_norm=g) for x, g in zip(report.slots, (1e-5, 1e-3, 1e-4), strict=True))
    relative = channels(build(replace(report, slots=slots)), "seed", "relative_gradient")[:, 0]
    np.testing.assert_allclose(relative, [-1.0, 0.0, -0.5], atol=0.01)


def test_wall_clock_does_not_reach_the_observation() -> None:
    report = busy_report(np.random.default_rng(5))
    slow = replace(report, timings=replace(report.timings, host_epoch_time_ms=1e9))
    a, b = build(report), build(slow)
    assert all(np.array_equal(a.nodes[t], b.nodes[t]) for t in NODE_WIDTHS)


def test_reports_with_different_numbers_of_slots_do_not_mix() -> None:
    with pytest.raises(ValueError, match="number of slots"):
        build(make_report(), make_report((None, None)))


def test_slot_behind_no_layer_is_an_error() -> None:
    report = make_report()
    with pytest.raises(ValueError, match="slots follow layers"):
        build(replace(report, slots=(replace(report.slots[0], layer_index=9), *report.slots[1:])))


def test_fossils_use_up_the_budget() -> None:
    none = channels(build(make_report()), "layer", "fossils_left")
    one = channels(build(make_report((make_seed(0, SeedStage.FOSSILIZED), None, None))), "layer", "fossils_left")
    assert (none == 1.0).all()
    assert (one == 0.5).all()
