"""One flat tensor under the parameters of many members."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from esper.kasmina.population.storage import Block, Storage

if TYPE_CHECKING:
    from esper.kasmina.population.columns import Stack

SHAPES = st.lists(st.sampled_from([(), (1,), (3,), (16,), (2, 3), (4, 4), (3, 1, 2)]), min_size=1, max_size=3)


def make_block(members: tuple[int, ...], shapes: list[tuple[int, ...]], *, learns: bool = True, first: float = 1.0) -> Block:
    """Every parameter filled with numbers that tell it from all others."""
    rows = []
    for _ in members:
        row = []
        for shape in shapes:
            size = torch.Size(shape).numel()
            row.append(nn.Parameter(torch.arange(first, first + size).view(shape), requires_grad=learns))
            first += size
        rows.append(tuple(row))
    return Block(members, tuple(rows), learns)


def whole(stack: Stack) -> torch.Tensor:
    assert isinstance(stack, torch.Tensor)
    return stack


def make_storage() -> tuple[Storage, list[Block]]:
    """A host of three members; a seed of the last and the first that learns, and one of the second that does not."""
    blocks = [
        make_block((0, 1, 2), [(2, 3), (5,)]),
        make_block((1,), [(4,)], learns=False, first=500.0),
        make_block((2, 0), [(), (7,)], first=900.0),
    ]
    return Storage(blocks), blocks


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(SHAPES, st.integers(1, 3), st.booleans()), min_size=1, max_size=4))
def test_parameters_keep_their_numbers_and_become_views(kinds: list[tuple[list[tuple[int, ...]], int, bool]]) -> None:
    blocks = [make_block(tuple(range(count)), shapes, learns=learns, first=100.0 * i) for i, (shapes, count, learns) in enumerate(kinds)]
    parameters = [parameter for block in blocks for row in block.rows for parameter in row]
    before = [parameter.detach().clone() for parameter in parameters]
    storage = Storage(blocks)
    assert all(torch.equal(parameter, own) for parameter, own in zip(parameters, before, strict=True))
    assert all(parameter.data_ptr() % 64 == 0 for parameter in parameters)
    assert storage.flat.count_nonzero() == sum(int(own.count_nonzero()) for own in before)
    for block, tensors in zip(blocks, storage.stacked(with_grad=False), strict=True):
        for column, tensor in enumerate(tensors):
            assert all(torch.equal(row[column], own) for row, own in zip(block.rows, tensor, strict=True))
    with torch.no_grad():
        for parameter in parameters:
            parameter.fill_(7.0)
    assert storage.flat.eq(7.0).sum() == sum(parameter.numel() for parameter in parameters)
    storage.flat.fill_(3.0)
    assert all(parameter.eq(3.0).all() for parameter in parameters)


def test_what_learns_is_one_leaf() -> None:
    storage, blocks = make_storage()
    host, resting, seeds = ([whole(stack) for stack in block] for block in storage.stacked(with_grad=True))
    assert storage.leaf.is_leaf
    assert [tensor.shape for tensor in (*host, *resting, *seeds)] == [(3, 2, 3), (3, 5), (1, 4), (2,), (2, 7)]
    assert [tensor.requires_grad for tensor in (*host, *resting, *seeds)] == [True, True, False, True, True]
    loss = sum((i + 1) * tensor.sum() for i, tensor in enumerate((*host, *seeds)))
    assert isinstance(loss, torch.Tensor)
    (gradient,) = torch.autograd.grad(loss, storage.leaf)
    storage.hand_out(gradient)
    for factor, column in ((1.0, [row[0] for row in blocks[0].rows]), (4.0, [row[1] for row in blocks[2].rows])):
        for parameter in column:
            assert parameter.grad is not None
            assert torch.equal(parameter.grad, torch.full_like(parameter, factor))
    assert blocks[1].rows[0][0].grad is None
    assert gradient.count_nonzero() == sum(place.parameter.numel() for place in storage.places)


def test_places_tell_whose_numbers_lie_where() -> None:
    storage, _ = make_storage()
    assert [place.member for place in storage.places] == [0, 0, 1, 1, 2, 2, 2, 2, 0, 0]
    for place, part in zip(storage.places, storage.parts(storage.leaf.detach()), strict=True):
        assert torch.equal(part, place.parameter)
        assert part.data_ptr() == place.parameter.data_ptr()
        assert torch.equal(storage.leaf[place.start : place.start + part.numel()], part.flatten())


def test_sums_and_factors_reach_every_member_apart() -> None:
    storage, _ = make_storage()
    values = storage.leaf.detach().clone()
    expected = [0.0, 0.0, 0.0]
    for place in storage.places:
        expected[place.member] += float(place.parameter.detach().double().square().sum())
    assert storage.square_sums(values, 3).tolist() == pytest.approx(expected)
    storage.scale_apart(values, torch.tensor([2.0, float("nan"), 0.0]), 3)
    for place, part in zip(storage.places, storage.parts(values), strict=True):
        if place.member == 1:
            assert part.isnan().all()
        else:
            assert torch.equal(part, place.parameter * (2.0 - place.member))


def test_numbers_that_are_taken_elsewhere_are_missed() -> None:
    storage, blocks = make_storage()
    assert storage.is_in_use()
    another = Storage(blocks[:1])
    assert not storage.is_in_use()
    assert another.is_in_use()
    blocks[0].rows[1][1].data = blocks[0].rows[1][1].data.double()
    assert not another.is_in_use()


def test_a_block_without_parameters_takes_no_place() -> None:
    storage = Storage([make_block((0, 1), [(3,)]), Block((1,), ((),), learns=True)])
    assert [len(tensors) for tensors in storage.stacked(with_grad=True)] == [1, 0]
    assert storage.square_sums(storage.leaf.detach(), 2).tolist() == [14.0, 77.0]
