"""What a trial tells of its optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from esper.leyline.traits import OptimizerState
from esper.leyline.uncompiled import SGD, AdamW
from esper.tolaria.measure import optimizer_state

if TYPE_CHECKING:
    from torch.optim import Optimizer

WEIGHT = torch.nn.Parameter(torch.zeros(1))


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (AdamW([WEIGHT], betas=(0.8, 0.99)), OptimizerState("adamw", 0.8)),
        (SGD([WEIGHT], lr=0.1, momentum=0.7), OptimizerState("sgd", 0.7)),
        (torch.optim.Adagrad([WEIGHT]), OptimizerState("adagrad", None)),
    ],
)
def test_momentum_and_family_are_told_for_any_optimizer(optimizer: Optimizer, expected: OptimizerState) -> None:
    assert optimizer_state(optimizer) == expected
