from __future__ import annotations

import json

import numpy as np
import pytest

from esper.simic.normalise import ReturnNormaliser, popart_correction
from esper.simic.schedules import linear


def test_one_round_gives_its_mean_and_spread_exactly() -> None:
    returns = np.array([1.0, 2.0, 6.0])
    found = ReturnNormaliser(0.9).updated(returns)
    assert found.mean == pytest.approx(returns.mean())
    assert found.std == pytest.approx(returns.std())


def test_normalising_is_undone_by_denormalising() -> None:
    rng = np.random.default_rng(0)
    normaliser = ReturnNormaliser(0.5)
    for _ in range(4):
        normaliser = normaliser.updated(rng.normal(30.0, 8.0, 100))
    values = rng.normal(size=20).astype(np.float32)
    np.testing.assert_allclose(normaliser.normalise(normaliser.denormalise(values)), values, atol=1e-5)


def test_it_follows_returns_that_move() -> None:
    normaliser = ReturnNormaliser(0.5)
    for _ in range(20):
        normaliser = normaliser.updated(np.array([9.0, 11.0]))
    assert normaliser.mean == pytest.approx(10.0)
    assert normaliser.std == pytest.approx(1.0)


def test_another_pace_keeps_mean_and_spread() -> None:
    normaliser = ReturnNormaliser(0.9).updated(np.array([1.0, 2.0])).updated(np.array([5.0, 9.0]))
    changed = normaliser.with_decay(0.3)
    assert (changed.mean, changed.std) == pytest.approx((normaliser.mean, normaliser.std))
    assert changed.updated(np.array([100.0])).mean > normaliser.updated(np.array([100.0])).mean
    assert normaliser.with_decay(0.9) is normaliser
    assert ReturnNormaliser(0.9).with_decay(0.1).mean == 0.0


def test_before_the_first_round_nothing_is_changed() -> None:
    values = np.array([1.5, -2.0], dtype=np.float32)
    np.testing.assert_array_equal(ReturnNormaliser(0.9).normalise(values), values)


def test_equal_returns_are_not_blown_up() -> None:
    assert ReturnNormaliser(0.9).updated(np.ones(5)).normalise(np.array([1.001]))[0] == pytest.approx(0.1, abs=1e-4)


@pytest.mark.parametrize("returns", [[], [1.0, np.nan], [np.inf]])
def test_unusable_returns_are_refused(returns: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        ReturnNormaliser(0.9).updated(np.array(returns))


def test_state_survives_json_exactly() -> None:
    normaliser = ReturnNormaliser(0.9).updated(np.random.default_rng(1).normal(size=17)).updated(np.array([1 / 3]))
    assert ReturnNormaliser.from_json(json.loads(json.dumps(normaliser.to_json()))) == normaliser
    with pytest.raises(KeyError, match="first_moment"):
        ReturnNormaliser.from_json({"decay": 0.9, "num_updates": 1})


def test_popart_keeps_what_a_value_means() -> None:
    old = ReturnNormaliser(0.5).updated(np.array([0.0, 4.0]))
    new = old.updated(np.array([50.0, 70.0]))
    scale, shift = popart_correction(old, new)
    value = np.array([-1.0, 0.0, 2.0])
    np.testing.assert_allclose(new.denormalise(value * scale + shift), old.denormalise(value), rtol=1e-5)


def test_linear_schedule() -> None:
    assert [linear(1.0, 0.0, step=step, num_steps=4) for step in (0, 1, 4, 9)] == [1.0, 0.75, 0.0, 0.0]
    assert linear(1.0, 0.0, step=5, num_steps=0) == 1.0
