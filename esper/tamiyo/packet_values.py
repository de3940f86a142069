"""Numbers as packets bring them: checked, and None where nothing was measured."""

from __future__ import annotations

import math
from numbers import Real

from esper.leyline.packets import PacketError


def number(key: str, value: object) -> float | None:
    """A measurement; None where it is missing or not finite.

    Raises:
        PacketError: If it is no number.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise PacketError(f"{key}={value!r} should be a number")
    try:
        read = float(value)
    except OverflowError:
        return None
    return read if math.isfinite(read) else None


def ranged(key: str, value: object, largest: float) -> float | None:
    """A measurement from 0 to `largest`; None where it is missing or not finite.

    Raises:
        PacketError: If it is no number, or outside.
    """
    read = number(key, value)
    if read is not None and not 0.0 <= read <= largest:
        raise PacketError(f"{key}={value!r} should be within 0…{largest:g}")
    return read


def fraction(key: str, value: object, default: float) -> float:
    """A share from 0 to 1, or `default` where it is missing or not finite.

    Raises:
        PacketError: If it is no number, or outside.
    """
    read = ranged(key, value, 1.0)
    return default if read is None else read


def or_nan(value: float | None) -> float:
    """NaN for what is unknown, in fields that hold a number in any case."""
    return math.nan if value is None else value
