"""Follows the seeds of one training run from germination to their end."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from esper.leyline.reports import SeedLife, SeedStateReport
from esper.leyline.stages import SeedStage, is_failure_stage, is_terminal_stage

if TYPE_CHECKING:
    from esper.leyline.reports import TrialReport


@dataclass(frozen=True, slots=True)
class EndedLife:
    """A seed that has come to its end, or was lost from sight, and where it lived."""

    seed_id: str
    slot_id: str
    blueprint_id: str
    policy_version: str
    """Policy that germinated it; empty where nobody saw that."""
    life: SeedLife

    @property
    def is_undecided(self) -> bool:
        """Whether its run ended first: it was neither kept nor given up."""
        return not (is_terminal_stage(self.life.final_stage) or is_failure_stage(self.life.final_stage))


@dataclass(slots=True)
class _Youth:
    seed: SeedStateReport
    policy_version: str
    germinated_epoch: int
    accuracy_at_germination: float
    best_accuracy: float
    epochs_per_stage: dict[SeedStage, int] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)


class SeedLives:
    """One run's seeds.

        for ended in lives.observe(report): ...
        for left in lives.close(last_report, "the run ended"): ...

    A seed's life is told once, until the seed has left its slot.
    """

    def __init__(self) -> None:
        self._young: dict[str, _Youth] = {}
        self._told: set[str] = set()
        self._planters: dict[str, tuple[str, str]] = {}
        self._epoch = -1

    def germination_ordered(self, slot_id: str, policy_version: str, command_id: str) -> None:
        """Remember who ordered the seed that appears next in a slot."""
        self._planters[slot_id] = (policy_version, command_id)

    def command_given(self, slot_id: str, command_id: str) -> None:
        """Remember a command to the seed in a slot."""
        for youth in self._young.values():
            if youth.seed.slot_id == slot_id:
                youth.commands.append(command_id)

    def order_failed(self, command_id: str) -> None:
        """Credit no seed that appears from now on to a germination that came to nothing."""
        self._planters = {slot_id: planter for slot_id, planter in self._planters.items() if planter[1] != command_id}

    def command_withdrawn(self, command_id: str) -> None:
        """Forget a command in whose place another one was given."""
        self.order_failed(command_id)
        for youth in self._young.values():
            youth.commands = [command for command in youth.commands if command != command_id]

    def observe(self, report: TrialReport) -> list[EndedLife]:
        """Take a report into account; returns the lives that it ends. An epoch that is told again is not counted again."""
        is_new, self._epoch = report.epoch > self._epoch, report.epoch
        present = {slot.seed.seed_id: slot.seed for slot in report.slots if slot.seed is not None}
        ended = [self._end(seed_id, report, None) for seed_id in list(self._young) if seed_id not in present]
        for seed_id, seed in present.items():
            if seed_id in self._told:
                continue
            is_first = seed_id not in self._young
            youth = self._young.setdefault(seed_id, self._meet(seed, report))
            youth.seed = seed
            youth.best_accuracy = max(youth.best_accuracy, report.val_accuracy)
            if is_new or is_first:
                youth.epochs_per_stage[seed.stage] = youth.epochs_per_stage.get(seed.stage, 0) + 1
            if is_terminal_stage(seed.stage) or is_failure_stage(seed.stage):
                ended.append(self._end(seed_id, report, seed.stage))
        self._told &= present.keys()
        return ended

    def close(self, report: TrialReport, why: str) -> list[EndedLife]:
        """Tell the lives that nobody will see the end of; `report` is the last one that was observed."""
        left = []
        for seed_id, youth in list(self._young.items()):
            del self._young[seed_id]
            self._told.add(seed_id)
            left.append(_ended(youth, report, youth.seed.stage, f"{why} in {youth.seed.stage.name}"))
        return left

    def _meet(self, seed: SeedStateReport, report: TrialReport) -> _Youth:
        if seed.seed_id in self._young:
            return self._young[seed.seed_id]
        version, command = self._planters.pop(seed.slot_id, ("", ""))
        return _Youth(
            seed=seed,
            policy_version=version,
            germinated_epoch=report.epoch - seed.age_epochs,
            accuracy_at_germination=_known(seed.metrics.accuracy_at_germination, report.val_accuracy),
            best_accuracy=_known(seed.metrics.best_val_accuracy, report.val_accuracy),
            commands=[command] if command else [],
        )

    def _end(self, seed_id: str, report: TrialReport, stage: SeedStage | None) -> EndedLife:
        """Close a life; without a stage the seed has vanished between two reports, which only a prune explains."""
        youth = self._young.pop(seed_id)
        if stage is None:
            return _ended(youth, report, SeedStage.PRUNED, f"vanished in {youth.seed.stage.name}")
        self._told.add(seed_id)
        return _ended(youth, report, stage, "") if is_terminal_stage(stage) else _ended(youth, report, SeedStage.PRUNED, "pruned")


def _ended(youth: _Youth, report: TrialReport, final: SeedStage, failure: str) -> EndedLife:
    life = SeedLife(
        final_stage=final,
        success=not failure,
        germinated_epoch=youth.germinated_epoch,
        completed_epoch=report.epoch,
        epochs_per_stage=youth.epochs_per_stage,
        accuracy_at_germination=youth.accuracy_at_germination,
        accuracy_at_completion=report.val_accuracy,
        best_accuracy=youth.best_accuracy,
        commands_received=tuple(youth.commands),
        failure_reason=failure or None,
    )
    return EndedLife(youth.seed.seed_id, youth.seed.slot_id, youth.seed.blueprint_id, youth.policy_version, life)


def _known(accuracy: float, now: float) -> float:
    """What the training system remembers, or the accuracy at which the seed was first seen."""
    return accuracy if math.isfinite(accuracy) else now
