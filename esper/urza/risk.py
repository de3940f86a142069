"""How risky is a blueprint? One rule from what it may do to the host and how much it adds."""

from __future__ import annotations

from esper.leyline.schemas import RiskLevel

LOAD_LIMITS = ((2.0, RiskLevel.YELLOW), (9.0, RiskLevel.ORANGE), (36.0, RiskLevel.RED))
"""Largest load of each level. One 3×3 convolution has a load of 9, two of double width have 36."""


def assess_risk(num_parameters: int, channels: int, *, rescales_only: bool) -> RiskLevel:
    """Classify a blueprint at a width.

    A blueprint that only rescales what the host has computed is GREEN. Any other is classed by its load, the parameters it
    adds divided by those of one dense map of the host's width, C·(C + 1): up to 2 YELLOW, up to 9 ORANGE, up to 36 RED, above
    CRITICAL. On a narrow host the same blueprint weighs more, because its hidden widths have a floor.

    Args:
        num_parameters: Parameters of the blueprint at this width.
        channels: C of the host at the slot.
        rescales_only: Whether the blueprint multiplies or normalises the host's values and mixes nothing new into them.
    """
    if rescales_only:
        return RiskLevel.GREEN
    load = num_parameters / (channels * (channels + 1))
    return next((level for limit, level in LOAD_LIMITS if load <= limit), RiskLevel.CRITICAL)
