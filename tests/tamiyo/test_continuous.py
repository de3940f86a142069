"""The squashed normal distribution against torch's own, and the head that is off by default."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from esper.leyline.rng import SeedTree
from esper.tamiyo import TamiyoPolicy
from esper.tamiyo.continuous import POLICY_PARAMS, TanhNormal
from tests.tamiyo.graphs import SMALL, random_batch

LOCATION = torch.tensor([[-2.0, 0.0, 0.5], [1.5, -0.3, 0.0]], dtype=torch.float64)
LOG_SCALE = torch.tensor([[-1.0, 0.5, -3.0], [0.0, -0.5, 0.3]], dtype=torch.float64)
MINE = TanhNormal(LOCATION, LOG_SCALE)
THEIRS = TransformedDistribution(Normal(LOCATION, LOG_SCALE.exp()), [TanhTransform(cache_size=1)])


def test_log_probability_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        value = MINE.sample(torch.randn(LOCATION.shape, generator=generator, dtype=torch.float64)).clamp(-0.99999, 0.99999)
        fresh = TransformedDistribution(Normal(LOCATION, LOG_SCALE.exp()), [TanhTransform()])
        torch.testing.assert_close(MINE.log_prob(value), fresh.log_prob(value), rtol=1e-6, atol=1e-6)


def test_mean_and_deviation_are_those_of_many_samples_of_torch() -> None:
    with SeedTree(0).torch_scope():
        samples = THEIRS.sample((200_000,))
    torch.testing.assert_close(MINE.mean(), samples.mean(0), rtol=0, atol=5e-3)
    torch.testing.assert_close(MINE.std(), samples.std(0), rtol=0, atol=5e-3)


def test_density_integrates_to_one() -> None:
    value = torch.linspace(-1 + 1e-5, 1 - 1e-5, 200_001, dtype=torch.float64)
    narrow = TanhNormal(torch.tensor(0.3, dtype=torch.float64), torch.tensor(-1.0, dtype=torch.float64))
    assert torch.trapezoid(narrow.log_prob(value).exp(), value).item() == pytest.approx(1.0, abs=1e-4)


def test_half_of_the_samples_lie_beneath_the_median() -> None:
    with SeedTree(1).torch_scope():
        noise = torch.randn(20_000, *LOCATION.shape, dtype=torch.float64)
    share = (MINE.sample(noise) < MINE.median).double().mean(0)
    torch.testing.assert_close(share, torch.full_like(share, 0.5), rtol=0, atol=0.02)
    torch.testing.assert_close(MINE.sample(torch.zeros_like(LOCATION)), MINE.median)


def test_values_at_the_border_stay_finite() -> None:
    border = torch.tensor([[-1.0, 1.0, 1.0], [1.0, -1.0, 0.0]], dtype=torch.float64)
    assert torch.isfinite(MINE.log_prob(border)).all()


def test_gradients_reach_location_and_scale() -> None:
    location, log_scale = LOCATION.clone().requires_grad_(), LOG_SCALE.clone().requires_grad_()
    TanhNormal(location, log_scale).log_prob(torch.full_like(LOCATION, 0.2)).sum().backward()
    assert location.grad is not None
    assert log_scale.grad is not None
    assert (location.grad.abs() > 0).all()
    assert (log_scale.grad.abs() > 0).all()


def test_the_head_is_off_by_default_and_changes_nothing_else() -> None:
    batch = random_batch(np.random.default_rng(0), 3)
    with SeedTree(0).torch_scope():
        plain = TamiyoPolicy(SMALL).eval()
    with SeedTree(0).torch_scope():
        adjusting = TamiyoPolicy(replace(SMALL, has_policy_params=True)).eval()
    adjusting.load_state_dict(plain.state_dict(), strict=False)
    without, with_params = plain.inspect(batch), adjusting.inspect(batch)
    assert without.policy_params is None
    assert with_params.policy_params is not None
    assert with_params.policy_params.shape == (3, len(POLICY_PARAMS))
    assert (with_params.policy_params == 0).all()
    np.testing.assert_array_equal(with_params.actions, without.actions)
    assert not any("params_head" in name for name in plain.state_dict())
