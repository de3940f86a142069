"""Each head's own gradient: it is told for every head, and it is the head's own."""

from __future__ import annotations

import pytest
import torch

from esper.leyline.actions import HEAD_NAMES
from esper.leyline.rng import SeedTree
from esper.tamiyo.config import TamiyoGNNConfig
from esper.tamiyo.heads import DETAIL_HEADS, ActionHeads

WIDTH, BATCH, SLOTS = 8, 3, 4


@pytest.fixture
def heads() -> ActionHeads:
    with SeedTree(0).torch_scope():
        return ActionHeads(WIDTH, TamiyoGNNConfig())


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_before_a_backward_pass_there_is_no_gradient(heads: ActionHeads) -> None:
    assert heads.gradient_norms() == {}


def test_every_head_has_a_norm(heads: ActionHeads) -> None:
    op = torch.tensor([1, 2, 3])
    logits = (
        heads.op(draw(BATCH, 2 * WIDTH)),
        heads.slot(draw(BATCH, WIDTH), draw(BATCH, SLOTS, WIDTH), op),
        heads.details(draw(BATCH, WIDTH), draw(BATCH, WIDTH), op),
    )
    sum((part**2).sum() for part in logits).backward()  # type: ignore[union-attr]
    norms = heads.gradient_norms()
    assert set(norms) == set(HEAD_NAMES)
    assert all(norm > 0.0 for norm in norms.values())
    own = heads.op_logits, heads.op_hidden
    expected = torch.cat([p.grad.flatten() for layer in own for p in layer.parameters() if p.grad is not None]).norm()
    assert norms["op"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("row", range(len(DETAIL_HEADS)))
def test_a_detail_head_that_is_not_asked_has_none(row: int, heads: ActionHeads) -> None:
    heads.details(draw(BATCH, WIDTH), draw(BATCH, WIDTH), torch.tensor([1, 1, 2]))[:, row].sum().backward()
    norms = heads.gradient_norms()
    assert {name for name, norm in norms.items() if norm > 0.0} == {DETAIL_HEADS[row].name.lower()}
