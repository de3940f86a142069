"""Vocabulary of blending: curves an alpha follows, operators that mix a seed into its host, and modes."""

from __future__ import annotations

import math
from enum import IntEnum


class AlphaCurve(IntEnum):
    """Shape of alpha's way from start to target. The first four are the blending methods of the policy contract."""

    LINEAR = 0
    COSINE = 1
    WARMUP_HOLD = 2
    SIGMOID = 3
    SIGMOID_GENTLE = 4
    SIGMOID_SHARP = 5


class BlendOperator(IntEnum):
    """How a seed's output is mixed with the host's."""

    ADD = 0
    """lerp(h, s, α)"""
    MULTIPLY = 1
    """h · (1 + α · tanh(s − h))"""
    GATE = 2
    """lerp(h, s, α · g(h)) with a learned gate g in 0…1"""


class AlphaMode(IntEnum):
    """What alpha is doing; a new target is accepted only in HOLD."""

    HOLD = 0
    UP = 1
    DOWN = 2


SIGMOID_STEEPNESS = {AlphaCurve.SIGMOID_GENTLE: 6.0, AlphaCurve.SIGMOID: 12.0, AlphaCurve.SIGMOID_SHARP: 24.0}
BLENDING_METHODS = ("linear", "cosine", "warmup_hold", "sigmoid")
"""Blending methods by name, in the order of the policy contract."""
METHOD_OF_CURVE = {
    AlphaCurve.LINEAR: "linear",
    AlphaCurve.COSINE: "cosine",
    AlphaCurve.WARMUP_HOLD: "warmup_hold",
    AlphaCurve.SIGMOID: "sigmoid",
    AlphaCurve.SIGMOID_GENTLE: "sigmoid",
    AlphaCurve.SIGMOID_SHARP: "sigmoid",
}
"""Blending method of each curve: the sigmoids differ in their steepness alone."""
WARMUP_FRAC = 0.5
"""Share of a WARMUP_HOLD schedule spent rising; the rest holds the target."""


def curve_at(curve: AlphaCurve, progress: float) -> float:
    """Height of `curve` at `progress`, both in 0…1; monotone, 0 at 0 and 1 at 1.

    LINEAR t; COSINE ½(1 − cos πt); WARMUP_HOLD min(t / ½, 1); SIGMOID a logistic rescaled to pass through (0, 0) and (1, 1).
    """
    t = min(max(progress, 0.0), 1.0)
    if curve is AlphaCurve.LINEAR:
        return t
    if curve is AlphaCurve.COSINE:
        return 0.5 * (1.0 - math.cos(math.pi * t))
    if curve is AlphaCurve.WARMUP_HOLD:
        return min(t / WARMUP_FRAC, 1.0)
    steepness = SIGMOID_STEEPNESS[curve]
    low, high = _logistic(-0.5 * steepness), _logistic(0.5 * steepness)
    return (_logistic(steepness * (t - 0.5)) - low) / (high - low)


def _logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))
