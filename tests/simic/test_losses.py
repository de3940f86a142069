from __future__ import annotations

import math

import pytest
import torch

from esper.simic.losses import entropy_bonus, kl_forward, kl_reverse, log_ratio, policy_loss, standardise, value_loss


def surrogate(ratio: float, advantage: float, clip: float = 0.2) -> tuple[float, float]:
    """Loss of one sample and its gradient with respect to the log-probability."""
    log_prob = torch.tensor([math.log(ratio)], requires_grad=True)
    loss = policy_loss(log_prob, torch.zeros(1), torch.tensor([advantage]), weight=torch.ones(1), clip=clip)
    loss.backward()
    assert log_prob.grad is not None
    return loss.item(), log_prob.grad.item()


def test_surrogate_inside_the_trust_region_is_the_ratio_times_the_advantage() -> None:
    loss, gradient = surrogate(1.1, 2.0)
    assert loss == pytest.approx(-2.2)
    assert gradient == pytest.approx(-2.2)


@pytest.mark.parametrize(("ratio", "advantage", "loss"), [(1.5, 1.0, -1.2), (0.5, -1.0, 0.8)])
def test_surrogate_beyond_the_trust_region_is_flat(ratio: float, advantage: float, loss: float) -> None:
    found, gradient = surrogate(ratio, advantage)
    assert found == pytest.approx(loss)
    assert gradient == 0.0


@pytest.mark.parametrize(("ratio", "advantage"), [(1.5, -1.0), (0.5, 1.0)])
def test_surrogate_still_pulls_back_from_the_wrong_side(ratio: float, advantage: float) -> None:
    loss, gradient = surrogate(ratio, advantage)
    assert loss == pytest.approx(-ratio * advantage, rel=1e-5)
    assert gradient == pytest.approx(-ratio * advantage, rel=1e-5)


def test_garbage_with_weight_zero_changes_neither_value_nor_gradient() -> None:
    log_prob = torch.tensor([-0.5, torch.nan, -torch.inf], requires_grad=True)
    old = torch.tensor([-0.6, -torch.inf, torch.nan])
    advantage = torch.tensor([1.0, torch.nan, torch.inf])
    weight = torch.tensor([1.0, 0.0, 0.0])
    loss = policy_loss(log_prob, old, advantage, weight=weight, clip=0.2)
    loss.backward()
    assert loss.item() == pytest.approx(-math.exp(0.1))
    assert log_prob.grad is not None
    assert log_prob.grad.tolist() == [pytest.approx(-math.exp(0.1)), 0.0, 0.0]
    value = torch.tensor([1.0, torch.nan, 2.0], requires_grad=True)
    critic = value_loss(value, torch.tensor([0.0, 1.0, torch.nan]), weight=weight)
    critic.backward()
    assert critic.item() == 0.5
    assert value.grad is not None
    assert value.grad.tolist() == [1.0, 0.0, 0.0]


def test_losses_of_nothing_are_zero() -> None:
    nothing = torch.zeros(2)
    anything = torch.full((2,), torch.nan)
    assert policy_loss(anything, anything, anything, weight=nothing, clip=0.2).item() == 0.0
    assert value_loss(anything, anything, weight=nothing).item() == 0.0
    heads = torch.full((2, 3), torch.nan)
    available = torch.ones(2, 3, dtype=torch.bool)
    assert entropy_bonus(heads, available, head_weight=torch.ones(3), weight=nothing).item() == 0.0


def test_no_gradient_flows_to_targets_advantages_or_the_old_policy() -> None:
    log_prob, old, advantage = (torch.zeros(3, requires_grad=True) for _ in range(3))
    policy_loss(log_prob, old, advantage + 1.0, weight=torch.ones(3), clip=0.2).backward()
    assert log_prob.grad is not None
    assert old.grad is None
    assert advantage.grad is None
    value, target = (torch.zeros(3, requires_grad=True) for _ in range(2))
    value_loss(value, target + 1.0, weight=torch.ones(3)).backward()
    assert value.grad is not None
    assert target.grad is None


def test_value_loss_is_linear_beyond_delta() -> None:
    value = torch.tensor([0.5, 10.0], requires_grad=True)
    loss = value_loss(value, torch.zeros(2), weight=torch.ones(2), huber_delta=1.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * (0.125 + 9.5))
    assert value.grad is not None
    assert value.grad.tolist() == pytest.approx([0.25, 0.5])


def test_entropy_counts_a_head_only_where_it_had_a_choice() -> None:
    entropy = torch.tensor([[1.0, 0.4], [0.5, torch.nan], [torch.nan, torch.nan]], requires_grad=True)
    available = torch.tensor([[True, True], [True, False], [True, True]])
    weight = torch.tensor([1.0, 1.0, 0.0])
    bonus = entropy_bonus(entropy, available, head_weight=torch.tensor([1.0, 0.5]), weight=weight)
    bonus.backward()
    assert bonus.item() == pytest.approx(0.75 + 0.5 * 0.4)
    assert entropy.grad is not None
    assert entropy.grad.tolist() == [[0.5, 0.5], [0.5, 0.0], [0.0, 0.0]]


def test_kl_estimators_agree_with_the_exact_divergences() -> None:
    old, new = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.4, 0.4, 0.2]).double()
    delta = (new / old).log()
    assert (old * kl_forward(delta)).sum().item() == pytest.approx((old * (old / new).log()).sum().item())
    assert (old * kl_reverse(delta)).sum().item() == pytest.approx((new * (new / old).log()).sum().item())
    wide = torch.linspace(-3, 3, 50)
    assert (kl_forward(wide) >= 0).all()
    assert (kl_reverse(wide) >= 0).all()


def test_underflowing_probabilities_do_not_make_infinite_ratios() -> None:
    delta = log_ratio(torch.tensor([-torch.inf, 0.0]), torch.tensor([-1.0, -torch.inf]))
    assert delta.tolist() == [-20.0, 20.0]


def test_standardise_ignores_what_is_not_used_and_keeps_small_spreads_small() -> None:
    advantage = torch.tensor([1.0, 3.0, torch.nan])
    used = torch.tensor([True, True, False])
    found, is_floored = standardise(advantage, used, std_floor=0.1)
    assert found.tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5, 0.0])
    assert not is_floored
    tiny, is_floored = standardise(torch.tensor([0.0, 1e-3]), torch.tensor([True, True]), std_floor=0.1)
    assert tiny.abs().max().item() < 0.01
    assert is_floored
    nothing, is_floored = standardise(advantage, torch.zeros(3, dtype=torch.bool), std_floor=0.1)
    assert nothing.tolist() == [0.0, 0.0, 0.0]
    assert not is_floored


def test_the_floor_is_told_exactly_where_it_divides() -> None:
    """The sample deviation of −0.1 and 0.1 is 0.1414…, that of their population 0.1."""
    advantage, used = torch.tensor([-0.1, 0.1], dtype=torch.float64), torch.tensor([True, True])
    for floor in (0.05, 0.12, 0.141, 0.142, 0.2):
        standard, is_floored = standardise(advantage, used, std_floor=floor)
        assert is_floored == (standard.std().item() < 1.0 - 1e-9)
    alone, is_floored = standardise(torch.tensor([3.0]), torch.tensor([True]), std_floor=0.1)
    assert (alone.tolist(), is_floored) == ([0.0], True)
