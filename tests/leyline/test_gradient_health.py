"""Where gradients vanish and explode."""

from __future__ import annotations

import math

import pytest

from esper.leyline.gradient_health import gradient_health, is_exploding, is_vanishing, norm_share


@pytest.mark.parametrize(
    ("norm", "vanishes", "explodes", "health"),
    [
        (0.0, True, False, 0.5),
        (9.9e-8, True, False, 0.5),
        (1e-7, False, False, 1.0),
        (10.0, False, False, 1.0),
        (10.1, False, True, 0.2),
        (math.inf, False, True, 0.2),
        (math.nan, False, True, 0.2),
    ],
)
def test_one_gradient_is_well_or_vanishes_or_explodes(norm: float, vanishes: bool, explodes: bool, health: float) -> None:
    assert (is_vanishing(norm), is_exploding(norm)) == (vanishes, explodes)
    assert gradient_health([norm]) == pytest.approx(health)


def test_health_is_the_mean_over_gradients() -> None:
    norms = [0.0, 1.0, 11.0, math.nan, 1.0]
    assert gradient_health(norms) == pytest.approx(sum(gradient_health([norm]) for norm in norms) / len(norms))


def test_shares_end_where_gradients_explode() -> None:
    assert [norm_share(norm) for norm in (0.0, 5.0, 10.0, 1e9, math.inf, math.nan)] == [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]
