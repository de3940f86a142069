"""The factored action: eight heads, what each choice means, and which heads matter to which operation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esper.leyline.alpha import AlphaCurve, BlendOperator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NUM_BLUEPRINT_PLACES = 32
"""Width of the blueprint head; places without a blueprint are masked."""


class LifecycleOp(IntEnum):
    """What is done this epoch, to one slot or to none."""

    WAIT = 0
    GERMINATE = 1
    SET_ALPHA_TARGET = 2
    PRUNE = 3
    FOSSILIZE = 4
    ADVANCE = 5


class BlendStyle(IntEnum):
    """Curve and operator as one choice, so that an unlawful pair cannot be expressed."""

    LINEAR_ADD = 0
    LINEAR_MULTIPLY = 1
    SIGMOID_ADD = 2
    GATED_GATE = 3


STYLE_MEANING: dict[BlendStyle, tuple[AlphaCurve, BlendOperator]] = {
    BlendStyle.LINEAR_ADD: (AlphaCurve.LINEAR, BlendOperator.ADD),
    BlendStyle.LINEAR_MULTIPLY: (AlphaCurve.LINEAR, BlendOperator.MULTIPLY),
    BlendStyle.SIGMOID_ADD: (AlphaCurve.SIGMOID, BlendOperator.ADD),
    BlendStyle.GATED_GATE: (AlphaCurve.LINEAR, BlendOperator.GATE),
}
TEMPO_EPOCHS = (3, 5, 8)
"""Epochs that the first blend of a new seed takes: FAST, STANDARD, SLOW."""
ALPHA_TARGETS = (0.5, 0.7, 1.0)
FULL_ALPHA_TARGET = 2
"""Index of the target 1.0."""
ALPHA_SPEED_EPOCHS = (0, 3, 5, 8)
"""Epochs that a change of alpha takes: INSTANT, FAST, MEDIUM, SLOW."""


class Head(IntEnum):
    """Action heads, in the order of an action row."""

    SLOT = 0
    BLUEPRINT = 1
    STYLE = 2
    TEMPO = 3
    ALPHA_TARGET = 4
    ALPHA_SPEED = 5
    ALPHA_CURVE = 6
    OP = 7


HEAD_NAMES = tuple(head.name.lower() for head in Head)
NUM_HEADS = len(Head)
HEAD_SIZES: Mapping[Head, int] = {
    Head.BLUEPRINT: NUM_BLUEPRINT_PLACES,
    Head.STYLE: len(BlendStyle),
    Head.TEMPO: len(TEMPO_EPOCHS),
    Head.ALPHA_TARGET: len(ALPHA_TARGETS),
    Head.ALPHA_SPEED: len(ALPHA_SPEED_EPOCHS),
    Head.ALPHA_CURVE: len(AlphaCurve),
    Head.OP: len(LifecycleOp),
}
"""Choices in each head; SLOT is absent, because its size is the number of slots."""

_OPS_USING_HEAD: dict[Head, frozenset[LifecycleOp]] = {
    Head.OP: frozenset(LifecycleOp),
    Head.SLOT: frozenset(LifecycleOp) - {LifecycleOp.WAIT},
    Head.BLUEPRINT: frozenset({LifecycleOp.GERMINATE}),
    Head.TEMPO: frozenset({LifecycleOp.GERMINATE}),
    Head.STYLE: frozenset({LifecycleOp.GERMINATE, LifecycleOp.SET_ALPHA_TARGET}),
    Head.ALPHA_TARGET: frozenset({LifecycleOp.GERMINATE, LifecycleOp.SET_ALPHA_TARGET}),
    Head.ALPHA_SPEED: frozenset({LifecycleOp.SET_ALPHA_TARGET, LifecycleOp.PRUNE}),
    Head.ALPHA_CURVE: frozenset({LifecycleOp.SET_ALPHA_TARGET, LifecycleOp.PRUNE}),
}
CAUSAL_MASK = np.array([[op in _OPS_USING_HEAD[head] for head in Head] for op in LifecycleOp])
"""[6, 8] bool: does head `j` change what operation `i` does?"""


class FactoredAction(NamedTuple):
    """One decision for one trial: an index into each head, in the order of `Head`."""

    slot: int = 0
    blueprint: int = 0
    style: BlendStyle = BlendStyle.LINEAR_ADD
    tempo: int = 0
    alpha_target: int = FULL_ALPHA_TARGET
    alpha_speed: int = 0
    alpha_curve: AlphaCurve = AlphaCurve.LINEAR
    op: LifecycleOp = LifecycleOp.WAIT

    @classmethod
    def from_row(cls, row: Sequence[int]) -> FactoredAction:
        """Read an action from eight integers.

        Raises:
            ValueError: If the row does not hold eight indices within their heads.
        """
        if len(row) != NUM_HEADS:
            raise ValueError(f"an action row has {NUM_HEADS} indices ({', '.join(HEAD_NAMES)}), got {len(row)}")
        values = [int(v) for v in row]
        for head, size in HEAD_SIZES.items():
            if not 0 <= values[head] < size:
                raise ValueError(f"{head.name.lower()}={values[head]} is outside 0…{size - 1}")
        slot, blueprint, style, tempo, target, speed, curve, op = values
        return cls(slot, blueprint, BlendStyle(style), tempo, target, speed, AlphaCurve(curve), LifecycleOp(op))


WAIT = FactoredAction()


@dataclass(frozen=True, slots=True)
class FlatAction:
    """Meaning of one member of a flat action enum."""

    op: LifecycleOp
    slot: int | None
    blueprint: int | None


def build_action_enum(blueprints: Mapping[str, int], slots: Sequence[str]) -> type[Enum]:
    """Make a flat Discrete view of the factored action, for value-based learners and scripted policies.

    Args:
        blueprints: Catalogue place of every blueprint on offer, by name.
        slots: Slot ids in their fixed order.

    Returns:
        An `Enum` whose values are `FlatAction`; members are WAIT, then GERMINATE_<blueprint>_<slot>, then each other
        operation per slot. The other heads take the defaults of `FactoredAction`.
    """
    members: dict[str, FlatAction] = {"WAIT": FlatAction(LifecycleOp.WAIT, None, None)}
    for name, place in sorted(blueprints.items(), key=lambda item: item[1]):
        for index, slot in enumerate(slots):
            members[f"GERMINATE_{name}_{slot}".upper()] = FlatAction(LifecycleOp.GERMINATE, index, place)
    for op in (LifecycleOp.ADVANCE, LifecycleOp.FOSSILIZE, LifecycleOp.PRUNE, LifecycleOp.SET_ALPHA_TARGET):
        for index, slot in enumerate(slots):
            members[f"{op.name}_{slot}".upper()] = FlatAction(op, index, None)
    return Enum("FlatActionEnum", members)  # type: ignore[return-value]
