from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.kasmina.lifecycle import IllegalActionError
from esper.leyline.actions import FULL_ALPHA_TARGET, BlendStyle, FactoredAction, LifecycleOp
from esper.leyline.masks import explain_illegal
from esper.leyline.rng import SeedTree
from esper.leyline.schemas import PanicReason
from esper.leyline.stages import SeedStage
from esper.tamiyo.baselines import RandomPolicy
from esper.tolaria import GovernorConfig, OneByOne, Trial, TrialBatch
from tests.tolaria.trials import (
    CATALOGUE,
    accuracy,
    act,
    are_equal,
    data_of,
    make_request,
    make_trial,
    raise_to_holding,
    reports_agree,
    weights,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from esper.leyline.reports import TrialReport

MAX_EPOCHS = 16
WAIT = FactoredAction()
WITH_MODULE = {SeedStage.GERMINATED, SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.HOLDING, SeedStage.FOSSILIZED}
CALM = tuple(op for op in LifecycleOp if op is not LifecycleOp.SET_ALPHA_TARGET)
GATELESS = (BlendStyle.LINEAR_ADD, BlendStyle.LINEAR_MULTIPLY, BlendStyle.SIGMOID_ADD)


def life(trial: Trial, seed: int) -> Iterator[tuple[FactoredAction | None, TrialReport]]:
    """A whole episode: every action and the report that followed it.

    Actions are drawn among the legal ones, but seeds are blended in fully, seldom pruned, and kept as soon as they may be.
    """
    policy, rng, report = RandomPolicy(), SeedTree(seed).numpy(), trial.reset()
    policy.reset(rng)
    yield None, report
    while not report.done:
        action = policy.decide(report)._replace(alpha_target=FULL_ALPHA_TARGET)
        if report.masks.op[0, LifecycleOp.FOSSILIZE]:
            action = act(LifecycleOp.FOSSILIZE, int(rng.choice(np.flatnonzero(report.masks.slot[0, LifecycleOp.FOSSILIZE]))))
        elif action.op is LifecycleOp.PRUNE and rng.random() < 0.7:
            action = WAIT
        report = trial.step(action)
        yield action, report


def make_life(seed: int, **growth: Any) -> Trial:
    return make_trial(make_request(seed), max_epochs=MAX_EPOCHS, auto_advance=True, ops=CALM, **growth)


def fossils_of(report: TrialReport) -> set[int]:
    return {i for i, slot in enumerate(report.slots) if slot.seed is not None and slot.seed.stage is SeedStage.FOSSILIZED}


@torch.no_grad()
def poison(trial: Trial, value: float = math.nan) -> None:
    next(trial.model.get_submodule("host").parameters()).fill_(value)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_episode_keeps_its_promises(seed: int) -> None:
    trial = make_life(seed, styles=GATELESS)
    data, fossils = data_of(trial), set[int]()
    for epoch, (action, report) in enumerate(life(trial, seed)):
        assert report is trial.report
        assert (report.env_id, report.episode_idx, report.epoch, report.max_epochs) == (0, 3, epoch, MAX_EPOCHS)
        assert report.done is (epoch == MAX_EPOCHS)
        assert report.signals.epoch == epoch
        now = fossils_of(report)
        assert now - fossils == ({action.slot} if action is not None and action.op is LifecycleOp.FOSSILIZE else set())
        assert fossils <= now
        fossils = now
        assert report.num_fossils == len(fossils)
        assert report.committed_accuracy == pytest.approx(accuracy(trial.model, data.val_x, data.val_y, sorted(fossils)))
        grown = [slot for slot in report.slots if slot.seed is not None and slot.seed.stage in WITH_MODULE]
        costs = {
            slot.slot_id: CATALOGUE.spec(slot.seed.blueprint_id, "cnn", slot.channels, slot.positions).num_parameters
            for slot in grown
            if slot.seed is not None
        }
        assert report.seed_params == sum(costs.values())
        assert report.fossil_params == sum(costs[report.slots[i].slot_id] for i in fossils)
        assert report.host_params == sum(p.numel() for p in trial.model.get_submodule("host").parameters())
        assert (report.test_accuracy is not None) is report.done
    assert report.test_accuracy == pytest.approx(accuracy(trial.model, data.test_x, data.test_y, sorted(fossils)))
    with pytest.raises(RuntimeError, match=f"ended at epoch {MAX_EPOCHS}"):
        trial.step(WAIT)
    assert trial.report is report


def test_random_lives_reach_every_stage_that_the_contract_test_judges() -> None:
    reached = {t.to_stage for seed in (0, 1, 2) for _, report in life(make_life(seed, styles=GATELESS), seed) for t in report.transitions}
    assert reached >= WITH_MODULE | {SeedStage.PRUNED}


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_request_is_the_same_episode(seed: int) -> None:
    first, again = (list(life(make_life(seed), seed)) for _ in range(2))
    assert all(reports_agree(a, b) for (_, a), (_, b) in zip(first, again, strict=True))


def test_another_request_is_another_episode() -> None:
    first, other = (make_trial(make_request(seed)).reset() for seed in (0, 1))
    assert not reports_agree(first, other)


def test_before_the_first_epoch_only_the_host_is_known() -> None:
    trial = make_trial()
    with pytest.raises(RuntimeError, match="reset"):
        _ = trial.report
    report, data = trial.reset(), data_of(trial)
    assert (report.epoch, report.seed_params, report.done) == (0, 0, False)
    assert (report.train_loss, report.gradient_norm, report.counterfactuals, report.verdict, report.test_accuracy) == (None,) * 5
    assert report.val_accuracy == report.committed_accuracy == pytest.approx(accuracy(trial.model, data.val_x, data.val_y, ()))
    assert not explain_illegal(act(LifecycleOp.GERMINATE), report.masks)


def test_an_episode_begins_once() -> None:
    trial = make_trial()
    report = trial.reset()
    with pytest.raises(RuntimeError, match="has begun"):
        trial.reset()
    assert trial.report is report


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**32))
def test_masks_say_exactly_what_a_step_accepts(seed: int) -> None:
    rng, trial, twin = SeedTree(seed).numpy(), make_trial(max_epochs=8), make_trial(max_epochs=8)
    report = trial.reset()
    twin.reset()
    sizes = (len(report.slots) + 1, 32, len(BlendStyle), 3, 3, 4, 6, len(LifecycleOp))
    while not report.done:
        action = FactoredAction.from_row([int(rng.integers(size)) for size in sizes])
        if explain_illegal(action, report.masks) is None:
            report, shadow = trial.step(action), twin.step(action)
            assert reports_agree(report, shadow)
            continue
        with pytest.raises(IllegalActionError):
            trial.step(action)
        assert trial.report is report
        for op in LifecycleOp:
            for slot in np.flatnonzero(~(report.masks.op[0, op] & report.masks.slot[0, op])).tolist():
                with pytest.raises(IllegalActionError):
                    trial.step(act(op, slot))


def test_an_illegal_action_changes_nothing() -> None:
    trial = make_trial()
    trial.reset()
    raise_to_holding(trial, 0)
    report, before = trial.report, weights(trial.model)
    seeds, masks = trial.model.seed_reports(), trial.model.masks()
    for action in (
        act(LifecycleOp.GERMINATE, 0),
        act(LifecycleOp.ADVANCE, 1),
        act(LifecycleOp.PRUNE, 99),
        act(LifecycleOp.GERMINATE, 1, blueprint=31),
    ):
        with pytest.raises(IllegalActionError):
            trial.step(action)
    assert trial.report is report
    assert are_equal(before, weights(trial.model))
    assert trial.model.seed_reports() == seeds
    assert np.array_equal(trial.model.masks().slot, masks.slot)


def test_a_report_measures_what_the_slots_add() -> None:
    trial = make_trial()
    trial.reset()
    report, data = raise_to_holding(trial, 0), data_of(trial)
    table, seed = report.counterfactuals, report.slots[0].seed
    assert table is not None
    assert seed is not None
    assert set(table.configurations) == {(0,), ()}
    for slots_on, value in zip(table.configurations, table.accuracies, strict=True):
        assert value == pytest.approx(accuracy(trial.model, data.val_x, data.val_y, slots_on))
    assert seed.metrics.contribution == pytest.approx(report.val_accuracy - table.accuracy_of(()))
    assert report.committed_accuracy == table.accuracy_of(())


def test_layers_and_slots_are_measured_in_their_order() -> None:
    trial = make_trial()
    trial.reset()
    report = trial.step(WAIT)
    assert [layer.spec for layer in report.layers] == list(trial.model.host.layer_specs())
    assert [slot.slot_id for slot in report.slots] == [spec.slot_id for spec in trial.model.specs]
    assert all(layer.weight_norm is not None and layer.weight_norm > 0.0 for layer in report.layers)
    assert all(slot.gradient_norm is not None and slot.gradient_norm > 0.0 for slot in report.slots)


def test_a_rollback_restores_the_host_and_keeps_fossils_only() -> None:
    trial = make_trial(max_epochs=30)
    trial.reset()
    raise_to_holding(trial, 0)
    trial.step(act(LifecycleOp.FOSSILIZE, 0))
    raise_to_holding(trial, 1)
    trial.step(act(LifecycleOp.GERMINATE, 2))
    host, fossil = weights(trial.model.get_submodule("host")), weights(trial.model.slots[0])
    poison(trial)
    report, data = trial.step(WAIT), data_of(trial)
    assert report.verdict is not None
    assert report.verdict.panic is PanicReason.NAN
    assert report.done
    assert are_equal(weights(trial.model.get_submodule("host")), host)
    assert are_equal(weights(trial.model.slots[0]), fossil)
    assert fossils_of(report) == {0}
    assert {(t.slot_index, t.to_stage, t.initiator) for t in report.transitions} == {(i, SeedStage.PRUNED, "governor") for i in (1, 2)}
    assert report.seed_params == report.fossil_params > 0
    assert report.counterfactuals is None
    assert report.val_accuracy == report.committed_accuracy == pytest.approx(accuracy(trial.model, data.val_x, data.val_y, [0]))
    assert report.test_accuracy == pytest.approx(accuracy(trial.model, data.test_x, data.test_y, [0]))
    assert math.isfinite(report.val_loss)
    with pytest.raises(RuntimeError, match="ended"):
        trial.step(WAIT)


def test_a_seed_that_became_permanent_in_the_bad_epoch_is_kept_whole() -> None:
    trial = make_trial(max_epochs=30)
    trial.reset()
    raise_to_holding(trial, 0)
    host, seed = weights(trial.model.get_submodule("host")), weights(trial.model.slots[0])
    poison(trial)
    report = trial.step(act(LifecycleOp.FOSSILIZE, 0))
    assert report.verdict is not None
    assert report.verdict.panic is PanicReason.NAN
    assert fossils_of(report) == {0}
    assert are_equal(weights(trial.model.get_submodule("host")), host)
    assert are_equal(weights(trial.model.slots[0]), seed)


def test_divergence_returns_to_the_weights_before_the_first_anomaly() -> None:
    governor = GovernorConfig(window_epochs=4, min_history_epochs=2, divergence_patience_epochs=2)
    trial = make_trial(governor=governor)
    trial.reset()
    for _ in range(3):
        trial.step(WAIT)
    healthy = weights(trial.model.get_submodule("host"))
    poison(trial, 1e4)
    anomalous = trial.step(WAIT)
    assert anomalous.verdict is not None
    assert (anomalous.verdict.panic, anomalous.verdict.is_healthy, anomalous.done) == (None, False, False)
    report = trial.step(WAIT)
    assert report.verdict is not None
    assert (report.verdict.panic, report.done) == (PanicReason.DIVERGENCE, True)
    assert report.val_loss < 12.0 < report.verdict.loss
    assert are_equal(weights(trial.model.get_submodule("host")), healthy)


def test_trials_in_lockstep_are_the_trials_alone() -> None:
    requests = [make_request(0, env_id=env_id) for env_id in (0, 1)]
    batch, alone = (
        TrialBatch(lambda request: make_trial(request, max_epochs=4), OneByOne()),
        [make_trial(r, max_epochs=4) for r in requests],
    )
    together, single = batch.start(requests), [trial.reset() for trial in alone]
    while not all(report.done for report in together):
        assert all(reports_agree(a, b) for a, b in zip(together, single, strict=True))
        together, single = batch.step([WAIT, WAIT]), [trial.step(WAIT) for trial in alone]
    assert [trial.request for trial in batch.trials] == requests
    assert [report.env_id for report in together] == [0, 1]


def test_a_trial_that_ended_early_keeps_its_report() -> None:
    batch = TrialBatch(lambda request: make_trial(request, max_epochs=4), OneByOne())
    batch.start([make_request(0, env_id=env_id) for env_id in (0, 1)])
    poison(batch.trials[0])
    ended, running = batch.step([WAIT, WAIT])
    assert (ended.done, running.done) == (True, False)
    while not running.done:
        kept, running = batch.step([act(LifecycleOp.PRUNE, 99), WAIT])
        assert kept is ended
    assert running.epoch == 4


def test_a_batch_wants_one_action_a_trial() -> None:
    batch = TrialBatch(make_trial, OneByOne())
    batch.start([make_request()])
    with pytest.raises(ValueError, match="2 actions for 1 trials"):
        batch.step([WAIT, WAIT])


def test_a_batch_starts_afresh() -> None:
    batch = TrialBatch(lambda request: make_trial(request, max_epochs=2), OneByOne())
    (first,) = batch.start([make_request()])
    batch.step([WAIT])
    (again,) = batch.start([replace(make_request())])
    assert reports_agree(first, again)
