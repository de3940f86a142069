"""Running statistics: the textbook formula, scores, persistence, and a batch that measured nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from benchmarks.blueprint_priors import parameter_count_prior
from esper.leyline.reports import EpochTimings
from esper.tamiyo import GraphBuilder
from esper.tamiyo.features import METRICS
from esper.tamiyo.graph_spec import METRIC_CHANNELS, METRIC_MASKS
from esper.tamiyo.norms import (
    EWMA_WEIGHT,
    METRIC_PRIORS,
    PARAMETER_COUNT,
    SCORE_LIMIT,
    FeatureNorms,
    MetricNormalisation,
    NormsError,
    Prior,
    observed_metrics,
)
from tests.tamiyo.reports import LIMITS, STEPS_PER_EPOCH, make_report

if TYPE_CHECKING:
    from esper.leyline.graph import GraphBatch


def batch_of(*losses: float | None) -> GraphBatch:
    reports = [make_report(num_layers=2 + i, train_loss=loss, gradient_norm=1.0) for i, loss in enumerate(losses)]
    return GraphBuilder(LIMITS, steps_per_epoch=STEPS_PER_EPOCH).build(reports)


def test_the_priors_are_the_start() -> None:
    norms = FeatureNorms()
    assert dict(zip(METRICS, norms.mean, strict=True)) == {name: mean for name, (mean, _) in METRIC_PRIORS.items()}
    np.testing.assert_allclose(np.sqrt(norms.var), [std for _, std in METRIC_PRIORS.values()])


def test_one_observation_at_a_time_is_the_recursive_formula() -> None:
    norms, mean, var = FeatureNorms(), 0.8, 0.3**2
    for x in (0.9, 0.5, 1.1, 0.7):
        norms = norms.updated(np.array([[x, np.nan, np.nan, np.nan]]))
        mean, var = (1 - EWMA_WEIGHT) * mean + EWMA_WEIGHT * x, (1 - EWMA_WEIGHT) * (var + EWMA_WEIGHT * (x - mean) ** 2)
        assert norms.mean[0] == pytest.approx(mean)
        assert norms.var[0] == pytest.approx(var)
    assert norms.mean[1:] == FeatureNorms().mean[1:]
    assert norms.var[1:] == FeatureNorms().var[1:]


def test_statistics_find_a_level_far_from_the_prior_and_survive_an_outlier() -> None:
    rng = np.random.default_rng(0)
    norms = FeatureNorms()
    for _ in range(150):
        column = rng.normal(2e6, 1e4, size=(16, 1))
        norms = norms.updated(np.concatenate([np.full((16, 2), np.nan), column, np.full((16, 1), np.nan)], axis=1))
    assert norms.mean[2] == pytest.approx(2e6, rel=0.01)
    assert np.sqrt(norms.var[2]) == pytest.approx(1e4, rel=0.5)
    shaken = norms.updated(np.array([[np.nan, np.nan, 1e30, np.nan]]))
    assert abs(shaken.mean[2] - norms.mean[2]) < np.sqrt(norms.var[2])


def test_nothing_measured_changes_nothing() -> None:
    norms = FeatureNorms()
    assert norms.updated(np.full((3, 4), np.nan)) == norms
    assert norms.updated(np.zeros((0, 4))) == norms


def test_every_graph_counts_once_whatever_its_layers() -> None:
    np.testing.assert_array_equal(
        observed_metrics(batch_of(1.0, None, 3.0)),
        [[1.0, 1.0, np.nan, np.nan], [np.nan, 1.0, np.nan, np.nan], [3.0, 1.0, np.nan, np.nan]],
    )


def test_layers_get_scores_and_keep_the_rest() -> None:
    batch = batch_of(1.1, 1e6, None)
    x = torch.from_numpy(batch.nodes["layer"])
    out = MetricNormalisation()(x)
    scores = out[:, METRIC_CHANNELS]
    first = [0, 2, 5]
    torch.testing.assert_close(scores[first, 0], torch.tensor([1.0 / SCORE_LIMIT, 1.0, 0.0]), atol=1e-4, rtol=0)
    assert not scores[:, 2:].any()
    others = [i for i in range(x.shape[1]) if not METRIC_CHANNELS.start <= i < METRIC_CHANNELS.stop]
    torch.testing.assert_close(out[:, others], x[:, others])
    assert x[first[1], METRIC_CHANNELS.start] == 1e6
    assert x[first[2], METRIC_MASKS.start] == 0


def test_statistics_travel_with_the_weights() -> None:
    module = MetricNormalisation()
    module.update(batch_of(2.0, 2.5))
    again = MetricNormalisation()
    again.load_state_dict(module.state_dict())
    assert again.norms == module.norms != MetricNormalisation().norms
    assert not list(module.parameters())


def test_the_module_learns_what_the_formula_says() -> None:
    module, batch = MetricNormalisation(), batch_of(0.9, 1.0)
    expected = module.norms.updated(observed_metrics(batch))
    module.update(batch)
    np.testing.assert_allclose(module.norms.mean, expected.mean, rtol=1e-6)
    np.testing.assert_allclose(module.norms.var, expected.var, rtol=1e-6)


def test_norms_survive_json() -> None:
    norms = FeatureNorms().updated(np.array([[0.3, 2.0, 6000.0, 3.0]]))
    assert FeatureNorms.from_json(norms.to_json()) == norms


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"version": 1, "metrics": {"step_loss": {}}})])
def test_what_is_no_norms_file_is_refused(text: str) -> None:
    with pytest.raises(NormsError, match="norms should be JSON"):
        FeatureNorms.from_json(text)


def test_statistics_that_cannot_divide_are_refused() -> None:
    with pytest.raises(NormsError, match="version 2"):
        FeatureNorms.from_json(FeatureNorms().to_json().replace('"version": 1', '"version": 2'))
    with pytest.raises(NormsError, match="var="):
        FeatureNorms(var=(-1.0, 1.0, 1.0, 1.0))
    with pytest.raises(NormsError, match="mean="):
        FeatureNorms(mean=(float("nan"), 1.0, 1.0, 1.0))


def test_scores_by_a_prior_are_clipped_and_keep_what_is_unknown() -> None:
    scores = Prior(1.0, 0.5, is_log=True).score(np.array([np.e - 1.0, 1e30, np.nan]))
    np.testing.assert_allclose(scores, [0.0, 1.0, np.nan], atol=1e-12)


def test_the_prior_of_parameter_counts_is_that_of_the_catalogue() -> None:
    mean, std = parameter_count_prior()
    assert (PARAMETER_COUNT.mean, PARAMETER_COUNT.std) == (round(mean, 2), round(std, 2))


def test_wall_clock_metrics_come_from_packets_only() -> None:
    told = make_report(timings=EpochTimings(1.0, 1.0, samples_per_s=4000.0, hook_latency_ms=3.0))
    batch = GraphBuilder(LIMITS, steps_per_epoch=STEPS_PER_EPOCH).build([told])
    np.testing.assert_array_equal(observed_metrics(batch)[0, 2:], [4000.0, 3.0])
