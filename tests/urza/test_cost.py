from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from esper.urza.catalogue import STANDARD
from esper.urza.cost import Cost, attention_cost, dense_cost, depthwise_cost, norm_cost, scaling_cost

if TYPE_CHECKING:
    from esper.urza import Blueprint


@pytest.mark.parametrize(
    ("module", "shape", "cost"),
    [
        (nn.Linear(5, 7), (11, 5), dense_cost(5, 7, 11)),
        (nn.Linear(5, 7, bias=False), (11, 5), dense_cost(5, 7, 11, has_bias=False)),
        (nn.Conv2d(5, 7, 1), (1, 5, 4, 3), dense_cost(5, 7, 12)),
        (nn.Conv2d(5, 7, 3, padding=1), (1, 5, 4, 3), dense_cost(5, 7, 12, taps=9)),
        (nn.Conv2d(6, 6, 3, padding=1, groups=6), (1, 6, 4, 3), depthwise_cost(6, 12, taps=9)),
        (nn.Conv1d(6, 6, 3, padding=1, groups=6, bias=False), (1, 6, 8), depthwise_cost(6, 8, taps=3, has_bias=False)),
    ],
)
def test_layer_costs_are_what_torch_counts(module: nn.Module, shape: tuple[int, ...], cost: Cost) -> None:
    with FlopCounterMode(display=False) as counter:
        module(torch.zeros(shape))
    assert cost.num_parameters == sum(p.numel() for p in module.parameters())
    assert cost.product_flops * 2 == counter.get_total_flops()
    assert cost.flops == cost.product_flops


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_cost_is_that_of_its_two_products(heads: int) -> None:
    channels, positions = 8, 6
    query = torch.zeros(1, heads, positions, channels // heads)
    with FlopCounterMode(display=False) as counter:
        (query @ query.transpose(-1, -2)) @ query
    assert attention_cost(channels, positions).product_flops * 2 == counter.get_total_flops()
    assert attention_cost(channels, positions).num_parameters == 0


def test_costs_add_up() -> None:
    total = Cost(1, 20, 300) + Cost(4, 50, 600)
    assert total == Cost(5, 70, 900)
    assert total.flops == 970
    assert norm_cost(8, 10) + scaling_cost(8, 10, num_parameters=1) == Cost(17, 0, 320)


@pytest.mark.parametrize("blueprint", STANDARD, ids=lambda blueprint: f"{blueprint.family}-{blueprint.name}")
def test_work_grows_with_positions_and_parameters_do_not(blueprint: Blueprint) -> None:
    small, large = blueprint.cost(8, 16), blueprint.cost(8, 64)
    assert small.num_parameters == large.num_parameters
    assert large.flops > 2 * small.flops
    assert blueprint.cost(16, 16).num_parameters > small.num_parameters


def test_expected_sizes_at_a_transformer_of_384_channels() -> None:
    sizes = {b.name: b.cost(384, 256).num_parameters for b in STANDARD if b.family == "transformer"}
    assert sizes["norm"] == 2 * 384 + 1
    assert sizes["lora"] == 2 * 384 * 8
    assert sizes["lora_large"] == 2 * 384 * 32
    assert sizes["mlp_small"] < sizes["mlp"] < 2.01 * sizes["mlp_small"]
