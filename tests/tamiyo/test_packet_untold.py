"""Coverage of packets: what nobody told does not count as measured, although the graph shows a default."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from esper.leyline.packets import HostDescription, LayerState, SeedState, SystemStatePacket
from esper.leyline.schemas import BlueprintSpec, GovernorVerdict, RiskLevel
from esper.leyline.signals import TENSOR_SCHEMA_SIZE
from esper.leyline.stages import SeedStage
from esper.tamiyo import GraphBuilder, coverage_of
from esper.tamiyo.packet_adapter import report_from_packet
from esper.tamiyo.packet_export import host_from_report, packet_from_report
from esper.tamiyo.packet_untold import untold_in
from esper.tamiyo.service import TamiyoService
from tests.tamiyo.reports import LIMITS, STEPS_PER_EPOCH, busy_report, make_report, make_seed
from tests.tamiyo.service.packets import HOST, make_packet
from tests.tamiyo.service.policies import store

if TYPE_CHECKING:
    from pathlib import Path

BARE = SystemStatePacket(current_epoch=3, validation_accuracy=50.0, validation_loss=1.2)
SEED = SeedState("a", SeedStage.TRAINING, slot_id="r0c0")
OF_SEED = ("tempo", "age", "total_improvement", "relative_parameters", "alpha_target", "alpha_progress")
OF_LAYER = ("input_channels", "flops", "num_parameters", "dropout_rate", "activation_known", "position", "host_params", "parameter_share")


def covered(packet: SystemStatePacket, host: HostDescription | None = None) -> dict[str, float]:
    report = report_from_packet(packet, host, limits=LIMITS)
    batch = GraphBuilder(LIMITS, steps_per_epoch=STEPS_PER_EPOCH).build([report])
    return dict(coverage_of(batch, untold_in(packet, host, report)).by_feature)


@pytest.mark.parametrize("seed", range(4))
def test_a_packet_that_tells_everything_covers_what_training_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    report = replace(busy_report(rng), verdict=GovernorVerdict(None, 1.0, 2.0, 0))
    packet, host = packet_from_report(report), host_from_report(report)
    training = coverage_of(GraphBuilder(LIMITS, steps_per_epoch=STEPS_PER_EPOCH).build([report]))
    assert covered(packet, host) == pytest.approx(training.by_feature)


def test_a_host_that_nobody_described_is_unknown() -> None:
    shares = covered(replace(BARE, seed_states=(SEED,), layer_states=(LayerState("x"), LayerState("y"))))
    assert [name for name in OF_LAYER if shares[f"layer.{name}"] > 0.0] == []
    for name in ("activation.computational_cost", "activation.known", "activation.nonlinearity", "parameter.parameter_count_score"):
        assert shares[name] == 0.0
    for name in ("seed.channels", "seed.positions", "seed.position", "seed.monitoring_scope"):
        assert shares[name] == 0.0
    assert shares["layer-connects-layer.data_flow_volume"] == shares["activation-influences-layer.nonlinearity_strength"] == 0.0
    described = covered(replace(BARE, seed_states=(SEED,)), HOST)
    assert [name for name in OF_LAYER if described[f"layer.{name}"] < 0.5] == []
    assert described["layer.activation_known"] == described["activation.nonlinearity"] == 0.5


def test_the_horizon_is_known_from_the_host_or_the_packet() -> None:
    assert covered(BARE)["layer.epochs_left"] == 0.0
    assert covered(replace(BARE, max_epochs=12))["layer.epochs_left"] == covered(BARE, HOST)["layer.epochs_left"] == 1.0


def test_a_seed_of_which_only_id_and_stage_are_told() -> None:
    shares = covered(replace(BARE, seed_states=(SEED,)), HOST)
    assert [name for name in OF_SEED if shares[f"seed.{name}"] > 0.0] == []
    assert shares["seed.telemetry"] == pytest.approx(0.3)
    assert shares["layer.seed_growth"] == 0.0
    assert shares["layer.fossil_growth"] == 1.0
    assert shares["seed-monitors-layer.alpha"] == pytest.approx(2 / 3)


def test_each_thing_told_of_a_seed_counts() -> None:
    told = replace(
        SEED, age_epochs=2, epochs_in_stage=1, tempo_epochs=5, num_parameters=7, alpha_target=1.0, alpha_progress=1.0,
        metrics={"alpha": 0.0, "accuracy_at_germination": 49.0, "accuracy_at_stage_start": 49.5},
    )  # fmt: skip
    shares = covered(replace(BARE, seed_states=(told,)), HOST)
    assert [name for name in OF_SEED if shares[f"seed.{name}"] < 1.0] == []
    assert shares["seed.telemetry"] == pytest.approx(0.6)
    assert shares["seed-monitors-layer.alpha"] == shares["layer.seed_growth"] == 1.0
    half = covered(replace(BARE, seed_states=(told, replace(SEED, seed_id="b", slot_id="r0c1", age_epochs=1))), HOST)
    assert (half["seed.age"], half["seed.tempo"]) == (1.0, 0.5)
    not_finite = covered(replace(BARE, seed_states=(replace(told, alpha_target=float("nan")),)), HOST)
    assert not_finite["seed.alpha_target"] == 0.0


def test_parameters_are_known_from_the_offered_blueprint() -> None:
    offer = BlueprintSpec("conv", "cnn", 5, 8, 64, num_parameters=77, flops=1, risk=RiskLevel.GREEN)
    packet = replace(BARE, seed_states=(replace(SEED, blueprint_id="conv"),))
    assert covered(packet, replace(HOST, blueprints=(offer,)))["seed.relative_parameters"] == 1.0
    assert covered(packet, replace(HOST, blueprints=(replace(offer, channels=9),)))["seed.relative_parameters"] == 0.0


def test_anomalies_count_only_with_a_verdict() -> None:
    assert covered(BARE, HOST)["layer.anomalies"] == 0.0
    assert covered(replace(BARE, training_metrics={"consecutive_anomalies": 0.0}), HOST)["layer.anomalies"] == 1.0


def test_signals_of_one_moment_remember_no_plateau() -> None:
    here = round(covered(BARE, HOST)["layer.signals"] * TENSOR_SCHEMA_SIZE)
    assert round(covered(replace(BARE, global_step=24), HOST)["layer.signals"] * TENSOR_SCHEMA_SIZE) == here + 1
    remembered = replace(BARE, signals=report_from_packet(replace(BARE, global_step=24), HOST, limits=LIMITS).signals)
    assert round(covered(remembered, HOST)["layer.signals"] * TENSOR_SCHEMA_SIZE) == here + 2


def test_a_seed_without_a_place_has_neither_width_nor_position() -> None:
    shares = covered(replace(BARE, seed_states=(replace(SEED, slot_id=None),)), HOST)
    assert shares["seed.channels"] == shares["seed.position"] == shares["seed.monitoring_scope"] == 0.75


def test_nothing_but_coverage_depends_on_it() -> None:
    report = make_report((make_seed(0), None, None))
    packet, host = packet_from_report(report), host_from_report(report)
    untold = untold_in(packet, host, report_from_packet(packet, host, limits=LIMITS))
    assert not any(gaps.any() for family, features in untold.items() for name, gaps in features.items() if name != "anomalies")


def test_a_command_says_how_much_was_told(tmp_path: Path) -> None:
    service = TamiyoService(store(tmp_path / "p"))

    def keys() -> dict[str, float]:
        told: dict[str, float] = json.loads(service.evaluate_step(make_packet(3, 50.0, SEED)).annotations["feature_coverage_keys"])
        return told

    stranger = keys()
    service.register_host("run", HOST)
    described = keys()
    assert (stranger["layer.flops"], described["layer.flops"]) == (0.0, 1.0)
    assert stranger["parameter.learning_rate"] == described["seed.age"] == 0.0
    service.register_host("run", replace(HOST, slots=()))
    assert 0.0 < float(service.evaluate_step(make_packet(4)).annotations["feature_coverage"]) < 1.0
