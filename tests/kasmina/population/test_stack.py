from __future__ import annotations

import pytest
import torch
from torch import nn

from esper.kasmina.population.stack import StackPlan


class Template(nn.Module):
    """Layers, a list, a sequence, something absent, a setting and a layer that appears twice."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(2, 4, 3, groups=2, bias=False)
        self.blocks = nn.ModuleList([nn.Linear(2, 3), nn.Linear(3, 2)])
        self.head = nn.Sequential(nn.LayerNorm(2), nn.ReLU(), nn.Linear(2, 2))
        self.again = self.spatial
        self.register_module("absent", None)
        self.scale = nn.Parameter(torch.zeros(()))
        self.reach = 3.0


def test_tensors_stand_where_the_parameters_are() -> None:
    template = Template()
    plan = StackPlan(template)
    tensors = [torch.full((5, *parameter.shape), float(i)) for i, parameter in enumerate(template.parameters())]
    stacked = plan.bind(tensors)
    assert plan.names == tuple(name for name, _ in template.named_parameters())
    by_name = dict(zip(plan.names, tensors, strict=True))
    assert stacked.scale is by_name["scale"]
    assert stacked.spatial.weight is stacked.again.weight is by_name["spatial.weight"]
    assert stacked.blocks[1].bias is by_name["blocks.1.bias"]
    assert stacked.blocks[-1].weight is by_name["blocks.1.weight"]
    norm, activation, linear = stacked.head
    assert norm.weight is by_name["head.0.weight"]
    assert linear.bias is by_name["head.2.bias"]
    assert isinstance(activation, nn.ReLU)


def test_other_attributes_are_those_of_the_template() -> None:
    template = Template()
    stacked = StackPlan(template).bind(list(template.parameters()))
    assert stacked.reach == 3.0
    assert stacked.spatial.groups == 2
    assert stacked.spatial.bias is None
    assert stacked.absent is None
    assert len(stacked.blocks) == 2
    assert [layer.in_features for layer in stacked.blocks] == [2, 3]
    with pytest.raises(AttributeError, match="nonsense"):
        _ = stacked.spatial.nonsense
    with pytest.raises(IndexError, match="2 layers"):
        stacked.blocks[2]


def test_bindings_are_independent_of_one_another() -> None:
    template = nn.Linear(2, 2)
    plan = StackPlan(template)
    first, second = (plan.bind([torch.full((1, 2, 2), value), torch.zeros(1, 2)]) for value in (1.0, 2.0))
    assert float(first.weight.mean()) == 1.0
    assert float(second.weight.mean()) == 2.0


def test_too_few_tensors_are_refused() -> None:
    with pytest.raises(ValueError, match="1 tensors for the 2 parameters weight, bias"):
        StackPlan(nn.Linear(2, 2)).bind([torch.zeros(1, 2, 2)])


def test_a_module_with_buffers_is_refused() -> None:
    with pytest.raises(ValueError, match="BatchNorm2d cannot be stacked: it has the buffers running_mean"):
        StackPlan(nn.BatchNorm2d(2))
