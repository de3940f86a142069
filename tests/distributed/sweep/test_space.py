from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.distributed.sweep.space import nested, parse_space
from esper.leyline.load import ConfigError

SPEC: dict[str, Any] = {
    "ppo.learning_rate": {"loguniform": [1e-4, 1e-2]},
    "ppo.epochs": {"randint": [2, 5]},
    "ppo.gae_lambda": {"uniform": [0.8, 1.0]},
    "reward.mode": {"choice": ["utility", "shaped"]},
    "reward.pbrs_weight": {"uniform": [0.0, 0.6], "when": {"reward.mode": "shaped"}},
}
SPACE = parse_space(SPEC)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0))
def test_every_point_drawn_or_explored_lies_in_the_space(seed: int, resample_frac: float) -> None:
    rng = np.random.default_rng(seed)
    point = SPACE.draw(rng)
    for _ in range(10):
        assert 1e-4 <= point["ppo.learning_rate"] <= 1e-2
        assert point["ppo.epochs"] in {2, 3, 4, 5}
        assert type(point["ppo.epochs"]) is int
        assert 0.8 <= point["ppo.gae_lambda"] <= 1.0
        assert ("reward.pbrs_weight" in point) == (point["reward.mode"] == "shaped")
        point = SPACE.explore(point, rng, resample_frac=resample_frac)


def test_the_same_seed_draws_the_same_points() -> None:
    first, again = ([SPACE.draw(rng) for _ in range(5)] for rng in (np.random.default_rng(3), np.random.default_rng(3)))
    assert first == again
    assert first != [SPACE.draw(np.random.default_rng(4)) for _ in range(5)]


def test_both_ends_of_a_whole_range_are_drawn() -> None:
    rng = np.random.default_rng(0)
    assert {SPACE.draw(rng)["ppo.epochs"] for _ in range(100)} == {2, 3, 4, 5}


def test_logarithmic_draws_are_even_over_the_decades() -> None:
    rng = np.random.default_rng(0)
    logs = [math.log10(SPACE.draw(rng)["ppo.learning_rate"]) for _ in range(500)]
    assert np.mean(logs) == pytest.approx(-3.0, abs=0.1)


def test_exploring_without_new_draws_moves_every_value_a_little() -> None:
    point = {"ppo.learning_rate": 1e-3, "ppo.epochs": 3, "ppo.gae_lambda": 0.9, "reward.mode": "utility"}
    found = SPACE.explore(point, np.random.default_rng(0), resample_frac=0.0)
    assert found["ppo.learning_rate"] in (pytest.approx(0.8e-3), pytest.approx(1.25e-3))
    assert found["ppo.epochs"] in (2, 4)
    assert found["ppo.gae_lambda"] in (0.8, 1.0)


def test_dotted_settings_become_nested() -> None:
    assert nested({"a.b": 1, "a.c.d": 2, "e": 3}) == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "space is empty"),
        ({"x": 3}, "space.x=3 should name a distribution"),
        ({"x": {"normal": [0, 1]}}, "'normal' is no distribution; there are uniform, loguniform, randint, choice"),
        ({"x": {"uniform": [0, 1], "choice": [1, 2]}}, "exactly one of"),
        ({"x": {"when": {}}}, "exactly one of uniform, loguniform, randint, choice, got none"),
        ({"x": {"uniform": "0,1"}}, "should be a list"),
        ({"x": {"uniform": [0, 1, 2]}}, "should have two numbers"),
        ({"x": {"uniform": [1, 0]}}, "lower end should be below"),
        ({"x": {"uniform": ["a", 1]}}, "'a' should be a finite number"),
        ({"x": {"loguniform": [0, 1]}}, "above 0"),
        ({"x": {"randint": [1, 2.5]}}, "whole numbers"),
        ({"x": {"choice": [1]}}, "two or more different options"),
        ({"x": {"choice": [1, 1]}}, "two or more different options"),
        ({"x": {"choice": [1, 2], "when": {"y": 1}}}, "'y' is not a parameter that stands before x"),
        ({"y": {"uniform": [0, 1]}, "x": {"choice": [1, 2], "when": {"y": 1}}}, "y should be a choice, it is uniform"),
        ({"y": {"choice": ["a", "b"]}, "x": {"choice": [1, 2], "when": {"y": "c"}}}, "y='c' never holds; its options are ['a', 'b']"),
    ],
)
def test_a_wrong_space_is_refused_by_name(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_space(spec)


def test_numbers_that_yaml_reads_as_text_are_numbers() -> None:
    assert parse_space({"x": {"loguniform": ["1e-4", "1e-2"]}}).parameters[0].values == (1e-4, 1e-2)
