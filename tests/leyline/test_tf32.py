"""Rounding on a GPU is a matter of a block. The settings can be read and set without a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from esper.leyline.tf32 import tf32

if TYPE_CHECKING:
    from collections.abc import Iterator

GPU = torch.device("cuda", 0)


def settings() -> tuple[bool, bool]:
    """Whether products and convolutions may round."""
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture(autouse=True)
def _as_they_were() -> Iterator[None]:
    before = settings()
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("before", [(False, True), (False, False), (True, True)])
@pytest.mark.parametrize("is_allowed", [False, True])
def test_products_and_convolutions_round_alike_within_and_as_before_afterwards(before: tuple[bool, bool], is_allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    with pytest.raises(ZeroDivisionError), tf32(GPU, is_allowed=is_allowed):
        assert settings() == (is_allowed, is_allowed)
        raise ZeroDivisionError
    assert settings() == before


def test_an_inner_block_decides_for_itself() -> None:
    with tf32(GPU, is_allowed=True):
        with tf32(GPU, is_allowed=False):
            assert settings() == (False, False)
        assert settings() == (True, True)


def test_a_block_on_the_cpu_sets_nothing() -> None:
    before = settings()
    with tf32(torch.device("cpu"), is_allowed=True):
        assert settings() == before
