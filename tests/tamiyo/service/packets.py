"""A host and what its training system says about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.leyline.actions import LifecycleOp
from esper.leyline.packets import HostDescription, SeedState, SlotDescription, SystemStatePacket
from esper.leyline.stages import SeedStage
from tests.tamiyo.reports import make_layer

if TYPE_CHECKING:
    from esper.leyline.schemas import AdaptationCommand

NUM_LAYERS, NUM_SLOTS, MAX_EPOCHS = 4, 3, 12
HOST = HostDescription(
    layers=tuple(make_layer(index).spec for index in range(NUM_LAYERS)),
    slots=tuple(SlotDescription(f"r0c{index}", index, 8 * (index + 1), 64) for index in range(NUM_SLOTS)),
    max_epochs=MAX_EPOCHS,
)


def make_packet(epoch: int = 3, accuracy: float = 50.0, *seeds: SeedState, run: str | None = "run", loss: float = 1.2) -> SystemStatePacket:
    return SystemStatePacket(
        current_epoch=epoch,
        validation_accuracy=accuracy,
        validation_loss=loss,
        training_metrics={"loss": 1.1, "gradient_norm": 0.7, "samples_per_s": 4000.0},
        seed_states=seeds,
        training_run_id=run,
    )


class ObedientHost:
    """Carries out what it is told, without training anything: seeds move through their stages at once."""

    def __init__(self) -> None:
        self.epoch = 0
        self.seeds: dict[str, SeedState] = {}

    def packet(self) -> SystemStatePacket:
        return make_packet(self.epoch, 50.0 + self.epoch, *self.seeds.values())

    def obey(self, command: AdaptationCommand) -> None:
        operation, slot = command.seed_operation, command.target_slot_id
        assert operation is not None
        op = LifecycleOp[operation.operation]
        after = {LifecycleOp.GERMINATE: SeedStage.GERMINATED, LifecycleOp.FOSSILIZE: SeedStage.FOSSILIZED}
        if op is LifecycleOp.PRUNE and slot is not None:
            del self.seeds[slot]
        elif op is LifecycleOp.ADVANCE and slot is not None:
            self._put(slot, SeedStage(self.seeds[slot].stage + 1 + (self.seeds[slot].stage is SeedStage.BLENDING)))
        elif op in after and slot is not None:
            self._put(slot, after[op], operation.blueprint_id)
        self.epoch += 1

    def _put(self, slot: str, stage: SeedStage, blueprint: str | None = None) -> None:
        before = self.seeds.get(slot)
        self.seeds[slot] = SeedState(
            seed_id=f"{slot}-{self.epoch}" if before is None else before.seed_id,
            stage=stage,
            slot_id=slot,
            blueprint_id=blueprint or (None if before is None else before.blueprint_id),
            age_epochs=0 if before is None else (before.age_epochs or 0) + 1,
            alpha=1.0 if stage in (SeedStage.HOLDING, SeedStage.FOSSILIZED) else 0.0,
            alpha_target=1.0,
            is_gate_open=True,
        )
