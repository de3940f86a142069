"""Whatever a packet says: a graph of finite numbers within their limits, or a `PacketError`; and what relabelling does to it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.leyline.alpha import AlphaCurve
from esper.leyline.graph import EDGE_WIDTHS, NODE_WIDTHS, GraphBatch
from esper.leyline.packets import (
    HostDescription,
    LayerState,
    PacketError,
    SeedState,
    SlotDescription,
    SlotState,
    SystemStatePacket,
)
from esper.leyline.stages import SeedStage
from esper.leyline.traits import OptimizerState, SeedTraits
from esper.tamiyo import GraphBuilder, TamiyoPolicy
from esper.tamiyo.coverage import coverage_of
from esper.tamiyo.graph_spec import FEATURE_LIMIT, METRIC_CHANNELS, METRIC_LIMIT
from esper.tamiyo.packet_adapter import report_from_packet
from tests.tamiyo.graphs import SMALL
from tests.tamiyo.reports import LIMITS, STEPS_PER_EPOCH, busy_report, make_layer

NUM_LAYERS = 4
HOST = HostDescription(
    tuple(make_layer(i).spec for i in range(NUM_LAYERS)), tuple(SlotDescription(f"r0c{i}", i, 8, 16) for i in range(3)), max_epochs=12
)
numbers = st.one_of(
    st.none(), st.floats(0, 1), st.sampled_from([0.0, -1.0, 50.0, 1e30, -1e308, math.nan, math.inf, -math.inf]), st.integers(-3, 10**30)
)
counts = st.one_of(st.none(), st.integers(0, 20), st.sampled_from([-1, 2**53, 10**400, 2.5]))
slot_ids = st.sampled_from([None, None, "r0c0", "r0c1", "r0c2", "r9c9"])
layer_ids = st.sampled_from(["segment0", "segment1", "segment3", "elsewhere"])
traits = st.builds(
    SeedTraits,
    numbers, numbers, numbers, numbers,
    st.sampled_from([None, "attention", "alchemy"]),
    st.sampled_from([None, (), ("linear",), ("magic",)]),
    st.sampled_from([None, True, False]),
    st.sampled_from([None, "v1"]),
    st.sampled_from([None, *AlphaCurve, 99]),
    numbers, numbers, numbers,
)  # fmt: skip
metric_maps = st.dictionaries(
    st.sampled_from(
        ["loss", "gradient_norm", "samples_per_s", "hook_latency_ms", "learning_rate", "training_accuracy", "seed_params", "x"]
    ),
    numbers,
    max_size=4,
)
seed_maps = st.dictionaries(
    st.sampled_from(["alpha", "contribution", "gradient_health", "has_vanishing", "accuracy_at_germination", "gradient_ratio"]),
    numbers,
    max_size=4,
)


def seed_states(index: int) -> st.SearchStrategy[SeedState]:
    return st.builds(
        SeedState,
        seed_id=st.sampled_from([f"s{index}", f"s{index}", "s0"]),
        stage=st.sampled_from([*SeedStage, SeedStage.TRAINING, SeedStage.BLENDING, 77]),
        gradient_norm=numbers,
        learning_rate=numbers,
        layer_depth=st.sampled_from([None, None, 0, 1, NUM_LAYERS]),
        metrics=seed_maps,
        age_epochs=counts,
        risk_score=numbers,
        slot_id=slot_ids,
        monitored_layers=st.lists(layer_ids, max_size=2).map(tuple),
        blueprint_place=st.sampled_from([None, 3, 32]),
        num_parameters=counts,
        alpha=st.one_of(st.none(), numbers),
        alpha_mode=st.sampled_from([0, 1, 2, 9]),
        alpha_progress=st.one_of(st.none(), st.floats(0, 1)),
        tempo_epochs=counts,
        is_gate_open=st.booleans(),
        traits=st.one_of(st.none(), traits),
    )


packets = st.builds(
    SystemStatePacket,
    current_epoch=st.one_of(st.integers(0, 50), st.sampled_from([2**53, 10**400, -1])),
    validation_accuracy=st.one_of(st.floats(0, 100), numbers),
    validation_loss=numbers,
    training_metrics=metric_maps,
    seed_states=st.one_of(st.just(()), seed_states(1).map(lambda s: (s,)), st.tuples(seed_states(1), seed_states(2))),
    global_step=counts,
    training_loss=numbers,
    max_epochs=counts,
    layer_states=st.one_of(st.just(()), st.builds(LayerState, layer_ids, numbers, numbers, numbers, numbers).map(lambda s: (s,))),
    slot_states=st.one_of(st.just(()), st.builds(SlotState, st.just("r0c0"), numbers, numbers, numbers, numbers).map(lambda s: (s,))),
    optimizer=st.one_of(st.none(), st.builds(OptimizerState, st.sampled_from([None, "adam", "zen"]), numbers)),
)


def build(packet: SystemStatePacket, host: HostDescription | None) -> GraphBatch:
    return GraphBuilder(LIMITS, steps_per_epoch=STEPS_PER_EPOCH).build([report_from_packet(packet, host, limits=LIMITS)])


def assert_sound(batch: GraphBatch) -> None:
    for node_type, rows in batch.nodes.items():
        assert np.isfinite(rows).all()
        limited = np.delete(rows, np.r_[METRIC_CHANNELS], axis=1) if node_type == "layer" else rows
        assert np.abs(limited).max(initial=0.0) <= FEATURE_LIMIT
    assert np.abs(batch.nodes["layer"][:, METRIC_CHANNELS]).max(initial=0.0) <= METRIC_LIMIT
    for edge, index in batch.edges.items():
        assert np.isfinite(batch.edge_attr[edge]).all()
        assert (index >= 0).all()
        assert (index < np.array([[int(batch.num_nodes[edge[0]][0])], [int(batch.num_nodes[edge[2]][0])]])).all()
    assert batch.masks.op[0, 0]
    assert 0.0 <= coverage_of(batch).average <= 1.0


@given(packets, st.booleans())
@settings(max_examples=50, deadline=None)
def test_any_packet_gives_a_sound_graph_or_a_packet_error(packet: SystemStatePacket, is_described: bool) -> None:
    host = HOST if is_described else None
    try:
        batch = build(packet, host)
    except PacketError:
        return
    assert_sound(batch)


plain_seeds = st.builds(
    SeedState,
    seed_id=st.just("s"),
    stage=st.sampled_from([SeedStage.TRAINING, SeedStage.HOLDING, SeedStage.UNKNOWN, SeedStage.PRUNED]),
    gradient_norm=numbers,
    metrics=seed_maps.map(lambda m: {k: v for k, v in m.items() if k != "alpha"}),
    risk_score=numbers,
    slot_id=st.sampled_from([None, "r0c1"]),
    traits=st.builds(SeedTraits, numbers, numbers, numbers, numbers),
)


@given(numbers, metric_maps.map(lambda m: {k: v for k, v in m.items() if k not in ("seed_params", "training_accuracy")}), plain_seeds)
@settings(max_examples=50, deadline=None)
def test_numbers_alone_are_never_an_error(loss: float | None, metrics: dict[str, float], seed: SeedState) -> None:
    packet = SystemStatePacket(3, 50.0, loss, training_metrics=metrics, seed_states=(seed,), training_loss=loss)  # type: ignore[arg-type]
    for host in (HOST, None):
        assert_sound(build(packet, host))


@given(numbers.filter(lambda x: x is not None), st.sampled_from(["weight_norm", "gradient_norm", "gradient_variance", "latency_ms"]))
@settings(max_examples=50, deadline=None)
def test_layer_measurements_alone_are_never_an_error(value: float, name: str) -> None:
    states = (replace(LayerState("segment0"), **{name: value}), LayerState("segment1", 1.0, 1.0, 1.0, 1.0, 0.5, 1.0, 2.0))  # type: ignore[arg-type]
    assert_sound(build(SystemStatePacket(3, 50.0, 1.0, layer_states=states), HOST))


@pytest.mark.parametrize("num_slots", [0, 3, 10, 100])
def test_one_set_of_weights_decides_for_any_number_of_slots(num_slots: int) -> None:
    policy = TamiyoPolicy(SMALL).eval()
    for num_layers in (1, 7):
        slots = tuple(SlotDescription(f"r0c{i}", i % num_layers, 8, 16) for i in range(num_slots))
        host = HostDescription(tuple(make_layer(i).spec for i in range(num_layers)), slots, max_epochs=12)
        batch = build(SystemStatePacket(3, 50.0, 1.0), host)
        assert_sound(batch)
        output = policy.act(batch, None)
        assert np.isfinite(output.value).all()
        assert np.isfinite(output.log_prob).all()
        assert output.actions[0, 0] < max(num_slots, 1)


def test_relabelling_slots_relabels_seeds_and_masks_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    report = busy_report(rng, num_layers=5, num_slots=6)
    order = rng.permutation(6)
    masks = replace(report.masks, slot=report.masks.slot[:, :, order])
    relabelled = replace(report, slots=tuple(report.slots[i] for i in order), masks=masks)
    builder = GraphBuilder(replace(LIMITS, max_seeds=6), steps_per_epoch=STEPS_PER_EPOCH)
    a, b = builder.build([report]), builder.build([relabelled])
    np.testing.assert_array_equal(a.nodes["seed"][order], b.nodes["seed"])
    for node_type in set(NODE_WIDTHS) - {"seed"}:
        np.testing.assert_array_equal(a.nodes[node_type], b.nodes[node_type])
    for edge in EDGE_WIDTHS:
        moved = {(*e, *attr) for e, attr in zip(a.edges[edge].T.tolist(), a.edge_attr[edge].tolist(), strict=True)}
        back = [(int(order[s]) if edge[0] == "seed" else s, d) for s, d in b.edges[edge].T.tolist()]
        assert moved == {(*e, *attr) for e, attr in zip(back, b.edge_attr[edge].tolist(), strict=True)}


def test_names_of_layers_and_slots_mean_nothing() -> None:
    report = busy_report(np.random.default_rng(1))
    layers = tuple(replace(x, spec=replace(x.spec, layer_id=f"other{i}")) for i, x in enumerate(report.layers))
    slots = tuple(replace(s, slot_id=f"r9c{i}") for i, s in enumerate(report.slots))
    builder = GraphBuilder(LIMITS, steps_per_epoch=STEPS_PER_EPOCH)
    a, b = builder.build([report]), builder.build([replace(report, layers=layers, slots=slots)])
    for node_type in NODE_WIDTHS:
        np.testing.assert_array_equal(a.nodes[node_type], b.nodes[node_type])


def test_a_report_without_layers_is_a_graph_of_slots() -> None:
    host = HostDescription((), (SlotDescription("a", None, 8, 16),), max_epochs=12)
    batch = build(SystemStatePacket(3, 50.0, 1.0), host)
    assert {t: int(n[0]) for t, n in batch.num_nodes.items()} == {"layer": 0, "seed": 1, "activation": 0, "parameter": 0}
    assert_sound(batch)
