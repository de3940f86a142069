"""Scripted policies: always legal, deterministic, and each true to its rule."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from esper.leyline.actions import LifecycleOp
from esper.leyline.stages import SeedStage
from esper.tamiyo import FixedSchedule, Germination, GradientPolicy, HeuristicPolicy, HeuristicRules, RandomPolicy, WaitPolicy
from tests.tamiyo.reports import LIMITS, LifecycleTrial, make_report, make_seed

if TYPE_CHECKING:
    from esper.leyline.ports import ScriptedPolicy

PLAN = (Germination(epoch=4, slot=2, blueprint=5), Germination(epoch=0, slot=1, blueprint=1))
POLICIES: dict[str, ScriptedPolicy] = {
    "wait": WaitPolicy(),
    "random": RandomPolicy(),
    "heuristic": HeuristicPolicy((2, 30, 5)),
    "gradient": GradientPolicy(5),
    "fixed": FixedSchedule(PLAN),
}


def play(policy: ScriptedPolicy, *, seed: int = 0, contribution: float = 1.0) -> LifecycleTrial:
    trial = LifecycleTrial(np.random.default_rng(seed), contribution=contribution)
    policy.reset(np.random.default_rng(seed))
    report = trial.report
    while not report.done:
        report = trial.step(policy.decide(report))
    return trial


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("contribution", [-1.0, 0.2, 1.0])
def test_plays_whole_episodes_legally_and_the_same_way_twice(name: str, contribution: float) -> None:
    policy = POLICIES[name]
    assert policy.name == name
    for seed in range(4):
        first, second = (play(policy, seed=seed, contribution=contribution) for _ in range(2))
        assert len(first.actions) == first.max_epochs
        assert first.actions == second.actions


@pytest.mark.parametrize("name", POLICIES)
def test_waits_where_nothing_else_is_legal(name: str) -> None:
    policy = POLICIES[name]
    policy.reset(np.random.default_rng(0))
    report = make_report((make_seed(0), None, None), gates_open=False)
    assert report.masks.op[0].sum() == 1
    assert policy.decide(report).op is LifecycleOp.WAIT


def test_random_reaches_every_operation_and_every_legal_blueprint() -> None:
    actions = [a for seed in range(30) for a in play(POLICIES["random"], seed=seed).actions]
    assert {a.op for a in actions} == set(LifecycleOp)
    assert {a.blueprint for a in actions if a.op is LifecycleOp.GERMINATE} == set(LIMITS.blueprints)


def test_random_without_a_generator_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="reset"):
        RandomPolicy().decide(make_report())


def test_wait_only_waits() -> None:
    assert {a.op for a in play(WaitPolicy()).actions} == {LifecycleOp.WAIT}


def test_fixed_schedule_germinates_as_planned_and_keeps_everything() -> None:
    trial = play(FixedSchedule(PLAN))
    germinated = [(epoch, a.slot, a.blueprint) for epoch, a in enumerate(trial.actions) if a.op is LifecycleOp.GERMINATE]
    assert germinated == [(0, 1, 1), (4, 2, 5)]
    assert [s is not None and s.stage is SeedStage.FOSSILIZED for s in trial.seeds] == [False, True, True]


def test_fixed_schedule_waits_for_legality() -> None:
    crowded = FixedSchedule((Germination(0, 0, 1), Germination(0, 1, 1)))
    trial = play(crowded)
    epochs = [epoch for epoch, a in enumerate(trial.actions) if a.op is LifecycleOp.GERMINATE]
    assert epochs[0] == 0
    assert epochs[1] > 1
    assert FixedSchedule((Germination(0, 0, 30),)).decide(make_report()).op is LifecycleOp.WAIT


def test_gradient_policy_grows_where_the_gradient_is_largest() -> None:
    report = make_report()
    slots = tuple(replace(x, gradient_norm=g) for x, g in zip(report.slots, (0.1, 0.3, 0.2), strict=True))
    action = GradientPolicy(5).decide(replace(report, slots=slots))
    assert (action.op, action.slot, action.blueprint) == (LifecycleOp.GERMINATE, 1, 5)
    assert GradientPolicy(5).decide(report).op is LifecycleOp.WAIT
    assert GradientPolicy(30).decide(replace(report, slots=slots)).op is LifecycleOp.WAIT
    assert GradientPolicy(5, first_epoch=4).decide(replace(report, slots=slots)).op is LifecycleOp.WAIT


def test_heuristic_germinates_only_on_a_plateau() -> None:
    policy = HeuristicPolicy()
    policy.reset(np.random.default_rng(0))
    report = make_report()
    slots = tuple(replace(x, gradient_norm=g) for x, g in zip(report.slots, (0.1, 0.3, 0.2), strict=True))
    report = replace(report, slots=slots)
    rising = replace(report, signals=report.signals._replace(plateau_epochs=0))
    assert policy.decide(rising).op is LifecycleOp.WAIT
    assert policy.decide(replace(report, epoch=0)).op is LifecycleOp.WAIT
    chosen = [policy.decide(report) for _ in range(4)]
    assert {a.op for a in chosen} == {LifecycleOp.GERMINATE}
    assert {a.slot for a in chosen} == {1}
    assert [a.blueprint for a in chosen] == [1, 2, 5, 1]


def test_heuristic_rotates_through_what_the_topology_offers() -> None:
    policy = HeuristicPolicy((30, 5, 1))
    policy.reset(np.random.default_rng(0))
    assert [policy.decide(make_report()).blueprint for _ in range(3)] == [5, 1, 5]


@pytest.mark.parametrize(
    ("contribution", "epochs_in_stage", "expected"),
    [
        (0.6, 1, LifecycleOp.FOSSILIZE),
        (0.4, 1, LifecycleOp.WAIT),
        (0.4, 5, LifecycleOp.PRUNE),
        (-0.1, 1, LifecycleOp.PRUNE),
        (None, 5, LifecycleOp.WAIT),
    ],
)
def test_heuristic_judges_by_contribution(contribution: float | None, epochs_in_stage: int, expected: LifecycleOp) -> None:
    seed = make_seed(0, SeedStage.HOLDING, age_epochs=9, epochs_in_stage=epochs_in_stage, contribution=contribution)
    report = make_report((seed, None, None))
    quiet = replace(report, signals=report.signals._replace(plateau_epochs=0))
    policy = HeuristicPolicy()
    policy.reset(np.random.default_rng(0))
    assert policy.decide(quiet).op is expected


def test_heuristic_rests_after_a_pruning_and_avoids_what_failed() -> None:
    policy = HeuristicPolicy((1, 2), HeuristicRules(embargo_frac=0.0))
    cautious = HeuristicPolicy((1, 2), HeuristicRules(embargo_frac=0.5))
    harmful = make_seed(0, SeedStage.HOLDING, age_epochs=9, blueprint_place=1, contribution=-1.0)
    for each in (policy, cautious):
        each.reset(np.random.default_rng(0))
        assert each.decide(make_report((harmful, None, None))).op is LifecycleOp.PRUNE
    assert {policy.decide(make_report()).blueprint for _ in range(3)} == {2}
    assert {policy.decide(make_report(epoch=7)).blueprint for _ in range(3)} == {1, 2}
    assert cautious.decide(make_report()).op is LifecycleOp.WAIT
    assert cautious.decide(make_report(epoch=9)).op is LifecycleOp.GERMINATE
