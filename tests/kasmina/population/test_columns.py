"""Views of one flat tensor, and the one gradient that they give."""

from __future__ import annotations

import torch

from esper.kasmina.population.columns import cut, make_column, make_stacked_column, pick

COLUMNS = (make_stacked_column(2, (2, 3), 0, stride=16), make_column((), 8), make_column((4,), 12))


def test_views_lie_where_they_should_and_share_memory() -> None:
    flat = torch.arange(32.0)
    stacked, single, row = cut(flat, COLUMNS)
    assert torch.equal(stacked, torch.stack([torch.arange(6.0), torch.arange(16.0, 22.0)]).view(2, 2, 3))
    assert single.item() == 8.0
    assert row.tolist() == [12.0, 13.0, 14.0, 15.0]
    row.zero_()
    assert flat[12:16].count_nonzero() == 0


def test_the_gradient_is_that_of_slices_and_tells_what_was_heard() -> None:
    flat, heard = torch.randn(32).requires_grad_(), [True, True, True]
    stacked, _, row = cut(flat, COLUMNS, heard)
    (gradient,) = torch.autograd.grad((stacked.square().sum() * row.sum()), flat)
    assert heard == [True, False, True]
    rows = flat.view(2, 16)[:, :6]
    (expected,) = torch.autograd.grad((rows.square().sum() * flat[12:16].sum()), flat)
    assert torch.equal(gradient, expected)
    (other,) = torch.autograd.grad(cut(flat, COLUMNS, heard)[1], flat)
    assert heard == [False, True, False]
    assert other.nonzero().tolist() == [[8]]


def test_without_gradients_nothing_is_recorded() -> None:
    flat = torch.randn(32).requires_grad_()
    with torch.no_grad():
        assert not any(view.requires_grad for view in cut(flat, COLUMNS))
    assert all(view.requires_grad for view in cut(flat, COLUMNS))


def test_rows_may_be_picked_from_either_kind() -> None:
    stacked = torch.randn(3, 2)
    rows, index = [2, 0], torch.tensor([2, 0])
    picked, apart = pick(stacked, rows, index), pick(tuple(stacked), rows, index)
    assert isinstance(picked, torch.Tensor)
    assert torch.equal(picked, torch.stack(list(apart)))
