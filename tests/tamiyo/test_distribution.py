"""Masked distributions: floors hold, the illegal is never drawn, frequencies are probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.tamiyo.distribution import MAX_FLOOR_SHARE, log_prob_of, masked_log_probs, normalised_entropy, sample

LEGAL = torch.tensor([[True, False, True, True, False]])
LOGITS = torch.tensor([[1.0, 9.0, -2.0, 0.5, 30.0]])


@pytest.mark.parametrize("floor", [0.0, 0.05, 0.4])
def test_log_probs_are_the_floored_softmax_over_legal_choices(floor: float) -> None:
    got = masked_log_probs(LOGITS, LEGAL, floor=floor).exp()[0]
    legal_logits = LOGITS[0][LEGAL[0]].double()
    weights = legal_logits.exp() / legal_logits.exp().sum()
    f = min(floor, MAX_FLOOR_SHARE / 3)
    expected = torch.zeros(5, dtype=torch.float64)
    expected[LEGAL[0]] = f + (1 - 3 * f) * weights
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-7)


def test_floor_holds_however_sure_the_logits_are() -> None:
    probs = masked_log_probs(torch.tensor([[1e4, -1e4, 0.0]]), torch.ones(1, 3, dtype=torch.bool), floor=0.1).exp()
    assert probs.min().item() == pytest.approx(0.1, rel=1e-4)
    assert probs.sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("floor", [0.0, 0.05])
def test_garbage_in_masked_cells_changes_nothing_and_gets_no_gradient(floor: float) -> None:
    logits = LOGITS.clone().requires_grad_()
    log_probs = masked_log_probs(logits, LEGAL, floor=floor)
    garbage = torch.where(LEGAL, LOGITS, torch.nan)
    torch.testing.assert_close(masked_log_probs(garbage, LEGAL, floor=floor), log_probs.detach(), rtol=0, atol=0)
    normalised_entropy(log_probs, LEGAL).sum().backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad != 0, LEGAL)
    assert torch.isfinite(logits.grad).all()


def test_entropy_of_a_uniform_distribution_is_one_whatever_the_number_of_choices() -> None:
    legal = torch.tensor([[True, True, False], [True, True, True], [False, True, False]])
    entropy = normalised_entropy(masked_log_probs(torch.zeros(3, 3), legal, floor=0.0), legal)
    torch.testing.assert_close(entropy, torch.tensor([1.0, 1.0, 0.0]))


def test_entropy_is_minus_p_log_p_over_its_maximum() -> None:
    log_probs = masked_log_probs(LOGITS, LEGAL, floor=0.02)
    p = log_probs.exp()[0][LEGAL[0]].double().numpy()
    expected = -(p * np.log(p)).sum() / np.log(3)
    assert normalised_entropy(log_probs, LEGAL).item() == pytest.approx(expected, rel=1e-5)


def test_frequencies_match_probabilities() -> None:
    n = 20_000
    noise = torch.from_numpy((np.arange(n) + 0.5) / n)
    log_probs = masked_log_probs(LOGITS, LEGAL, floor=0.03)
    drawn = sample(log_probs.expand(n, -1), noise)
    counts = np.bincount(drawn.numpy(), minlength=5)[LEGAL[0].numpy()]
    expected = n * log_probs.exp()[0][LEGAL[0]].double().numpy()
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert counts.sum() == n
    assert chi_square < 0.01


def test_mode_is_the_most_probable_legal_choice() -> None:
    assert sample(masked_log_probs(LOGITS, LEGAL, floor=0.0), None).item() == 0


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_the_illegal_is_never_sampled(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 8))
    legal = data.draw(st.lists(st.booleans(), min_size=size, max_size=size).filter(any))
    logits = data.draw(st.lists(st.floats(-50, 50, width=32), min_size=size, max_size=size))
    uniform = data.draw(st.floats(0.0, 1.0))
    mask = torch.tensor([legal])
    log_probs = masked_log_probs(torch.tensor([logits]), mask, floor=data.draw(st.sampled_from([0.0, 0.02, 0.9])))
    drawn = sample(log_probs, torch.tensor([uniform], dtype=torch.float64))
    assert legal[int(drawn)]
    assert torch.isfinite(log_prob_of(log_probs, drawn)).all()
