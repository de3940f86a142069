from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.gradients import gradient_flow, read_gradients


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


def test_gradient_flow_is_told_layer_by_layer() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1), nn.Linear(1, 1))
    for index, (weight, bias) in enumerate((([[3.0, 0.0], [0.0, 0.0]], [0.0, 4.0]), ([[0.0, 0.5]], [0.0]))):
        net[index].weight.grad, net[index].bias.grad = torch.tensor(weight), torch.tensor(bias)
    flow = gradient_flow(net.named_parameters())
    assert flow is not None
    assert flow.norm_per_layer == pytest.approx({"0": 5.0, "1": 0.5})
    assert flow.zero_fraction == pytest.approx(6 / 9)
    assert flow.norm_ratio == pytest.approx(10.0)
    assert flow.nan_layers == ()
    doubled = gradient_flow(net.named_parameters(), lambda _: 2.0)
    assert doubled is not None
    assert doubled.norm_per_layer == pytest.approx({"0": 10.0, "1": 1.0})


def test_a_broken_layer_is_named_and_does_not_spoil_the_ratio() -> None:
    net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    for layer, value in zip(net, (1.0, float("nan")), strict=True):
        layer.weight.grad, layer.bias.grad = torch.full((1, 1), value), torch.zeros(1)
    flow = gradient_flow(net.named_parameters())
    assert flow is not None
    assert flow.nan_layers == ("1",)
    assert flow.norm_ratio == 1.0


def test_without_a_backward_pass_nothing_flows() -> None:
    assert gradient_flow(nn.Linear(1, 1).named_parameters()) is None
