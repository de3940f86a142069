"""The packet that a policy service receives."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from esper.leyline.packets import HardwareContext, SeedState, SystemStatePacket
from esper.leyline.stages import SeedStage


def test_a_minimal_packet_knows_nothing_it_was_not_told() -> None:
    packet = SystemStatePacket(current_epoch=3, validation_accuracy=0.0, validation_loss=2.3)
    assert packet.seed_states == ()
    assert packet.training_metrics == {}
    assert (packet.hardware_context, packet.global_step, packet.training_loss) == (None, None, None)
    assert packet.timestamp_ns > 0


def test_every_packet_has_its_own_id_and_metrics() -> None:
    a, b = (SystemStatePacket(current_epoch=3, validation_accuracy=0.0, validation_loss=2.3) for _ in range(2))
    assert a.packet_id != b.packet_id
    assert a.training_metrics is not b.training_metrics


def test_a_full_packet_travels_and_is_frozen() -> None:
    seed = SeedState("s1", SeedStage.TRAINING, gradient_norm=0.0, layer_depth=2, metrics={"alpha": 0.0}, risk_score=0.2)
    packet = SystemStatePacket(
        current_epoch=3,
        validation_accuracy=55.0,
        validation_loss=1.2,
        hardware_context=HardwareContext("cuda", "cuda:0", total_memory_gb=80.0),
        training_metrics={"loss": 1.4},
        seed_states=(seed,),
        training_run_id="run",
    )
    assert pickle.loads(pickle.dumps(packet)) == packet
    with pytest.raises(dataclasses.FrozenInstanceError):
        packet.current_epoch = 4  # type: ignore[misc]
