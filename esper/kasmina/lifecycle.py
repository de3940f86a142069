"""The state machine of seeds: (slots, action) → (slots, transitions), and the same for the end of an epoch.

Pure. Legality is judged by the very masks that the policy sampled under, and every step follows `VALID_TRANSITIONS`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from esper.kasmina.alpha_control import AlphaController
from esper.kasmina.config import GrowthConfig
from esper.kasmina.gates import GATE_OF_STAGE, evaluate_gate
from esper.kasmina.seed_state import FirstBlend, SeedState, SlotStates, slot_views
from esper.leyline.actions import ALPHA_SPEED_EPOCHS, ALPHA_TARGETS, STYLE_MEANING, TEMPO_EPOCHS, BlendStyle, FactoredAction, LifecycleOp
from esper.leyline.alpha import AlphaCurve, AlphaMode
from esper.leyline.host import HostFamily, InjectionSpec
from esper.leyline.masks import ADVANCEABLE_STAGES, ActionMasks, GrowthLimits, compute_masks, explain_illegal
from esper.leyline.ports import Catalogue
from esper.leyline.reports import SeedMetrics, StageTransition
from esper.leyline.stages import SeedStage, is_valid_transition

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper.leyline.schemas import GateResult

PRUNED_EPOCHS = 1
"""Dwell in PRUNED, so that the prune is seen for one epoch before the embargo begins."""


class IllegalActionError(ValueError):
    """An action that the masks forbid; nothing was changed."""

    def __init__(self, action: FactoredAction, reason: str) -> None:
        super().__init__(action, reason)
        self.action = action
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.action.op.name} in slot {self.action.slot} was refused: {self.reason}"


@dataclass(frozen=True, slots=True)
class LifecycleContext:
    """What the state machine needs to know beside the slots."""

    config: GrowthConfig
    limits: GrowthLimits
    catalogue: Catalogue
    family: HostFamily
    specs: tuple[InjectionSpec, ...]
    epoch: int
    """Epochs finished; with the slot it names a new seed."""
    val_accuracy: float
    """The latest, in percent."""


@dataclass(slots=True)
class _Log:
    """Slots under change, and the steps taken so far."""

    slots: list[SeedState | None]
    transitions: list[StageTransition] = field(default_factory=list)

    def move(self, seed: SeedState, stage: SeedStage, initiator: str, *, reason: str, gate: GateResult | None = None) -> SeedState:
        if not is_valid_transition(seed.stage, stage):
            raise RuntimeError(f"{seed.seed_id}: {seed.stage.name} cannot be followed by {stage.name}")
        moved = seed.entering(stage)
        self.slots[seed.slot_index] = None if stage is SeedStage.DORMANT else moved
        self.transitions.append(
            StageTransition(
                slot_id=seed.slot_id,
                slot_index=seed.slot_index,
                seed_id=seed.seed_id,
                blueprint_id=seed.blueprint_id,
                from_stage=seed.stage,
                to_stage=stage,
                initiator=initiator,
                reason=reason,
                seed=moved.report(),
                gate=gate,
            )
        )
        return moved

    def done(self) -> tuple[SlotStates, tuple[StageTransition, ...]]:
        return tuple(self.slots), tuple(self.transitions)


def legal_actions(slots: SlotStates, context: LifecycleContext) -> ActionMasks:
    """Masks of one trial (B = 1)."""
    return compute_masks(slot_views(slots, context.config), context.limits)


def apply_action(slots: SlotStates, action: FactoredAction, context: LifecycleContext) -> tuple[SlotStates, tuple[StageTransition, ...]]:
    """Execute one decision.

    Raises:
        IllegalActionError: If the masks forbid it.
    """
    reason = explain_illegal(action, legal_actions(slots, context))
    if reason is not None:
        raise IllegalActionError(action, reason)
    log = _Log(list(slots))
    if action.op is LifecycleOp.GERMINATE:
        _germinate(log, action, context)
        return log.done()
    seed = None if action.op is LifecycleOp.WAIT else slots[action.slot]
    if seed is not None:
        match action.op:
            case LifecycleOp.ADVANCE | LifecycleOp.FOSSILIZE:
                _advance(log, seed, context.config, initiator="policy")
            case LifecycleOp.PRUNE:
                _prune(log, seed, action)
            case LifecycleOp.SET_ALPHA_TARGET:
                _retarget(log, seed, action)
    return log.done()


def prune_all(slots: SlotStates, initiator: str) -> tuple[SlotStates, tuple[StageTransition, ...]]:
    """Give up every seed that is not permanent, at once."""
    log = _Log(list(slots))
    for seed in slots:
        if seed is not None and is_valid_transition(seed.stage, SeedStage.PRUNED):
            _give_up(log, seed, initiator, reason="all seeds were pruned")
    return log.done()


def tick(
    slots: SlotStates, context: LifecycleContext, *, contributions: Mapping[int, float], solo: Mapping[int, float]
) -> tuple[SlotStates, tuple[StageTransition, ...]]:
    """End an epoch: metrics, clocks, alpha, then gates and rests.

    Args:
        slots: Seeds during the epoch.
        context: With the accuracy validated at the end of the epoch.
        contributions: Leave-one-out contribution by slot, in points; a slot that is absent was not measured.
        solo: Accuracy with that seed alone minus accuracy with none, in points.
    """
    log = _Log(list(slots))
    for index, seed in enumerate(slots):
        if seed is None:
            continue
        aged = replace(
            seed,
            epochs_in_stage=seed.epochs_in_stage + 1,
            age_epochs=seed.age_epochs + 1,
            controller=seed.controller.tick(),
            metrics=_measured(seed, context.val_accuracy, contribution=contributions.get(index), solo=solo.get(index)),
        )
        log.slots[index] = aged
        if aged.withering_for is not None and aged.controller.mode is AlphaMode.HOLD:
            _give_up(log, aged, aged.withering_for, reason="blended out")
        elif aged.has_module:
            _advance_by_itself(log, aged, context.config)
        else:
            _rest(log, aged, context.config)
    return log.done()


def _germinate(log: _Log, action: FactoredAction, context: LifecycleContext) -> None:
    spec = context.specs[action.slot]
    name = context.catalogue.name(action.blueprint)
    blueprint = context.catalogue.spec(name, context.family, spec.channels, spec.positions)
    curve, operator = STYLE_MEANING[BlendStyle(action.style)]
    accuracy = context.val_accuracy
    dormant = SeedState(
        seed_id=f"{spec.slot_id}@{context.epoch}",
        slot_id=spec.slot_id,
        slot_index=action.slot,
        blueprint_id=name,
        blueprint_place=action.blueprint,
        num_parameters=blueprint.num_parameters,
        stage=SeedStage.DORMANT,
        operator=operator,
        first_blend=FirstBlend(ALPHA_TARGETS[action.alpha_target], curve, TEMPO_EPOCHS[action.tempo]),
        metrics=SeedMetrics(
            accuracy_at_germination=accuracy,
            accuracy_at_stage_start=accuracy,
            current_val_accuracy=accuracy,
            best_val_accuracy=accuracy,
        ),
    )
    germinated = log.move(dormant, SeedStage.GERMINATED, "policy", reason="germinated")
    _advance_by_itself(log, germinated, context.config)


def _advance(log: _Log, seed: SeedState, config: GrowthConfig, *, initiator: str) -> bool:
    """Take the step behind the seed's gate, if the gate passes."""
    gate = GATE_OF_STAGE[seed.stage]
    result = evaluate_gate(gate, seed.report(), config)
    if not result.passed:
        return False
    if result.target_stage is SeedStage.BLENDING:
        blend = seed.first_blend
        controller = seed.controller.retarget(blend.target, curve=blend.curve, steps=blend.tempo_epochs)
        seed = replace(seed, controller=controller)
    log.move(seed, result.target_stage, initiator, reason=f"passed {gate.name}", gate=result)
    return True


def _advance_by_itself(log: _Log, seed: SeedState, config: GrowthConfig) -> None:
    if config.auto_advance and seed.withering_for is None and seed.stage in ADVANCEABLE_STAGES:
        _advance(log, seed, config, initiator="auto")


def _prune(log: _Log, seed: SeedState, action: FactoredAction) -> None:
    steps = ALPHA_SPEED_EPOCHS[action.alpha_speed]
    if steps == 0 or not seed.is_live:
        _give_up(log, seed, "policy", reason="pruned")
        return
    controller = seed.controller.retarget(0.0, curve=AlphaCurve(action.alpha_curve), steps=steps)
    seed = replace(seed, controller=controller, withering_for="policy")
    log.slots[seed.slot_index] = seed
    if seed.stage is SeedStage.HOLDING:
        log.move(seed, SeedStage.BLENDING, "policy", reason="blending out")


def _retarget(log: _Log, seed: SeedState, action: FactoredAction) -> None:
    target, steps = ALPHA_TARGETS[action.alpha_target], ALPHA_SPEED_EPOCHS[action.alpha_speed]
    lowered = target < seed.controller.alpha
    controller = seed.controller.retarget(target, curve=AlphaCurve(action.alpha_curve), steps=steps)
    _, operator = STYLE_MEANING[BlendStyle(action.style)]
    seed = replace(seed, controller=controller, operator=operator)
    log.slots[seed.slot_index] = seed
    if lowered and seed.stage is SeedStage.HOLDING:
        log.move(seed, SeedStage.BLENDING, "policy", reason=f"alpha target lowered to {target}")


def _give_up(log: _Log, seed: SeedState, initiator: str, *, reason: str) -> None:
    log.move(replace(seed, controller=AlphaController(), withering_for=None), SeedStage.PRUNED, initiator, reason=reason)


def _rest(log: _Log, seed: SeedState, config: GrowthConfig) -> None:
    """Lead a pruned seed's slot through its rest; a dwell of 0 epochs is passed at once."""
    dwell = {
        SeedStage.PRUNED: (PRUNED_EPOCHS, SeedStage.EMBARGOED),
        SeedStage.EMBARGOED: (config.embargo_epochs, SeedStage.RESETTING),
        SeedStage.RESETTING: (config.resetting_epochs, SeedStage.DORMANT),
    }
    while seed.stage in dwell and seed.epochs_in_stage >= dwell[seed.stage][0]:
        seed = log.move(seed, dwell[seed.stage][1], "auto", reason="rested")


def _measured(seed: SeedState, val_accuracy: float, *, contribution: float | None, solo: float | None) -> SeedMetrics:
    if not seed.has_module:
        return seed.metrics
    return replace(
        seed.metrics,
        current_val_accuracy=val_accuracy,
        best_val_accuracy=max(seed.metrics.best_val_accuracy, val_accuracy),
        contribution=contribution,
        solo_contribution=solo,
    )
