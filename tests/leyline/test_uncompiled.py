from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from esper.leyline.uncompiled import SGD, AdamW


@pytest.mark.parametrize(
    ("mine", "theirs", "options"),
    [
        (AdamW, torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1, "fused": True}),
        (AdamW, torch.optim.AdamW, {"lr": 0.01, "eps": 1e-5}),
        (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    ],
)
def test_updates_and_states_are_the_librarys_to_the_last_bit(mine: Any, theirs: Any, options: dict[str, Any]) -> None:
    weights = [[torch.nn.Parameter(torch.linspace(-1, 1, n)) for n in (1, 7, 64)] for _ in range(2)]
    optimizers = [kind(parameters, **options) for kind, parameters in zip((mine, theirs), weights, strict=True)]
    for step in range(5):
        for parameters, optimizer in zip(weights, optimizers, strict=True):
            optimizer.zero_grad()
            for parameter in parameters:
                parameter.grad = torch.sin(parameter.detach() * (step + 1))
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    states = [optimizer.state_dict()["state"] for optimizer in optimizers]
    assert all(torch.equal(value, states[1][i][name]) for i, own in states[0].items() for name, value in own.items())


def test_a_step_leaves_the_compiler_where_it_is() -> None:
    program = """
import sys, torch
from esper.leyline.uncompiled import AdamW
p = torch.nn.Parameter(torch.ones(3)); p.grad = torch.ones(3)
o = AdamW([p], lr=0.1); o.step(); o.zero_grad(); o.load_state_dict(o.state_dict())
print("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "False"
