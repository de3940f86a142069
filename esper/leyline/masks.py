"""Which actions are legal: one pure function that sampling, learning and execution all use."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from esper.leyline.actions import (
    CAUSAL_MASK,
    HEAD_SIZES,
    NUM_BLUEPRINT_PLACES,
    BlendStyle,
    FactoredAction,
    Head,
    LifecycleOp,
)
from esper.leyline.alpha import AlphaMode
from esper.leyline.stages import DEVELOPING_STAGES, VALID_TRANSITIONS, SeedStage

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_PRUNE_AGE_EPOCHS = 5
RETARGETABLE_STAGES = frozenset({SeedStage.BLENDING, SeedStage.HOLDING})
ADVANCEABLE_STAGES = frozenset({SeedStage.GERMINATED, SeedStage.TRAINING, SeedStage.BLENDING})


@dataclass(frozen=True, slots=True)
class SlotView:
    """What legality depends on in one slot."""

    stage: SeedStage
    """DORMANT for an empty slot."""
    age_epochs: int
    """Epochs since germination; 0 for an empty slot."""
    alpha_mode: AlphaMode
    gate_open: bool
    """Does the gate towards the next stage pass? False where there is none."""


@dataclass(frozen=True, slots=True)
class GrowthLimits:
    """What a trial allows, whatever the state of its slots."""

    blueprints: tuple[int, ...]
    """Catalogue places on offer."""
    max_seeds: int
    """Seeds alive at once, fossils included."""
    max_fossils: int
    max_developing: int = 1
    """Seeds in GERMINATED, TRAINING or a failure stage at once."""
    min_prune_age_epochs: int = MIN_PRUNE_AGE_EPOCHS
    ops: tuple[LifecycleOp, ...] = tuple(LifecycleOp)
    styles: tuple[BlendStyle, ...] = tuple(BlendStyle)
    tempos: tuple[int, ...] = (0, 1, 2)
    alpha_targets: tuple[int, ...] = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class ActionMasks:
    """Legal choices of B trials; True is legal. Every head has at least one legal choice."""

    op: np.ndarray
    """[B, 6]"""
    slot: np.ndarray
    """[B, 6, S]: the slots that each operation may name; all of them for an operation that names none."""
    blueprint: np.ndarray
    """[B, 32]"""
    style: np.ndarray
    """[B, 4]"""
    tempo: np.ndarray
    """[B, 3]"""
    alpha_target: np.ndarray
    """[B, 3]"""
    alpha_speed: np.ndarray
    """[B, 4]"""
    alpha_curve: np.ndarray
    """[B, 6]"""

    @staticmethod
    def concatenate(batches: Sequence[ActionMasks]) -> ActionMasks:
        """Join batches of trials with the same number of slots along B."""
        return ActionMasks(*(np.concatenate([getattr(b, f.name) for b in batches]) for f in fields(ActionMasks)))

    def select(self, index: np.ndarray) -> ActionMasks:
        """Take the trials at `index` [B']."""
        return ActionMasks(*(getattr(self, f.name)[index] for f in fields(self)))


def compute_masks(views: Sequence[SlotView], limits: GrowthLimits) -> ActionMasks:
    """Legal choices of one trial (B = 1) with S = len(views) slots."""
    legal_slots = {op: [_is_slot_legal(op, view, views, limits) for view in views] for op in LifecycleOp}
    op_mask = np.zeros((1, len(LifecycleOp)), dtype=bool)
    slot_mask = np.ones((1, len(LifecycleOp), len(views)), dtype=bool)
    for op in LifecycleOp:
        op_mask[0, op] = op is LifecycleOp.WAIT or any(legal_slots[op])
        if op is not LifecycleOp.WAIT and op_mask[0, op]:
            slot_mask[0, op] = legal_slots[op]
    return ActionMasks(
        op=op_mask,
        slot=slot_mask,
        blueprint=_one_of(limits.blueprints, NUM_BLUEPRINT_PLACES),
        style=_one_of(limits.styles, HEAD_SIZES[Head.STYLE]),
        tempo=_one_of(limits.tempos, HEAD_SIZES[Head.TEMPO]),
        alpha_target=_one_of(limits.alpha_targets, HEAD_SIZES[Head.ALPHA_TARGET]),
        alpha_speed=np.ones((1, HEAD_SIZES[Head.ALPHA_SPEED]), dtype=bool),
        alpha_curve=np.ones((1, HEAD_SIZES[Head.ALPHA_CURVE]), dtype=bool),
    )


def explain_illegal(action: FactoredAction, masks: ActionMasks) -> str | None:
    """Say why `action` may not be executed under the masks of one trial (B = 1), or None if it may.

    Only heads that the operation uses are judged.
    """
    if not masks.op[0, action.op]:
        return f"{action.op.name} is not legal now"
    if action.op is LifecycleOp.WAIT:
        return None
    num_slots = masks.slot.shape[2]
    if not 0 <= action.slot < num_slots:
        return f"slot {action.slot} is outside 0…{num_slots - 1}"
    if not masks.slot[0, action.op, action.slot]:
        return f"{action.op.name} is not legal in slot {action.slot}"
    for head in HEAD_SIZES:
        if CAUSAL_MASK[action.op, head] and not getattr(masks, head.name.lower())[0, action[head]]:
            return f"{head.name.lower()} {action[head]} is not on offer"
    return None


def _is_slot_legal(op: LifecycleOp, view: SlotView, views: Sequence[SlotView], limits: GrowthLimits) -> bool:
    if op not in limits.ops:
        return False
    settled = view.alpha_mode is AlphaMode.HOLD
    match op:
        case LifecycleOp.GERMINATE:
            return view.stage is SeedStage.DORMANT and _has_room(views, limits)
        case LifecycleOp.ADVANCE:
            return view.stage in ADVANCEABLE_STAGES and view.gate_open
        case LifecycleOp.FOSSILIZE:
            num_fossils = sum(v.stage is SeedStage.FOSSILIZED for v in views)
            return view.stage is SeedStage.HOLDING and settled and view.gate_open and num_fossils < limits.max_fossils
        case LifecycleOp.PRUNE:
            prunable = SeedStage.PRUNED in VALID_TRANSITIONS[view.stage]
            return prunable and settled and view.age_epochs >= limits.min_prune_age_epochs
        case LifecycleOp.SET_ALPHA_TARGET:
            return view.stage in RETARGETABLE_STAGES and settled
        case _:
            return False


def _has_room(views: Sequence[SlotView], limits: GrowthLimits) -> bool:
    alive = sum(v.stage is not SeedStage.DORMANT for v in views)
    developing = sum(v.stage in DEVELOPING_STAGES for v in views)
    return alive < limits.max_seeds and developing < limits.max_developing and bool(limits.blueprints)


def _one_of(legal: Sequence[int], size: int) -> np.ndarray:
    mask = np.zeros((1, size), dtype=bool)
    mask[0, list(legal) or [0]] = True
    return mask
