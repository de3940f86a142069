from __future__ import annotations

import numpy as np
import pytest

from esper.simic.comparison import Estimate, ScoreTable, compare, iqm, probability_of_improvement, stratified_resample, summarise


def table(scores: np.ndarray) -> ScoreTable:
    policies = tuple("abc"[: scores.shape[0]])
    return ScoreTable(policies, tuple(f"context{i}" for i in range(scores.shape[1])), scores)


def bounds(estimate: Estimate) -> tuple[float, float]:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low, estimate.high


def test_iqm_is_the_mean_of_the_middle_half() -> None:
    assert iqm(np.array([-1000.0, 1.0, 2.0, 1e9])) == 1.5
    assert iqm(np.array([[1.0, 2.0], [3.0, 4.0]])) == 2.5
    assert iqm(np.array([7.0])) == 7.0


def test_probability_of_improvement_of_known_runs() -> None:
    low, high = np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])
    assert probability_of_improvement(high, low) == 1.0
    assert probability_of_improvement(low, high) == 0.0
    assert probability_of_improvement(low, low) == 0.5
    assert probability_of_improvement(np.array([[1.0, 3.0]]), np.array([[2.0, 2.0]])) == 0.5


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    offsets = np.array([0.0, 50.0, -20.0])[:, None]
    covered = 0
    for _ in range(120):
        scores = rng.normal(10.0, 4.0, (1, 3, 20)) + offsets
        (summary,) = summarise(table(scores), rng, num_resamples=200)
        low, high = bounds(summary.mean)
        covered += low <= 20.0 <= high
    assert 0.87 <= covered / 120 <= 0.99


def test_contexts_are_strata_so_their_differences_are_no_noise() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(0.0, 1.0, (1, 4, 25)) + np.array([0.0, 100.0, 200.0, 300.0])[:, None]
    (summary,) = summarise(table(scores), rng)
    low, high = bounds(summary.mean)
    assert high - low < 1.0
    assert low <= summary.mean.value <= high
    assert summary.by_context["context2"] == pytest.approx(200.0, abs=1.0)


def test_pairing_finds_a_small_difference_under_common_noise() -> None:
    rng = np.random.default_rng(2)
    common = rng.normal(0.0, 20.0, (3, 20))
    scores = np.stack([common + 1.0 + rng.normal(0.0, 0.5, (3, 20)), common])
    found = compare(table(scores), "a", "b", rng=rng)
    assert found.is_significant
    low, high = bounds(found.difference)
    assert low < 1.0 < high
    assert high - low < 1.0
    assert 0.4 < found.probability_of_improvement.value < 0.6


def test_one_seed_per_context_gives_no_interval() -> None:
    scores = table(np.array([[[9.0], [8.0]], [[1.0], [2.0]]]))
    (summary, _), found = summarise(scores, np.random.default_rng(0)), compare(scores, "a", "b", rng=np.random.default_rng(0))
    assert (summary.mean.value, summary.mean.low, summary.mean.high) == (8.5, None, None)
    assert (found.difference.value, found.difference.low, found.difference.high) == (7.0, None, None)
    assert not found.is_significant


def test_a_policy_against_itself_differs_by_nothing() -> None:
    scores = np.random.default_rng(3).normal(size=(1, 2, 5)).repeat(2, axis=0)
    found = compare(table(scores), "a", "b", rng=np.random.default_rng(0), num_resamples=50)
    assert (found.difference.low, found.difference.value, found.difference.high) == (0.0, 0.0, 0.0)
    assert not found.is_significant
    assert found.probability_of_improvement.value == 0.5


def test_resampling_keeps_pairs_and_contexts_together() -> None:
    scores = np.arange(40.0).reshape(1, 4, 10)
    drawn = stratified_resample(np.concatenate([scores, scores + 0.5]), np.random.default_rng(0))
    np.testing.assert_array_equal(drawn[1] - drawn[0], np.full((4, 10), 0.5))
    for context in range(4):
        assert set(drawn[0, context]) <= set(scores[0, context])


def test_intervals_depend_on_the_generator_alone() -> None:
    scores = np.random.default_rng(4).normal(size=(2, 3, 8))
    once, again = (summarise(table(scores), np.random.default_rng(5), num_resamples=100) for _ in range(2))
    assert once == again


def test_tables_from_nested_scores() -> None:
    found = ScoreTable.from_scores({"x": {"c": [1.0, 2.0], "d": [3.0, 4.0]}, "y": {"c": [5.0, 6.0], "d": [7.0, 8.0]}})
    assert found.of("y").tolist() == [[5.0, 6.0], [7.0, 8.0]]
    with pytest.raises(KeyError, match="there are x, y"):
        found.of("z")


@pytest.mark.parametrize(
    "scores",
    [
        {},
        {"x": {}},
        {"x": {"c": [1.0]}, "y": {"d": [1.0]}},
        {"x": {"c": [1.0]}, "y": {"c": [1.0, 2.0]}},
        {"x": {"c": [1.0], "d": [1.0, 2.0]}},
        {"x": {"c": [float("nan")]}},
        {"x": {"c": []}},
    ],
)
def test_scores_that_do_not_pair_are_refused(scores: dict[str, dict[str, list[float]]]) -> None:
    with pytest.raises(ValueError, match="score"):
        ScoreTable.from_scores(scores)
