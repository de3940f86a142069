from __future__ import annotations

import pickle
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.kasmina.config import GrowthConfig, growth_limits
from esper.kasmina.lifecycle import IllegalActionError, LifecycleContext, apply_action, legal_actions, prune_all, tick
from esper.kasmina.seed_state import GradientReading, SeedState, SlotStates, record_gradients
from esper.leyline.actions import (
    ALPHA_SPEED_EPOCHS,
    ALPHA_TARGETS,
    CAUSAL_MASK,
    HEAD_SIZES,
    TEMPO_EPOCHS,
    WAIT,
    BlendStyle,
    FactoredAction,
    Head,
    LifecycleOp,
)
from esper.leyline.alpha import AlphaCurve, AlphaMode, BlendOperator
from esper.leyline.host import InjectionSpec
from esper.leyline.stages import DEVELOPING_STAGES, VALID_TRANSITIONS, SeedStage
from tests.fakes.catalogue import PLACES, FakeCatalogue

if TYPE_CHECKING:
    from esper.leyline.masks import ActionMasks
    from esper.leyline.reports import StageTransition

SPECS = tuple(InjectionSpec(f"r0c{i}", 4, 16, segment=i) for i in range(3))
FREE: SlotStates = (None, None, None)
EAGER: dict[str, Any] = {"min_training_epochs": 0, "min_prune_age_epochs": 0}
HEALTHY = GradientReading(0.5, 1.0, has_vanishing=False, has_exploding=False, ratio=0.5)


def context(epoch: int = 0, val_accuracy: float = 50.0, **config: Any) -> LifecycleContext:
    growth = GrowthConfig(**{**EAGER, **config})
    catalogue = FakeCatalogue()
    limits = growth_limits(growth, catalogue, "cnn")
    return LifecycleContext(growth, limits, catalogue, "cnn", SPECS, epoch, val_accuracy)


def act(op: LifecycleOp, slot: int = 0, **heads: Any) -> FactoredAction:
    return FactoredAction(op=op, slot=slot, **heads)


def end_epoch(slots: SlotStates, now: LifecycleContext, contribution: float | None = 2.0) -> tuple[SlotStates, tuple[StageTransition, ...]]:
    measured = record_gradients(slots, [HEALTHY] * len(slots))
    return tick(measured, now, contributions={} if contribution is None else dict.fromkeys(range(3), contribution), solo={0: 1.5})


def seed_in(stage: SeedStage, **config: Any) -> SeedState:
    """A seed in slot 0, led to `stage` by the state machine itself."""
    now = context(**config)
    slots, _ = apply_action(FREE, act(LifecycleOp.GERMINATE, blueprint=PLACES["conv"]), now)
    steps = {SeedStage.GERMINATED: 0, SeedStage.TRAINING: 1, SeedStage.BLENDING: 2, SeedStage.HOLDING: 3, SeedStage.FOSSILIZED: 4}
    for step in range(steps[stage]):
        for _ in range(3):
            slots, _ = end_epoch(slots, now)
        slots, _ = apply_action(slots, act(LifecycleOp.FOSSILIZE if step == 3 else LifecycleOp.ADVANCE), now)
    seed = slots[0]
    assert seed is not None
    assert seed.stage is stage
    return seed


def in_slot_0(seed: SeedState) -> SlotStates:
    return (seed, None, None)


def stage_of(slots: SlotStates, index: int = 0) -> SeedStage:
    seed = slots[index]
    return SeedStage.DORMANT if seed is None else seed.stage


def test_a_whole_life() -> None:
    now = context(min_training_epochs=1)
    slots, born = apply_action(FREE, act(LifecycleOp.GERMINATE, blueprint=PLACES["norm"], tempo=1, style=BlendStyle.SIGMOID_ADD), now)
    assert [(t.from_stage, t.to_stage, t.initiator) for t in born] == [(SeedStage.DORMANT, SeedStage.GERMINATED, "policy")]
    report = born[0].seed
    assert (report.seed_id, report.blueprint_id, report.blueprint_place) == ("r0c0@0", "norm", PLACES["norm"])
    assert (report.alpha, report.alpha_target, report.tempo_epochs, report.num_parameters) == (0.0, 1.0, 5, 9)
    slots, _ = apply_action(slots, act(LifecycleOp.ADVANCE), now)
    assert stage_of(slots) is SeedStage.TRAINING
    slots, _ = end_epoch(slots, context(val_accuracy=60.0))
    slots, moved = apply_action(slots, act(LifecycleOp.ADVANCE), now)
    assert moved[0].gate is not None
    assert moved[0].gate.passed
    alphas = []
    for _ in range(5):
        slots, _ = end_epoch(slots, now)
        assert slots[0] is not None
        alphas.append(slots[0].controller.alpha)
    assert alphas == sorted(alphas)
    assert alphas[-1] == 1.0
    slots, _ = apply_action(slots, act(LifecycleOp.ADVANCE), now)
    slots, _ = end_epoch(slots, now)
    slots, kept = apply_action(slots, act(LifecycleOp.FOSSILIZE), now)
    assert kept[0].to_stage is SeedStage.FOSSILIZED
    assert kept[0].seed.age_epochs == 7


@pytest.mark.parametrize(
    ("style", "operator"), [(BlendStyle.LINEAR_MULTIPLY, BlendOperator.MULTIPLY), (BlendStyle.GATED_GATE, BlendOperator.GATE)]
)
def test_style_decides_the_operator(style: BlendStyle, operator: BlendOperator) -> None:
    slots, _ = apply_action(FREE, act(LifecycleOp.GERMINATE, style=style), context())
    assert slots[0] is not None
    assert slots[0].operator is operator


@pytest.mark.parametrize(
    ("op", "stage"),
    [
        (LifecycleOp.GERMINATE, SeedStage.TRAINING),
        (LifecycleOp.ADVANCE, SeedStage.HOLDING),
        (LifecycleOp.ADVANCE, SeedStage.FOSSILIZED),
        (LifecycleOp.FOSSILIZE, SeedStage.BLENDING),
        (LifecycleOp.PRUNE, SeedStage.FOSSILIZED),
        (LifecycleOp.SET_ALPHA_TARGET, SeedStage.TRAINING),
        (LifecycleOp.SET_ALPHA_TARGET, SeedStage.FOSSILIZED),
        (LifecycleOp.SET_ALPHA_TARGET, SeedStage.BLENDING),  # alpha is still moving
        (LifecycleOp.PRUNE, SeedStage.BLENDING),
        (LifecycleOp.FOSSILIZE, SeedStage.HOLDING),  # on its first day
    ],
)
def test_an_illegal_action_is_refused_with_its_reason(op: LifecycleOp, stage: SeedStage) -> None:
    with pytest.raises(IllegalActionError) as caught:
        apply_action(in_slot_0(seed_in(stage)), act(op), context())
    assert caught.value.action.op is op
    assert caught.value.reason
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (copied.action, copied.reason, str(copied)) == (caught.value.action, caught.value.reason, str(caught.value))


@pytest.mark.parametrize("stage", [SeedStage.GERMINATED, SeedStage.TRAINING])
def test_a_silent_seed_is_pruned_at_once_whatever_the_speed(stage: SeedStage) -> None:
    slots, moved = apply_action(in_slot_0(seed_in(stage)), act(LifecycleOp.PRUNE, alpha_speed=3), context())
    assert stage_of(slots) is SeedStage.PRUNED
    assert moved[0].reason == "pruned"


def test_an_instant_prune_silences_at_once() -> None:
    slots, moved = apply_action(in_slot_0(seed_in(SeedStage.HOLDING)), act(LifecycleOp.PRUNE, alpha_speed=0), context())
    assert stage_of(slots) is SeedStage.PRUNED
    assert moved[0].seed.alpha == 0.0


def test_a_slow_prune_blends_out_and_ends_by_itself() -> None:
    now = context()
    action = act(LifecycleOp.PRUNE, alpha_speed=1, alpha_curve=AlphaCurve.COSINE)
    slots, moved = apply_action(in_slot_0(seed_in(SeedStage.HOLDING)), action, now)
    assert [(t.from_stage, t.to_stage) for t in moved] == [(SeedStage.HOLDING, SeedStage.BLENDING)]
    alphas = []
    for _ in range(2):
        masks = legal_actions(slots, now)
        assert not any(masks.slot[0, op, 0] and masks.op[0, op] for op in LifecycleOp if op is not LifecycleOp.WAIT)
        slots, _ = end_epoch(slots, now)
        assert slots[0] is not None
        alphas.append(slots[0].controller.alpha)
    assert alphas == sorted(alphas, reverse=True)
    assert alphas[-1] > 0.0
    slots, moved = end_epoch(slots, now)
    assert [(t.to_stage, t.initiator, t.reason) for t in moved] == [(SeedStage.PRUNED, "policy", "blended out")]


def test_a_prune_rests_the_slot_before_it_is_free() -> None:
    now = context(embargo_epochs=2, resetting_epochs=1)
    slots, _ = apply_action(in_slot_0(seed_in(SeedStage.TRAINING)), act(LifecycleOp.PRUNE), now)
    stages = []
    for _ in range(5):
        assert slots[0] is None or not legal_actions(slots, now).op[0, LifecycleOp.GERMINATE]
        slots, _ = end_epoch(slots, now)
        stages.append(stage_of(slots))
    expected = [SeedStage.EMBARGOED, SeedStage.EMBARGOED, SeedStage.RESETTING, SeedStage.DORMANT, SeedStage.DORMANT]
    assert stages == expected
    assert slots[0] is None


def test_a_rest_of_no_epochs_is_passed_at_once() -> None:
    now = context(embargo_epochs=0, resetting_epochs=0)
    slots, _ = apply_action(in_slot_0(seed_in(SeedStage.TRAINING)), act(LifecycleOp.PRUNE), now)
    slots, moved = end_epoch(slots, now)
    assert slots[0] is None
    assert [t.to_stage for t in moved] == [SeedStage.EMBARGOED, SeedStage.RESETTING, SeedStage.DORMANT]


def test_a_lower_target_leads_back_to_blending_and_a_full_one_out_again() -> None:
    now = context()
    lower = act(LifecycleOp.SET_ALPHA_TARGET, alpha_target=0, alpha_speed=0, style=BlendStyle.LINEAR_MULTIPLY)
    slots, moved = apply_action(in_slot_0(seed_in(SeedStage.HOLDING)), lower, now)
    assert moved[0].to_stage is SeedStage.BLENDING
    assert moved[0].seed.alpha == 0.5
    assert moved[0].seed.operator is BlendOperator.MULTIPLY
    assert not legal_actions(slots, now).op[0, LifecycleOp.ADVANCE]
    slots, moved = apply_action(slots, act(LifecycleOp.SET_ALPHA_TARGET, alpha_target=2, alpha_speed=1), now)
    assert moved == ()
    for _ in range(3):
        slots, _ = end_epoch(slots, now)
    slots, _ = apply_action(slots, act(LifecycleOp.ADVANCE), now)
    assert stage_of(slots) is SeedStage.HOLDING


def test_the_full_target_again_leaves_a_holding_seed_where_it_is() -> None:
    action = act(LifecycleOp.SET_ALPHA_TARGET, alpha_target=2, alpha_speed=3)
    slots, moved = apply_action(in_slot_0(seed_in(SeedStage.HOLDING)), action, context())
    assert moved == ()
    assert stage_of(slots) is SeedStage.HOLDING


def test_seeds_advance_by_themselves_but_never_into_permanence() -> None:
    now = context(auto_advance=True, min_training_epochs=1)
    slots, sown = apply_action(FREE, act(LifecycleOp.GERMINATE), now)
    seen: list[StageTransition] = list(sown[1:])
    for _ in range(10):
        slots, moved = end_epoch(slots, now)
        seen += moved
    assert [t.to_stage for t in seen] == [SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.HOLDING]
    assert {t.initiator for t in seen} == {"auto"}


def test_unmeasured_seeds_wait_in_training() -> None:
    now = context(auto_advance=True)
    slots, _ = apply_action(FREE, act(LifecycleOp.GERMINATE), now)
    for _ in range(5):
        slots, _ = tick(slots, now, contributions={}, solo={})
    assert stage_of(slots) is SeedStage.TRAINING


def test_metrics_follow_the_epochs() -> None:
    slots = in_slot_0(seed_in(SeedStage.TRAINING))
    slots, _ = end_epoch(slots, context(val_accuracy=70.0), contribution=4.0)
    slots, _ = end_epoch(slots, context(val_accuracy=65.0), contribution=None)
    seed = slots[0]
    assert seed is not None
    assert seed.metrics.current_val_accuracy == 65.0
    assert seed.metrics.best_val_accuracy == 70.0
    assert seed.metrics.accuracy_at_germination == 50.0
    assert seed.metrics.total_improvement == 15.0
    assert seed.metrics.contribution is None
    assert seed.metrics.solo_contribution == 1.5
    assert seed.metrics.gradient_health == 1.0


def test_gradient_ratio_is_averaged_and_keeps_its_last_value() -> None:
    slots = in_slot_0(replace(seed_in(SeedStage.GERMINATED)))
    ratios = []
    for ratio in (1.0, 2.0, None):
        slots = record_gradients(slots, [replace(HEALTHY, ratio=ratio), None, None])
        assert slots[0] is not None
        ratios.append(slots[0].metrics.gradient_ratio)
    assert ratios == [1.0, pytest.approx(1.1), pytest.approx(1.1)]


def test_pruning_all_spares_fossils() -> None:
    fossil, training = seed_in(SeedStage.FOSSILIZED), replace(seed_in(SeedStage.TRAINING), slot_index=1)
    slots, moved = prune_all((fossil, training, None), "governor")
    assert [stage_of(slots, i) for i in range(3)] == [SeedStage.FOSSILIZED, SeedStage.PRUNED, SeedStage.DORMANT]
    assert [(t.slot_index, t.initiator) for t in moved] == [(1, "governor")]


def test_limits_hold_back_germination() -> None:
    fossil = seed_in(SeedStage.FOSSILIZED)
    assert not legal_actions((fossil, None, None), context(max_seeds=1)).op[0, LifecycleOp.GERMINATE]
    assert legal_actions((fossil, None, None), context(max_seeds=2)).op[0, LifecycleOp.GERMINATE]
    training = seed_in(SeedStage.TRAINING)
    assert not legal_actions((training, None, None), context(max_developing=1)).op[0, LifecycleOp.GERMINATE]
    assert legal_actions((training, None, None), context(max_developing=2)).op[0, LifecycleOp.GERMINATE]


actions = st.builds(
    FactoredAction,
    slot=st.integers(0, 2),
    blueprint=st.sampled_from([*PLACES.values(), 31]),
    style=st.sampled_from(BlendStyle),
    tempo=st.integers(0, len(TEMPO_EPOCHS) - 1),
    alpha_target=st.integers(0, len(ALPHA_TARGETS) - 1),
    alpha_speed=st.integers(0, len(ALPHA_SPEED_EPOCHS) - 1),
    alpha_curve=st.sampled_from(AlphaCurve),
    op=st.sampled_from(LifecycleOp),
)
configs = st.fixed_dictionaries(
    {
        "auto_advance": st.booleans(),
        "min_training_epochs": st.integers(0, 2),
        "min_prune_age_epochs": st.integers(0, 3),
        "embargo_epochs": st.integers(0, 2),
        "resetting_epochs": st.integers(0, 1),
        "max_seeds": st.integers(1, 3),
        "max_fossils": st.integers(0, 2),
        "max_developing": st.integers(1, 3),
        "gates": st.sampled_from(["permissive", "strict"]),
    }
)


def legal_by_mask(action: FactoredAction, masks: ActionMasks) -> bool:
    """Read every head that matters to the operation straight off the masks."""
    heads = {head: getattr(masks, head.name.lower())[0] for head in HEAD_SIZES}
    used = CAUSAL_MASK[action.op]
    slot_ok = bool(masks.slot[0, action.op, action.slot])
    return all(heads[head][action[head]] for head in HEAD_SIZES if used[head]) and (slot_ok or not used[Head.SLOT])


@settings(max_examples=50, deadline=None)
@given(moves=st.lists(st.one_of(st.none(), actions, actions), max_size=60), config=configs)
def test_whole_random_lives(moves: list[FactoredAction | None], config: dict[str, Any]) -> None:
    """None ends the epoch. What the masks allow is accepted, the rest is refused; no life leaves the table or the limits."""
    slots, now, last_stage = FREE, context(**config), [SeedStage.DORMANT] * 3
    for move in moves:
        if move is None:
            slots, moved = end_epoch(slots, now)
            now = replace(now, epoch=now.epoch + 1)
        elif legal_by_mask(move, legal_actions(slots, now)):
            slots, moved = apply_action(slots, move, now)
        else:
            with pytest.raises(IllegalActionError):
                apply_action(slots, move, now)
            continue
        for step in moved:
            assert step.from_stage is last_stage[step.slot_index]
            assert step.to_stage in VALID_TRANSITIONS[step.from_stage]
            last_stage[step.slot_index] = step.to_stage
        assert [stage_of(slots, i) for i in range(3)] == last_stage
        alive = [seed for seed in slots if seed is not None]
        assert len(alive) <= now.limits.max_seeds
        assert sum(seed.stage is SeedStage.FOSSILIZED for seed in alive) <= now.limits.max_fossils
        assert sum(seed.stage in DEVELOPING_STAGES for seed in alive) <= max(now.limits.max_developing, len(alive))
        for seed in alive:
            assert 0.0 <= seed.controller.alpha <= 1.0
            assert seed.has_module or seed.controller == replace(seed.controller, alpha=0.0, mode=AlphaMode.HOLD)


def test_waiting_changes_nothing() -> None:
    slots = in_slot_0(seed_in(SeedStage.TRAINING))
    assert apply_action(slots, WAIT, context()) == (slots, ())


def test_masks_have_the_shapes_of_the_contract() -> None:
    masks = legal_actions(FREE, context())
    assert masks.slot.shape == (1, len(LifecycleOp), 3)
    assert np.flatnonzero(masks.op[0]).tolist() == [LifecycleOp.WAIT, LifecycleOp.GERMINATE]
    assert np.flatnonzero(masks.blueprint[0]).tolist() == [PLACES["conv"], PLACES["norm"]]
