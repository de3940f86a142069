"""Packets made of something else than their contract names: None is empty, the rest a `PacketError` that names the field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from esper.leyline.packets import LayerState, PacketError, SeedState, SlotState, SystemStatePacket
from esper.leyline.signals import FastTrainingSignals
from esper.leyline.stages import SeedStage
from esper.leyline.traits import OptimizerState, SeedTraits
from esper.tamiyo.packet_adapter import report_from_packet
from esper.tamiyo.packet_check import check_packet
from tests.tamiyo.reports import LIMITS
from tests.tamiyo.service.packets import HOST, make_packet

SEED = SeedState("s", SeedStage.TRAINING, slot_id="r0c0")
SEED_FIELDS = {name: getattr(SEED, name) for name in SeedState.__dataclass_fields__}


def packet(**changes: Any) -> SystemStatePacket:
    return replace(make_packet(), **changes)


def seed(**changes: Any) -> SystemStatePacket:
    return packet(seed_states=(SeedState(**(SEED_FIELDS | changes)),))


@pytest.mark.parametrize("name", ["training_metrics", "seed_states", "layer_states", "slot_states"])
def test_none_is_empty(name: str) -> None:
    empty: Any = () if name.endswith("states") else {}
    assert getattr(check_packet(packet(**{name: None})), name) == empty
    told = report_from_packet(packet(**{name: None}), HOST, limits=LIMITS)
    assert replace(told, masks=None) == replace(report_from_packet(packet(**{name: empty}), HOST, limits=LIMITS), masks=None)  # type: ignore[arg-type]


def test_a_seed_may_leave_maps_and_lists_out() -> None:
    (read,) = check_packet(seed(metrics=None, monitored_layers=None)).seed_states
    assert (read.metrics, read.monitored_layers) == ({}, ())
    report_from_packet(seed(metrics=None, monitored_layers=None, traits=SeedTraits()), HOST, limits=LIMITS)


def test_lists_are_as_good_as_tuples() -> None:
    read = check_packet(packet(seed_states=[SEED], layer_states=[LayerState("segment0")], slot_states=[SlotState("r0c0")]))
    assert (read.seed_states, read.layer_states, read.slot_states) == ((SEED,), (LayerState("segment0"),), (SlotState("r0c0"),))


SIGNALS = FastTrainingSignals()
ODD: list[tuple[SystemStatePacket, str]] = [
    (packet(packet_id=None), "packet_id=None should be text"),
    (packet(training_run_id=5), "training_run_id=5 should be text"),
    (packet(training_metrics=[("loss", 1.0)]), "training_metrics=.* should be a map"),
    (packet(seed_states=({"seed_id": "a"},)), r"seed_states\[0\]=.* SeedState, not dict"),
    (packet(seed_states=SEED), "seed_states=.* should be a tuple of SeedState"),
    (packet(layer_states=(SlotState("r0c0"),)), r"layer_states\[0\]=.* LayerState"),
    (packet(layer_states=(LayerState(None),)), "layer_id=None should be text"),  # type: ignore[arg-type]
    (packet(slot_states="r0c0"), "slot_states='r0c0' should be a tuple of SlotState"),
    (packet(slot_states=(SlotState(["a"]),)), "slot_id=.* should be text"),  # type: ignore[arg-type]
    (packet(optimizer="adam"), "optimizer='adam' should be of class OptimizerState"),
    (packet(optimizer=OptimizerState(family=["adam"])), "optimizer.family=.* should be text"),  # type: ignore[arg-type]
    (packet(optimizer=OptimizerState(momentum="big")), "optimizer.momentum='big'"),  # type: ignore[arg-type]
    (packet(signals=[1.0] * 27), "signals=.* should be of class FastTrainingSignals"),
    (packet(signals=SIGNALS._replace(loss_history=5)), "loss_history=5 should be a tuple"),  # type: ignore[arg-type]
    (packet(signals=SIGNALS._replace(loss_history=(1.0,))), "loss_history=.* should hold 5"),  # type: ignore[arg-type]
    (packet(signals=SIGNALS._replace(val_loss="low")), "signals.val_loss='low' should be a number"),  # type: ignore[arg-type]
    (packet(signals=SIGNALS._replace(val_loss=10**400)), "signals.val_loss should be a number within"),
    (packet(signals=SIGNALS._replace(has_active_seed=2)), "has_active_seed=2 should be True or False"),  # type: ignore[arg-type]
    (seed(seed_id=None), "seed_id=None should be text"),
    (seed(blueprint_id=7), "blueprint_id=7 should be text"),
    (seed(blueprint_id="\ud800"), "blueprint_id=.*UTF-8"),
    (seed(blueprint_id=["x"]), "blueprint_id=.* should be text"),
    (seed(stage=[1]), r"stage \[1\] should be a stage"),
    (seed(stage=True), "stage True should be a stage"),
    (seed(metrics=3), "metrics=3 should be a map"),
    (seed(monitored_layers="segment0"), "monitored_layers='segment0' should be a tuple"),
    (seed(monitored_layers=(["segment0"],)), r"monitored_layers\[0\]"),
    (seed(is_gate_open="no"), "is_gate_open='no' should be True or False"),
    (seed(epochs_in_stage=""), "epochs_in_stage=''"),
    (seed(tempo_epochs=[]), r"tempo_epochs=\[\]"),
    (seed(traits={"risk_score": 1.0}), "traits=.* SeedTraits, not dict"),
    (seed(traits=SeedTraits(allowed_blending_methods=5)), "allowed_blending_methods=5 should be a tuple"),  # type: ignore[arg-type]
    (seed(traits=SeedTraits(specialization=["x"])), "specialization=.* should be text"),  # type: ignore[arg-type]
    (seed(traits=SeedTraits(policy_version=5)), "policy_version=5 should be text"),  # type: ignore[arg-type]
    (seed(traits=SeedTraits(quarantine_only=[1])), "quarantine_only=.* True or False"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("odd", "complaint"), ODD, ids=[complaint for _, complaint in ODD])
def test_what_is_of_another_kind_is_named(odd: SystemStatePacket, complaint: str) -> None:
    for host in (HOST, None):
        with pytest.raises(PacketError, match=complaint):
            report_from_packet(odd, host, limits=LIMITS)


@pytest.mark.parametrize("nothing", [None, {}, "packet", 3])
def test_what_is_no_packet_is_refused(nothing: Any) -> None:
    with pytest.raises(PacketError, match="SystemStatePacket"):
        report_from_packet(nothing, HOST, limits=LIMITS)


def test_numpy_scalars_are_numbers() -> None:
    def told(real: Any, count: Any) -> SystemStatePacket:
        state = SeedState(
            "s", count(3), slot_id="r0c0", gradient_norm=real(0.5), metrics={"contribution": real(1.5)}, age_epochs=count(4),
            alpha=real(0.25), blueprint_place=count(2), num_parameters=count(7), alpha_mode=count(0),
        )  # fmt: skip
        return replace(
            make_packet(),
            current_epoch=count(3),
            validation_accuracy=real(50.0),
            training_metrics={"loss": real(1.5), "seed_params": count(7)},
            seed_states=(state,),
            global_step=count(8),
            max_epochs=count(12),
            layer_states=(LayerState("segment0", weight_norm=real(2.0)),),
            signals=SIGNALS._replace(epoch=count(3), val_loss=real(1.25), loss_history=(None, None, None, None, real(1.25))),
            optimizer=OptimizerState("adam", real(0.5)),
            packet_id="p",
            timestamp_ns=0,
        )

    plain = report_from_packet(told(float, int), HOST, limits=LIMITS)
    for real, count in ((np.float32, np.int64), (np.float64, np.int32), (np.float16, np.uint8)):
        report = report_from_packet(told(real, count), HOST, limits=LIMITS)
        assert replace(report, masks=plain.masks) == plain
    assert report_from_packet(seed(is_gate_open=np.True_), HOST, limits=LIMITS).slots[0].seed is not None
