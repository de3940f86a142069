from __future__ import annotations

import torch
from torch import nn

from esper.urza.init import silenced


def test_silenced_layer_says_nothing_but_can_learn() -> None:
    layer = silenced(nn.Linear(3, 2))
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    out = layer(x)
    assert torch.equal(out, torch.zeros(5, 2))
    out.sum().backward()
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(2, 3))


def test_silencing_keeps_the_layer() -> None:
    layer = nn.Conv2d(2, 2, 1, bias=False)
    assert silenced(layer) is layer
    assert layer.weight.requires_grad
