from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.kasmina.alpha_control import AlphaController
from esper.leyline.alpha import AlphaCurve, AlphaMode

unit = st.floats(0.0, 1.0)


@settings(max_examples=50, deadline=None)
@given(start=unit, target=unit, curve=st.sampled_from(AlphaCurve), steps=st.integers(1, 10))
def test_a_schedule_is_monotone_and_lands_exactly(start: float, target: float, curve: AlphaCurve, steps: int) -> None:
    controller = AlphaController(alpha=start).retarget(target, curve=curve, steps=steps)
    path = [controller.alpha]
    while controller.mode is not AlphaMode.HOLD:
        controller = controller.tick()
        path.append(controller.alpha)
    assert controller.alpha == target
    assert len(path) == (1 if start == target else steps + 1)
    assert path == sorted(path, reverse=target < start)


def test_a_linear_schedule_takes_equal_steps() -> None:
    controller = AlphaController().retarget(1.0, curve=AlphaCurve.LINEAR, steps=4)
    assert controller.mode is AlphaMode.UP
    heights = []
    for _ in range(4):
        controller = controller.tick()
        heights.append(controller.alpha)
    assert heights == [0.25, 0.5, 0.75, 1.0]


def test_progress_counts_the_steps() -> None:
    controller = AlphaController(alpha=1.0).retarget(0.0, curve=AlphaCurve.COSINE, steps=4).tick()
    assert (controller.mode, controller.progress) == (AlphaMode.DOWN, 0.25)
    assert AlphaController().progress == 1.0


def test_an_instant_change_takes_effect_at_once() -> None:
    controller = AlphaController(alpha=0.2).retarget(0.7, curve=AlphaCurve.SIGMOID, steps=0)
    assert (controller.alpha, controller.mode) == (0.7, AlphaMode.HOLD)
    assert controller.tick() == controller


def test_a_new_target_has_to_wait_for_hold() -> None:
    moving = AlphaController().retarget(1.0, curve=AlphaCurve.LINEAR, steps=3).tick()
    with pytest.raises(RuntimeError, match="still moving"):
        moving.retarget(0.5, curve=AlphaCurve.LINEAR, steps=3)


@pytest.mark.parametrize(("target", "steps"), [(1.1, 3), (-0.1, 3), (0.5, -1)])
def test_a_schedule_that_makes_no_sense_is_refused(target: float, steps: int) -> None:
    with pytest.raises(ValueError, match=r"outside|cannot take"):
        AlphaController().retarget(target, curve=AlphaCurve.LINEAR, steps=steps)
