from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.leyline.reports import EpisodeOutcome, StageTransition, TrialReport
from esper.leyline.schemas import GovernorVerdict, PanicReason
from esper.leyline.stages import SeedStage
from esper.simic.config import RewardConfig
from esper.simic.outcomes import episode_outcome, hypervolume, pareto_front, stability_score
from tests.simic.reports import make_report, make_seed


def ended(**values: object) -> TrialReport:
    seeds = (make_seed(0, stage=SeedStage.FOSSILIZED, contribution=3.0), make_seed(1, stage=SeedStage.FOSSILIZED, contribution=None))
    return make_report(*seeds, **({"done": True, "test_accuracy": 61.0} | values))


def outcome_of(*reports: TrialReport, rewards: tuple[float, ...] = (1.0, 2.0)) -> EpisodeOutcome:
    return episode_outcome(reports, rewards, context="texture/linear@1", split="eval", config=RewardConfig())


def make_outcome(accuracy: float, ratio: float, stability: float = 1.0) -> EpisodeOutcome:
    return replace(outcome_of(ended()), final_accuracy=accuracy, param_ratio=ratio, stability_score=stability)


def step(stage: SeedStage) -> StageTransition:
    return StageTransition("r0c0", 0, "seed0", "conv", SeedStage.DORMANT, stage, "policy", "", make_seed())


def test_an_episode_is_judged_by_what_was_kept_on_test_data() -> None:
    found = outcome_of(make_report(), make_report(), ended(val_accuracy=99.0, committed_accuracy=98.0))
    assert found.final_accuracy == 61.0
    assert found.param_ratio == 2.0
    assert found.utility == pytest.approx(61.0 - 5.0)
    assert found.num_fossilized == 2
    assert found.num_contributing_fossilized == 1
    assert found.kept == ("r0c0:conv", "r0c1:conv")
    assert found.episode_reward == 3.0
    assert found.episode_length == 2
    assert found.outcome_type == "completed"


def test_transitions_are_counted_over_the_whole_episode() -> None:
    reports = (
        make_report(transitions=(step(SeedStage.GERMINATED),)),
        make_report(transitions=(step(SeedStage.PRUNED), step(SeedStage.GERMINATED))),
        ended(transitions=(step(SeedStage.FOSSILIZED),)),
    )
    found = outcome_of(*reports)
    assert (found.germinate_count, found.prune_count, found.fossilize_count) == (2, 1, 1)


def test_a_rollback_is_told() -> None:
    assert outcome_of(ended(verdict=GovernorVerdict(PanicReason.DIVERGENCE, 9.0, 5.0, 3))).outcome_type == "rolled_back"


@pytest.mark.parametrize("last", [make_report(test_accuracy=1.0), make_report(done=True)])
def test_an_end_without_a_test_is_no_outcome(last: TrialReport) -> None:
    with pytest.raises(ValueError, match="env 0, episode 0"):
        outcome_of(last)


def test_stability_falls_with_variance() -> None:
    assert stability_score([2.0, 2.0, 2.0]) == 1.0
    assert stability_score([0.0, 2.0]) == 0.5
    assert stability_score([]) == 1.0


def test_the_front_holds_what_nothing_dominates() -> None:
    cheap, good, worse, twin = make_outcome(50, 1.0), make_outcome(80, 1.5), make_outcome(70, 1.6), make_outcome(80, 1.5)
    steady = make_outcome(70, 1.6, stability=2.0)
    assert pareto_front([cheap, good, worse, twin]) == (cheap, good, twin)
    assert pareto_front([good, steady]) == (good, steady)
    assert pareto_front([]) == ()


def test_hypervolume_of_a_staircase() -> None:
    outcomes = [make_outcome(80, 1.5), make_outcome(60, 1.0), make_outcome(50, 1.8)]
    assert hypervolume(outcomes, min_accuracy=40.0) == pytest.approx(40 * 0.5 + 20 * 0.5)
    assert hypervolume([make_outcome(30, 1.0), make_outcome(90, 2.5)], min_accuracy=40.0) == 0.0


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 100), st.floats(1, 3)), min_size=1, max_size=8), st.integers(0, 2**31))
def test_hypervolume_is_the_dominated_area(points: list[tuple[float, float]], seed: int) -> None:
    samples = np.random.default_rng(seed).uniform((0.0, 1.0), (100.0, 2.0), (4000, 2))
    dominated = np.any([(samples[:, 0] <= a) & (samples[:, 1] >= r) for a, r in points], axis=0)
    area = hypervolume([make_outcome(a, r) for a, r in points], min_accuracy=0.0)
    assert area == pytest.approx(100.0 * dominated.mean(), abs=4.0)
