"""Curves that an alpha follows."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.leyline.alpha import BLENDING_METHODS, METHOD_OF_CURVE, AlphaCurve, curve_at

PROGRESS = st.floats(0.0, 1.0)


@pytest.mark.parametrize("curve", AlphaCurve)
def test_curves_run_from_zero_to_one(curve: AlphaCurve) -> None:
    assert curve_at(curve, 0.0) == pytest.approx(0.0, abs=1e-12)
    assert curve_at(curve, 1.0) == pytest.approx(1.0, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(curve=st.sampled_from(AlphaCurve), a=PROGRESS, b=PROGRESS)
def test_curves_never_fall(curve: AlphaCurve, a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert 0.0 <= curve_at(curve, low) <= curve_at(curve, high) + 1e-15 <= 1.0 + 1e-12


@pytest.mark.parametrize("curve", AlphaCurve)
@pytest.mark.parametrize(("outside", "edge"), [(-0.5, 0.0), (1.5, 1.0)])
def test_progress_outside_the_schedule_is_clamped(curve: AlphaCurve, outside: float, edge: float) -> None:
    assert curve_at(curve, outside) == curve_at(curve, edge)


@pytest.mark.parametrize("curve", [c for c in AlphaCurve if c is not AlphaCurve.WARMUP_HOLD])
def test_all_but_warmup_are_symmetric_about_the_middle(curve: AlphaCurve) -> None:
    for t in (0.1, 0.3, 0.5):
        assert curve_at(curve, t) + curve_at(curve, 1.0 - t) == pytest.approx(1.0)


def test_shapes_at_a_quarter() -> None:
    assert curve_at(AlphaCurve.LINEAR, 0.25) == 0.25
    assert curve_at(AlphaCurve.COSINE, 0.25) == pytest.approx(0.1464466, abs=1e-6)
    assert curve_at(AlphaCurve.WARMUP_HOLD, 0.25) == 0.5
    assert curve_at(AlphaCurve.WARMUP_HOLD, 0.5) == curve_at(AlphaCurve.WARMUP_HOLD, 0.9) == 1.0


def test_a_sharper_sigmoid_stays_lower_before_the_middle() -> None:
    gentle, plain, sharp = (curve_at(curve, 0.25) for curve in (AlphaCurve.SIGMOID_GENTLE, AlphaCurve.SIGMOID, AlphaCurve.SIGMOID_SHARP))
    assert sharp < plain < gentle < 0.25


def test_the_first_four_curves_are_the_blending_methods() -> None:
    assert tuple(AlphaCurve(i).name.lower() for i in range(4)) == BLENDING_METHODS


def test_every_curve_belongs_to_a_blending_method() -> None:
    assert set(METHOD_OF_CURVE) == set(AlphaCurve)
    assert set(METHOD_OF_CURVE.values()) == set(BLENDING_METHODS)
    assert all(METHOD_OF_CURVE[AlphaCurve(i)] == method for i, method in enumerate(BLENDING_METHODS))
