"""Packets: the same graph as training's own report, less where less is told, and a clear error where a packet is impossible."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from esper.leyline.actions import LifecycleOp
from esper.leyline.alpha import AlphaCurve, AlphaMode
from esper.leyline.graph import EDGE_WIDTHS, NODE_WIDTHS, GraphBatch
from esper.leyline.host import LayerSpec
from esper.leyline.masks import ActionMasks
from esper.leyline.packets import (
    HostDescription,
    LayerState,
    PacketError,
    SeedState,
    SlotDescription,
    SlotState,
    SystemStatePacket,
)
from esper.leyline.reports import EpochTimings, TrialReport
from esper.leyline.schemas import BlueprintSpec, GovernorVerdict, RiskLevel
from esper.leyline.stages import SeedStage
from esper.leyline.traits import OptimizerState, SeedTraits
from esper.tamiyo import GRAPH_SPEC, GraphBuilder
from esper.tamiyo.coverage import coverage_of
from esper.tamiyo.graph_spec import INDEX_SCALE
from esper.tamiyo.packet_adapter import report_from_packet
from esper.tamiyo.packet_export import host_from_report, packet_from_report
from esper.tamiyo.registries import Registries
from tests.tamiyo.reports import LIMITS, STEPS_PER_EPOCH, busy_report, make_layer, make_report, make_seed

MONITORS = ("seed", "monitors", "layer")
BARE = SystemStatePacket(current_epoch=3, validation_accuracy=55.0, validation_loss=1.2)


def build(*reports: TrialReport, **settings: Any) -> GraphBatch:
    return GraphBuilder(LIMITS, steps_per_epoch=STEPS_PER_EPOCH, **settings).build(reports)


def graph_of(packet: SystemStatePacket, host: HostDescription | None = None, **settings: Any) -> GraphBatch:
    return build(report_from_packet(packet, host, limits=LIMITS), **settings)


def seed_channel(batch: GraphBatch, name: str) -> np.ndarray:
    return GRAPH_SPEC.read("seed", batch.nodes["seed"], name)


def make_host(num_layers: int = 4, num_slots: int = 2, **changes: object) -> HostDescription:
    layers = tuple(make_layer(i).spec for i in range(num_layers))
    slots = tuple(SlotDescription(f"r0c{i}", i, 8, 16) for i in range(num_slots))
    return replace(HostDescription(layers, slots, max_epochs=12), **changes)  # type: ignore[arg-type]


def assert_same(a: GraphBatch, b: GraphBatch) -> None:
    for node_type in NODE_WIDTHS:
        np.testing.assert_array_equal(a.nodes[node_type], b.nodes[node_type], err_msg=node_type)
    for edge in EDGE_WIDTHS:
        np.testing.assert_array_equal(a.edges[edge], b.edges[edge])
        np.testing.assert_array_equal(a.edge_attr[edge], b.edge_attr[edge], err_msg=str(edge))
    for name in ActionMasks.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(a.masks, name), getattr(b.masks, name), err_msg=name)


@pytest.mark.parametrize("seed", range(6))
def test_service_and_training_see_the_same_graph(seed: int) -> None:
    rng = np.random.default_rng(seed)
    report = (
        busy_report(rng, num_slots=1 + seed) if seed else make_report((make_seed(0, gradient_health=0.5, has_vanishing=False), None, None))
    )
    report = replace(report, verdict=GovernorVerdict(None, 1.0, 2.0, seed), learning_rate=0.003)
    limits = replace(LIMITS, max_seeds=len(report.slots)) if seed else LIMITS
    packet = packet_from_report(report)
    again = report_from_packet(packet, host_from_report(report), limits=limits)
    assert_same(build(again), build(report))
    assert packet_from_report(again).seed_states == packet.seed_states


def test_told_traits_and_clocks_survive_the_way_too() -> None:
    traits = SeedTraits(0.2, 0.4, 0.6, 0.8, "attention", ("linear", "sigmoid"), True, "v1", AlphaCurve.COSINE, 0.5, 0.1, 0.01)
    report = make_report((make_seed(0, traits=traits), None, None), rng=np.random.default_rng(0), optimizer=OptimizerState("adamw", 0.9))
    layers = tuple(replace(x, update_frequency=0.5, latency_ms=float(i)) for i, x in enumerate(report.layers))
    timings = EpochTimings(None, None, samples_per_s=4000.0, hook_latency_ms=3.0)
    report = replace(report, layers=layers, timings=timings)
    again = report_from_packet(packet_from_report(report), host_from_report(report), limits=LIMITS)
    assert again.timings == timings
    batch = build(again, policy_version="v1")
    assert_same(batch, build(report, policy_version="v1"))
    registries = Registries.standard()
    for name, expected in {
        "activity_level": 0.2,
        "success_rate": 0.4,
        "risk_score": 0.6,
        "risk_tolerance": 0.6,
        "specialization": registries.specializations.index("attention") / INDEX_SCALE,
        "quarantine_only": 1.0,
        "policy_version": 1.0,
        "alpha_schedule": (AlphaCurve.COSINE + 1) / INDEX_SCALE,
    }.items():
        assert seed_channel(batch, name)[0, 0] == pytest.approx(expected), name
    np.testing.assert_array_equal(seed_channel(batch, "allowed_blending_methods")[0], [1, 0, 0, 1])
    np.testing.assert_allclose(batch.edge_attr[MONITORS][0], [0.5, 0.3, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(batch.edge_attr["layer", "connects", "layer"][:, 3], [0.0, 1 / 3, 2 / 3])
    assert coverage_of(batch).by_feature["parameter.optimizer_family"] == 1.0


def test_unknown_traits_are_in_the_middle_and_masked() -> None:
    batch = graph_of(replace(BARE, seed_states=(SeedState("s", SeedStage.TRAINING, slot_id="r0c0"),)), make_host())
    for name in ("activity_level", "success_rate", "risk_score"):
        np.testing.assert_array_equal(seed_channel(batch, name)[:, 0], [0.5, 0.0])
        assert not seed_channel(batch, f"{name}_mask").any()
    for name in ("seed_id", "quarantine_only", "policy_version", "specialization", "alpha_schedule", "blueprint"):
        assert not seed_channel(batch, name).any()


def test_another_policys_seed_and_a_registered_one_are_told_apart() -> None:
    seeds = (SeedState("s", SeedStage.TRAINING, slot_id="r0c0", traits=SeedTraits(policy_version="v1")),)
    registries = Registries.standard(seeds=["r", "s"])
    batch = graph_of(replace(BARE, seed_states=seeds), make_host(), policy_version="v2", registries=registries)
    assert seed_channel(batch, "policy_version")[0, 0] == -1.0
    assert seed_channel(batch, "seed_id")[0, 0] * INDEX_SCALE == 2


def test_a_host_that_nobody_described_still_gives_a_graph() -> None:
    seeds = (SeedState("a", SeedStage.BLENDING, gradient_norm=1.0, metrics={"alpha": 0.25}), SeedState("b", SeedStage.HOLDING))
    batch = graph_of(replace(BARE, seed_states=seeds, training_metrics={"loss": 0.5, "samples_per_s": 3000.0}))
    assert {t: int(n[0]) for t, n in batch.num_nodes.items()} == {"layer": 1, "seed": 2, "activation": 1, "parameter": 1}
    assert GRAPH_SPEC.read("layer", batch.nodes["layer"], "layer_type")[0, 0] == 0
    np.testing.assert_array_equal(batch.edges[MONITORS], [[0, 1], [0, 0]])
    np.testing.assert_allclose(batch.edge_attr[MONITORS][:, 1], [0.25, 0.0])
    nothing = graph_of(BARE)
    assert int(nothing.num_nodes["seed"][0]) == 0
    assert nothing.masks.op.tolist() == [[True, False, False, False, False, False]]


def test_seeds_without_a_place_watch_the_layers_that_matter_most() -> None:
    states = tuple(LayerState(f"segment{i}", gradient_norm=g) for i, g in enumerate((0.1, 5.0, math.nan, 2.0, 3.0)))
    seeds = (SeedState("lost", SeedStage.TRAINING), SeedState("found", SeedStage.TRAINING, slot_id="r0c1"))
    packet = replace(BARE, seed_states=seeds, layer_states=states)
    batch = graph_of(packet, make_host(num_layers=5))
    np.testing.assert_array_equal(batch.edges[MONITORS], [[0, 1, 2, 2, 2], [0, 1, 1, 3, 4]])
    is_bound = batch.edge_attr[MONITORS][:, GRAPH_SPEC.edge_channels[MONITORS]["is_bound"]][:, 0]
    np.testing.assert_array_equal(is_bound, [1, 1, 0, 0, 0])
    np.testing.assert_allclose(seed_channel(batch, "monitoring_scope")[:, 0], [0.2, 0.2, 0.6])
    unmeasured = graph_of(replace(packet, layer_states=()), make_host(num_layers=5))
    np.testing.assert_array_equal(unmeasured.edges[MONITORS][1, 2:], [0, 1, 2])


def test_a_seed_goes_to_the_slot_behind_its_depth_or_watches_what_it_names() -> None:
    deep = SeedState("deep", SeedStage.TRAINING, layer_depth=1)
    report = report_from_packet(replace(BARE, seed_states=(deep,)), make_host(), limits=LIMITS)
    assert [slot.seed.seed_id if slot.seed else None for slot in report.slots] == [None, "deep"]
    wide = SeedState("wide", SeedStage.TRAINING, slot_id="r0c0", monitored_layers=("segment3", "segment1"))
    batch = graph_of(replace(BARE, seed_states=(wide,)), make_host())
    np.testing.assert_array_equal(batch.edges[MONITORS], [[0, 0, 1], [1, 3, 1]])
    assert batch.edge_attr[MONITORS].shape == (3, EDGE_WIDTHS[MONITORS])


def test_offers_and_limits_of_the_host_shape_the_masks() -> None:
    offer = BlueprintSpec("conv_light", "cnn", 5, 8, 16, num_parameters=77, flops=1, risk=RiskLevel.GREEN)
    host = make_host(blueprints=(offer,))
    masks = report_from_packet(BARE, host, limits=LIMITS).masks
    assert np.flatnonzero(masks.blueprint[0]).tolist() == [5]
    frozen = replace(LIMITS, ops=(LifecycleOp.WAIT,))
    assert np.flatnonzero(report_from_packet(BARE, replace(host, limits=frozen), limits=LIMITS).masks.op[0]).tolist() == [0]
    seeds = (SeedState("s", SeedStage.TRAINING, slot_id="r0c0", blueprint_id="conv_light"),)
    seed = report_from_packet(replace(BARE, seed_states=seeds), host, limits=LIMITS).slots[0].seed
    assert seed is not None
    assert (seed.blueprint_place, seed.num_parameters) == (5, 77)


def test_a_gate_is_closed_unless_it_is_told_to_be_open() -> None:
    def may_advance(*, is_gate_open: bool) -> bool:
        seed = SeedState("s", SeedStage.TRAINING, slot_id="r0c0", is_gate_open=is_gate_open)
        return bool(report_from_packet(replace(BARE, seed_states=(seed,)), make_host(), limits=LIMITS).masks.op[0, LifecycleOp.ADVANCE])

    assert may_advance(is_gate_open=True)
    assert not may_advance(is_gate_open=False)


def test_a_dormant_seed_is_an_empty_slot() -> None:
    report = report_from_packet(replace(BARE, seed_states=(SeedState("s", SeedStage.DORMANT, slot_id="r0c0"),)), make_host(), limits=LIMITS)
    assert report.slots[0].seed is None
    assert report.masks.slot[0, LifecycleOp.GERMINATE].tolist() == [True, True]


SEED = SeedState("s", SeedStage.TRAINING, slot_id="r0c0")


@pytest.mark.parametrize(
    ("packet", "complaint"),
    [
        (replace(BARE, version=2), "version=2"),
        (replace(BARE, training_run_id="run\ud800"), "training_run_id=.*UTF-8"),
        (replace(BARE, layer_states=(LayerState("\udfff"),)), "layer_id=.*UTF-8"),
        (replace(BARE, seed_states=(replace(SEED, seed_id=3),)), "seed_id=3 should be text"),  # type: ignore[arg-type]
        (replace(BARE, current_epoch=-1), "current_epoch=-1"),
        (replace(BARE, current_epoch=10**400), "current_epoch"),
        (replace(BARE, validation_accuracy=math.nan), "percentage"),
        (replace(BARE, validation_accuracy=101.0), "validation_accuracy=101"),
        (replace(BARE, training_metrics={"loss": "low"}), "should be a number"),  # type: ignore[dict-item]
        (replace(BARE, training_metrics={"seed_params": -1.0}), "seed_params"),
        (replace(BARE, training_metrics={"consecutive_anomalies": 1e300}), "consecutive_anomalies"),
        (replace(BARE, max_epochs=0), "max_epochs=0"),
        (replace(BARE, global_step=-5), "global_step=-5"),
        (replace(BARE, seed_states=(SEED, SEED)), "seed ids should differ"),
        (replace(BARE, seed_states=(SEED, replace(SEED, seed_id="t"))), "both claim slot 'r0c0'"),
        (replace(BARE, seed_states=(replace(SEED, slot_id="r9c9"),)), "not among the host's"),
        (replace(BARE, seed_states=(replace(SEED, stage=SeedStage.SHADOWING),)), "stage"),
        (replace(BARE, seed_states=(replace(SEED, stage="GROWING"),)), "GROWING"),  # type: ignore[arg-type]
        (replace(BARE, seed_states=(replace(SEED, slot_id=None, layer_depth=4),)), "layer_depth=4"),
        (replace(BARE, seed_states=(replace(SEED, alpha=1.5),)), "alpha=1.5"),
        (replace(BARE, seed_states=(replace(SEED, alpha_mode=7),)), "alpha_mode=7"),  # type: ignore[arg-type]
        (replace(BARE, seed_states=(replace(SEED, age_epochs=-3),)), "age_epochs=-3"),
        (replace(BARE, seed_states=(replace(SEED, blueprint_place=32),)), "blueprint_place=32"),
        (replace(BARE, seed_states=(replace(SEED, monitored_layers=("x",)),)), "monitored_layers"),
        (replace(BARE, seed_states=(replace(SEED, traits=SeedTraits(allowed_blending_methods=("magic",))),)), "magic"),
        (replace(BARE, seed_states=(SeedState("r0c1", SeedStage.TRAINING),)), "should name the slot"),
        (replace(BARE, layer_states=(LayerState("x"),)), r"layer_states tell of \['x'\]"),
        (replace(BARE, layer_states=(LayerState("segment0"), LayerState("segment0"))), "each layer once"),
        (replace(BARE, slot_states=(SlotState("x"),)), r"slot_states tell of \['x'\]"),
        (replace(BARE, signals=make_report().signals._replace(epoch=-1)), "signals.epoch=-1"),
    ],
)
def test_an_impossible_packet_is_refused(packet: SystemStatePacket, complaint: str) -> None:
    with pytest.raises(PacketError, match=complaint):
        report_from_packet(packet, make_host(), limits=LIMITS)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"max_epochs": 0}, "max_epochs=0"),
        ({"slots": (SlotDescription("a", 9, 1, 1),)}, "layer_index=9"),
        ({"slots": (SlotDescription("a", 0, 1, 1), SlotDescription("a", 1, 1, 1))}, "stand twice"),
        ({"slots": (SlotDescription("a", 0, -1, 1),)}, "channels=-1"),
        ({"layers": (LayerSpec("a", "linear", None, 1, 1, 0.0, 10**400, 0, 0),), "slots": ()}, "num_parameters"),
        ({"layers": 5}, "layers=5 should be a tuple of LayerSpec"),
        ({"layers": ("a",), "slots": ()}, r"layers\[0\]='a'"),
        ({"layers": (LayerSpec("\ud800", "linear", None, 1, 1, 0.0, 1, 0, 0),), "slots": ()}, "layer_id=.*UTF-8"),
        ({"layers": (LayerSpec("a", ["linear"], None, 1, 1, 0.0, 1, 0, 0),), "slots": ()}, "layer_type=.* should be text"),  # type: ignore[arg-type]
        ({"layers": (LayerSpec("a", "linear", 3, 1, 1, 0.0, 1, 0, 0),), "slots": ()}, "activation_type=3 should be text"),  # type: ignore[arg-type]
        ({"layers": (LayerSpec("a", "linear", None, 1, 1, "x", 1, 0, 0),), "slots": ()}, "dropout_rate='x' should be within"),  # type: ignore[arg-type]
        ({"layers": (LayerSpec("a", "linear", None, 1, 1, math.nan, 1, 0, 0),), "slots": ()}, "dropout_rate=nan"),
        ({"slots": (SlotDescription(["a"], 0, 1, 1),)}, "slot_id=.* should be text"),  # type: ignore[arg-type]
        ({"slots": (SlotDescription("a\udfff", 0, 1, 1),)}, "slot_id=.*UTF-8"),
        ({"blueprints": (BlueprintSpec(7, "cnn", 1, 1, 1, 1, 1, RiskLevel.GREEN),)}, "blueprint_id=7 should be text"),  # type: ignore[arg-type]
        ({"blueprints": (BlueprintSpec("a", "cnn", 32, 1, 1, 1, 1, RiskLevel.GREEN),)}, "place=32 should be an index below 32"),
        ({"num_parameters": -1}, "num_parameters=-1"),
        ({"limits": {"max_seeds": 1}}, "limits=.* GrowthLimits, not dict"),
        ({"limits": replace(LIMITS, blueprints=(40,))}, "limits.blueprints=40"),
        ({"limits": replace(LIMITS, max_seeds=-1)}, "limits.max_seeds=-1"),
    ],
)
def test_an_impossible_host_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(PacketError, match=complaint):
        make_host(**change)


def test_a_host_may_hold_lists_and_numpy_scalars() -> None:
    plain = make_host()
    layers = [replace(x, num_parameters=np.int64(x.num_parameters), dropout_rate=np.float32(0.0)) for x in plain.layers]  # type: ignore[arg-type]
    slots = [replace(slot, channels=np.int32(slot.channels)) for slot in plain.slots]  # type: ignore[arg-type]
    told = HostDescription(layers, slots, np.int64(12), blueprints=None)  # type: ignore[arg-type]
    assert told == plain
    assert_same(graph_of(BARE, told), graph_of(BARE, plain))


def test_a_schedule_that_runs_is_seen() -> None:
    seed = replace(SEED, stage=SeedStage.BLENDING, alpha=0.5, alpha_mode=AlphaMode.UP, alpha_progress=0.25, tempo_epochs=8)
    batch = graph_of(replace(BARE, seed_states=(seed,)), make_host())
    assert seed_channel(batch, "alpha_mode")[0, 0] * INDEX_SCALE == AlphaMode.UP + 1
    assert seed_channel(batch, "alpha_progress")[0, 0] == 0.25
    assert seed_channel(batch, "tempo")[0, 0] == 1.0
