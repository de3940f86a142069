from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.utils import softmax

from esper.tamiyo.messages import segment_softmax


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), rows=st.integers(0, 20), segments=st.integers(1, 6))
def test_segments_are_normalised_as_torch_geometric_normalises_them(seed: int, rows: int, segments: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 3, generator=generator, dtype=torch.float64).requires_grad_()
    index = torch.randint(segments, (rows,), generator=generator)
    weight = torch.ones(rows, 3, dtype=torch.float64).cumsum(0)
    mine, theirs = segment_softmax(x, index, segments), softmax(x, index, num_nodes=segments)
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(*(torch.autograd.grad((value * weight).sum(), x, retain_graph=True)[0] for value in (mine, theirs)))
