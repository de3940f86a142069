from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from esper.kasmina.gradients import read_gradients


def with_gradient(*values: float) -> Tensor:
    parameter = torch.zeros(len(values), requires_grad=True)
    parameter.grad = torch.tensor(values)
    return parameter


def test_norm_and_ratio_have_their_stated_values() -> None:
    reading = read_gradients([with_gradient(1.0, 1.0)], [[with_gradient(3.0), with_gradient(0.0, 4.0)]])[0]
    assert reading is not None
    assert reading.norm == pytest.approx(5.0)
    assert reading.ratio == pytest.approx(5.0 / math.sqrt(3))
    assert (reading.health, reading.has_vanishing, reading.has_exploding) == (1.0, False, False)


def test_health_counts_vanishing_and_exploding_tensors() -> None:
    seed = [with_gradient(1e-8), with_gradient(11.0), with_gradient(1.0), with_gradient(1.0)]
    reading = read_gradients([with_gradient(1.0)], [seed])[0]
    assert reading is not None
    assert reading.health == pytest.approx(1 - 0.5 / 4 - 0.8 / 4)
    assert reading.has_vanishing
    assert reading.has_exploding


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_explodes(value: float) -> None:
    reading = read_gradients([with_gradient(1.0)], [[with_gradient(value)]])[0]
    assert reading is not None
    assert reading.has_exploding
    assert reading.health == pytest.approx(0.2)
    assert reading.ratio is None


def test_what_has_no_gradient_is_not_measured() -> None:
    silent = torch.zeros(2, requires_grad=True)
    readings = read_gradients([with_gradient(1.0)], [[], [silent], [silent, with_gradient(2.0)]])
    assert readings[:2] == [None, None]
    assert readings[2] is not None
    assert readings[2].norm == pytest.approx(2.0)
    assert read_gradients([silent], [[silent]]) == [None]


def test_a_host_without_gradient_gives_no_ratio() -> None:
    reading = read_gradients([with_gradient(0.0)], [[with_gradient(1.0)]])[0]
    assert reading is not None
    assert reading.ratio is None
