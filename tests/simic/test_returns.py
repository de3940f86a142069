from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.simic.returns import gae


def slow_gae(reward: np.ndarray, discount: np.ndarray, value: np.ndarray, value_tp1: np.ndarray, lambda_: float) -> np.ndarray:
    """Explicit double sum over future errors."""
    T, B = reward.shape
    delta = reward + discount * value_tp1 - value
    out = np.zeros_like(reward)
    for b in range(B):
        for t in range(T):
            weight = 1.0
            for k in range(t, T):
                out[t, b] += weight * delta[k, b]
                weight *= discount[k, b] * lambda_
    return out


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 4), st.floats(0.0, 1.0))
def test_gae_equals_the_slow_formula(seed: int, T: int, B: int, lambda_: float) -> None:
    rng = np.random.default_rng(seed)
    reward, value, value_tp1 = rng.normal(size=(3, T, B))
    discount = np.where(rng.random((T, B)) < 0.2, 0.0, rng.uniform(0.5, 1.0, (T, B)))
    fast = gae(*(torch.from_numpy(x) for x in (reward, discount, value, value_tp1)), lambda_=lambda_)
    np.testing.assert_allclose(fast.numpy(), slow_gae(reward, discount, value, value_tp1, lambda_), atol=1e-9)


def test_constant_reward_with_the_true_value_has_no_advantage() -> None:
    ones = torch.ones(6, 2, dtype=torch.float64)
    gamma = 0.9
    true_value = ones / (1.0 - gamma)
    assert torch.allclose(gae(ones, gamma * ones, true_value, true_value, lambda_=0.7), torch.zeros_like(ones))


def test_a_terminal_step_takes_nothing_from_what_follows() -> None:
    reward = torch.tensor([[1.0], [2.0], [4.0]])
    discount = torch.tensor([[1.0], [0.0], [1.0]])
    zero = torch.zeros(3, 1)
    found = gae(reward, discount, zero, zero, lambda_=1.0)
    assert found.squeeze(1).tolist() == [3.0, 2.0, 4.0]
    assert torch.equal(found[:2], gae(reward[:2], discount[:2], zero[:2], zero[:2], lambda_=1.0))


def test_a_cut_off_bootstraps_from_the_last_observation() -> None:
    reward, value = torch.tensor([[1.0]]), torch.tensor([[5.0]])
    cut = gae(reward, torch.tensor([[0.5]]), value, torch.tensor([[8.0]]), lambda_=0.95)
    ended = gae(reward, torch.tensor([[0.0]]), value, torch.tensor([[8.0]]), lambda_=0.95)
    assert cut.item() == pytest.approx(1.0 + 0.5 * 8.0 - 5.0)
    assert ended.item() == pytest.approx(1.0 - 5.0)


def test_garbage_behind_a_terminal_step_changes_nothing() -> None:
    reward = torch.tensor([[1.0, 1.0], [1.0, torch.nan]])
    discount = torch.tensor([[1.0, 0.0], [0.0, torch.nan]])
    value = torch.tensor([[0.5, 0.5], [0.5, torch.nan]])
    value_tp1 = torch.tensor([[0.5, torch.nan], [torch.nan, torch.nan]])
    found = gae(reward, discount, value, value_tp1, lambda_=1.0)
    assert found[:, 0].tolist() == [1.5, 0.5]
    assert found[0, 1].item() == 0.5


def test_lambda_one_is_the_return_less_the_value() -> None:
    rng = torch.Generator().manual_seed(0)
    reward, value = torch.randn(2, 5, 3, generator=rng, dtype=torch.float64)
    discount = torch.full_like(reward, 0.9)
    discount[-1] = 0.0
    value_tp1 = torch.cat([value[1:], value[:1]])
    advantage = gae(reward, discount, value, value_tp1, lambda_=1.0)
    returns = torch.stack([sum(0.9**k * reward[t + k] for k in range(5 - t)) for t in range(5)])
    assert torch.allclose(advantage + value, returns)


def test_no_gradient_flows_to_values() -> None:
    value = torch.ones(2, 1, requires_grad=True)
    assert not gae(torch.ones(2, 1), torch.ones(2, 1), value, value, lambda_=0.9).requires_grad


def test_shapes_are_checked() -> None:
    with pytest.raises(Exception, match=r"(?i)type"):
        gae(torch.ones(2, 1), torch.ones(3, 1), torch.ones(2, 1), torch.ones(2, 1), lambda_=0.9)
