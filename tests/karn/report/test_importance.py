from __future__ import annotations

import numpy as np

from esper.karn.report.importance import estimate_importance, trials_needed

KEYS = ("strong", "weak", "none")


def test_what_moves_the_score_is_found_in_order() -> None:
    rng = np.random.default_rng(0)
    positions = rng.random((60, 3))
    scores = 10.0 * positions[:, 0] + 3.0 * positions[:, 1] + 0.1 * rng.normal(size=60)
    report = estimate_importance(KEYS, positions, scores)
    assert [one.key for one in report.importances] == list(KEYS)
    assert report.is_trustworthy
    assert report.importances[0].value > 3 * report.importances[1].value
    assert abs(report.importances[2].value) < 0.1


def test_noise_is_called_noise() -> None:
    rng = np.random.default_rng(1)
    report = estimate_importance(KEYS, rng.random((40, 3)), rng.normal(size=40))
    assert not report.is_trustworthy
    assert report.reason is None


def test_too_few_trials_give_a_reason_instead_of_numbers() -> None:
    assert trials_needed(2) == 10
    assert trials_needed(5) == 15
    report = estimate_importance(KEYS, np.zeros((9, 3)), np.arange(9.0))
    assert report.importances == ()
    assert report.reason == "9 trials are too few; 10 are needed for 3 parameters"


def test_equal_scores_give_a_reason() -> None:
    report = estimate_importance(KEYS, np.random.default_rng(0).random((20, 3)), np.ones(20))
    assert report.reason == "all trials have the same score"
