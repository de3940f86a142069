"""Decisions as commands and back: what the eight heads chose, in words and numbers that an executor can act on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.leyline.actions import (
    ALPHA_SPEED_EPOCHS,
    ALPHA_TARGETS,
    CAUSAL_MASK,
    STYLE_MEANING,
    TEMPO_EPOCHS,
    WAIT,
    BlendStyle,
    FactoredAction,
    Head,
    LifecycleOp,
)
from esper.leyline.alpha import METHOD_OF_CURVE, SIGMOID_STEEPNESS, AlphaCurve
from esper.leyline.schemas import SeedOperation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from esper.leyline.schemas import AdaptationCommand


def seed_operation(action: FactoredAction, blueprint_name: Callable[[int], str]) -> SeedOperation:
    """Tell what `action` orders; heads that do not matter to its operation are left out.

    Parameters by operation:
        GERMINATE: `blending_method`, `style`, `operator`, `tempo_epochs` of the first blend, `alpha_target`.
        SET_ALPHA_TARGET: `blending_method`, `alpha_curve`, `style`, `operator`, `schedule_epochs`, `alpha_target`.
        PRUNE: `blending_method`, `alpha_curve`, `schedule_epochs` of the way down; 0 is at once.
        ADVANCE, FOSSILIZE, WAIT: none.

    `sigmoid_steepness` stands beside a `blending_method` of sigmoid.
    """
    uses = CAUSAL_MASK[action.op]
    parameters: dict[str, float | int | str] = {}
    if uses[Head.STYLE]:
        parameters["style"] = action.style.name
        parameters["operator"] = STYLE_MEANING[action.style][1].name
    if uses[Head.TEMPO]:
        parameters["tempo_epochs"] = TEMPO_EPOCHS[action.tempo]
    if uses[Head.ALPHA_TARGET]:
        parameters["alpha_target"] = ALPHA_TARGETS[action.alpha_target]
    if uses[Head.ALPHA_SPEED]:
        parameters["schedule_epochs"] = ALPHA_SPEED_EPOCHS[action.alpha_speed]
    curve = _curve_of(action)
    if curve is not None:
        parameters["blending_method"] = METHOD_OF_CURVE[curve]
        if uses[Head.ALPHA_CURVE]:
            parameters["alpha_curve"] = curve.name
        if curve in SIGMOID_STEEPNESS:
            parameters["sigmoid_steepness"] = SIGMOID_STEEPNESS[curve]
    blueprint = blueprint_name(action.blueprint) if uses[Head.BLUEPRINT] else None
    return SeedOperation(action.op.name, blueprint, parameters)


def action_of(command: AdaptationCommand, *, slot_ids: Sequence[str], places: Mapping[str, int]) -> FactoredAction:
    """Read a seed command back, so that a trial can execute it.

    Args:
        command: One that `seed_operation` described.
        slot_ids: Slots in the order of the slot head.
        places: Catalogue place of each blueprint on offer, by name.

    Raises:
        ValueError: If the command is about no seed operation, or names an operation, slot, blueprint or value that is not known.
    """
    operation = command.seed_operation
    if operation is None or operation.operation not in LifecycleOp.__members__:
        raise ValueError(f"command {command.command_id} orders no seed operation: {operation}")
    op = LifecycleOp[operation.operation]
    uses, given = CAUSAL_MASK[op], operation.parameters

    def read(name: str, known: Sequence[object]) -> int:
        if given.get(name) not in known:
            raise ValueError(f"command {command.command_id}: {name}={given.get(name)!r} is not one of {', '.join(map(str, known))}")
        return known.index(given[name])

    def named(what: str, name: str | None, known: Sequence[str]) -> str:
        if name is None or name not in known:
            raise ValueError(f"command {command.command_id}: {what} {name!r} is not one of {', '.join(known)}")
        return name

    return WAIT._replace(
        op=op,
        slot=slot_ids.index(named("slot", command.target_slot_id, slot_ids)) if uses[Head.SLOT] else WAIT.slot,
        blueprint=places[named("blueprint", operation.blueprint_id, tuple(places))] if uses[Head.BLUEPRINT] else WAIT.blueprint,
        style=BlendStyle(read("style", [s.name for s in BlendStyle])) if uses[Head.STYLE] else WAIT.style,
        tempo=read("tempo_epochs", TEMPO_EPOCHS) if uses[Head.TEMPO] else WAIT.tempo,
        alpha_target=read("alpha_target", ALPHA_TARGETS) if uses[Head.ALPHA_TARGET] else WAIT.alpha_target,
        alpha_speed=read("schedule_epochs", ALPHA_SPEED_EPOCHS) if uses[Head.ALPHA_SPEED] else WAIT.alpha_speed,
        alpha_curve=AlphaCurve(read("alpha_curve", [c.name for c in AlphaCurve])) if uses[Head.ALPHA_CURVE] else WAIT.alpha_curve,
    )


def _curve_of(action: FactoredAction) -> AlphaCurve | None:
    """Curve that alpha is to follow: the curve head's where it matters, else the style's; None if alpha is not to move."""
    uses = CAUSAL_MASK[action.op]
    if uses[Head.ALPHA_CURVE]:
        return action.alpha_curve
    return STYLE_MEANING[action.style][0] if uses[Head.STYLE] else None
