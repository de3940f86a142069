"""What scripted policies ask of the masks: where an operation is legal, and the first action that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esper.leyline.actions import WAIT, BlendStyle, FactoredAction, LifecycleOp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from esper.leyline.reports import SlotReport, TrialReport


def legal_slots(report: TrialReport, op: LifecycleOp) -> list[int]:
    """Slots in which `op` is legal now, in slot order."""
    if not report.masks.op[0, op]:
        return []
    slots: list[int] = np.flatnonzero(report.masks.slot[0, op]).tolist()
    return slots


def act_in(slot: int, op: LifecycleOp) -> FactoredAction:
    """`op` in `slot`, all else by default."""
    return WAIT._replace(op=op, slot=slot)


def germinate(report: TrialReport, slot: int, blueprint: int) -> FactoredAction:
    """Germinate with the first style and tempo on offer, at full alpha."""
    style, tempo = (int(np.argmax(mask[0])) for mask in (report.masks.style, report.masks.tempo))
    return act_in(slot, LifecycleOp.GERMINATE)._replace(blueprint=blueprint, style=BlendStyle(style), tempo=tempo)


def blueprints_on_offer(report: TrialReport, wanted: Sequence[int]) -> list[int]:
    """The places among `wanted` that are on offer, in that order; all on offer if `wanted` is empty."""
    offered = np.flatnonzero(report.masks.blueprint[0]).tolist()
    chosen = [place for place in wanted if place in offered]
    return chosen or ([] if wanted else offered)


def advance_or_wait(report: TrialReport) -> FactoredAction:
    """Move the first seed that may move on to its next stage; wait where none may."""
    slots = legal_slots(report, LifecycleOp.ADVANCE)
    return act_in(slots[0], LifecycleOp.ADVANCE) if slots else WAIT


def largest(slots: Iterable[int], report: TrialReport, measure: Callable[[SlotReport], float | None]) -> int | None:
    """The slot whose measure is largest, the first of equals; None where none was measured."""
    measured = [(slot, measure(report.slots[slot])) for slot in slots]
    known = [(value, -slot) for slot, value in measured if value is not None and np.isfinite(value)]
    return -max(known)[1] if known else None
