"""Legality: never empty, never stricter or looser than the rules."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.leyline.actions import NUM_BLUEPRINT_PLACES, BlendStyle, FactoredAction, LifecycleOp
from esper.leyline.alpha import AlphaMode
from esper.leyline.masks import ActionMasks, GrowthLimits, SlotView, compute_masks, explain_illegal
from esper.leyline.stages import SeedStage

EMPTY = SlotView(SeedStage.DORMANT, 0, AlphaMode.HOLD, gate_open=False)
LIMITS = GrowthLimits(blueprints=(0, 3), max_seeds=3, max_fossils=2)
LIVING = [s for s in SeedStage if s not in (SeedStage.UNKNOWN, SeedStage.SHADOWING)]

views = st.builds(SlotView, st.sampled_from(LIVING), st.integers(0, 30), st.sampled_from(AlphaMode), st.booleans())
limits = st.builds(
    GrowthLimits,
    blueprints=st.lists(st.integers(0, NUM_BLUEPRINT_PLACES - 1), max_size=4).map(tuple),
    max_seeds=st.integers(0, 5),
    max_fossils=st.integers(0, 5),
    max_developing=st.integers(0, 3),
    ops=st.lists(st.sampled_from(LifecycleOp), unique=True).map(tuple),
    styles=st.lists(st.sampled_from(BlendStyle), unique=True).map(tuple),
    tempos=st.lists(st.integers(0, 2), unique=True).map(tuple),
)


def seed(stage: SeedStage, **changes: Any) -> SlotView:
    return replace(SlotView(stage, age_epochs=10, alpha_mode=AlphaMode.HOLD, gate_open=True), **changes)


def legal_slots(op: LifecycleOp, *slots: SlotView, limits: GrowthLimits = LIMITS) -> list[int]:
    masks = compute_masks(slots, limits)
    return np.flatnonzero(masks.slot[0, op]).tolist() if masks.op[0, op] else []


@settings(max_examples=50, deadline=None)
@given(slots=st.lists(views, min_size=1, max_size=6), growth=limits)
def test_every_head_keeps_a_choice_and_every_legal_operation_a_slot(slots: list[SlotView], growth: GrowthLimits) -> None:
    masks = compute_masks(slots, growth)
    assert masks.op[0, LifecycleOp.WAIT]
    for field in fields(ActionMasks):
        mask = getattr(masks, field.name)
        assert mask.dtype == np.bool_
        assert mask.any(axis=-1).all(), field.name
    assert masks.slot.shape == (1, len(LifecycleOp), len(slots))


@settings(max_examples=50, deadline=None)
@given(slots=st.lists(views, min_size=1, max_size=4), growth=limits, data=st.data())
def test_permuting_slots_permutes_legality(slots: list[SlotView], growth: GrowthLimits, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(slots))))
    masks, permuted = compute_masks(slots, growth), compute_masks([slots[i] for i in order], growth)
    assert np.array_equal(masks.op, permuted.op)
    assert np.array_equal(masks.slot[:, :, order], permuted.slot)


@settings(max_examples=50, deadline=None)
@given(slots=st.lists(views, min_size=1, max_size=4), growth=limits, op=st.sampled_from(LifecycleOp), slot=st.integers(0, 3))
def test_an_explanation_is_given_exactly_for_what_the_masks_forbid(
    slots: list[SlotView], growth: GrowthLimits, op: LifecycleOp, slot: int
) -> None:
    masks = compute_masks(slots, growth)
    choices = {name: int(np.flatnonzero(getattr(masks, name)[0])[0]) for name in ("blueprint", "style", "tempo")}
    action = FactoredAction(slot=slot, op=op, blueprint=choices["blueprint"], style=BlendStyle(choices["style"]), tempo=choices["tempo"])
    allowed = bool(masks.op[0, op]) and (op is LifecycleOp.WAIT or (slot < len(slots) and bool(masks.slot[0, op, slot])))
    assert (explain_illegal(action, masks) is None) == allowed


def test_seeds_are_planted_in_empty_slots_only() -> None:
    assert legal_slots(LifecycleOp.GERMINATE, EMPTY, seed(SeedStage.FOSSILIZED), EMPTY) == [0, 2]


@pytest.mark.parametrize("stage", [s for s in LIVING if s is not SeedStage.DORMANT])
def test_only_undeveloped_seeds_block_the_next_one(stage: SeedStage) -> None:
    blocks = stage in {
        SeedStage.GERMINATED,
        SeedStage.TRAINING,
        SeedStage.PRUNED,
        SeedStage.EMBARGOED,
        SeedStage.RESETTING,
    }
    assert legal_slots(LifecycleOp.GERMINATE, EMPTY, seed(stage)) == ([] if blocks else [0])


def test_more_may_be_developed_at_once_where_the_limits_say_so() -> None:
    roomy = replace(LIMITS, max_developing=2)
    assert legal_slots(LifecycleOp.GERMINATE, EMPTY, seed(SeedStage.TRAINING), limits=roomy) == [0]


def test_a_full_trial_or_an_empty_catalogue_plants_nothing() -> None:
    fossils = [seed(SeedStage.FOSSILIZED)] * 3
    assert legal_slots(LifecycleOp.GERMINATE, *fossils, EMPTY) == []
    assert legal_slots(LifecycleOp.GERMINATE, EMPTY, limits=replace(LIMITS, blueprints=())) == []


@pytest.mark.parametrize("stage", LIVING)
def test_operations_fit_the_stage(stage: SeedStage) -> None:
    expected = {
        LifecycleOp.ADVANCE: {SeedStage.GERMINATED, SeedStage.TRAINING, SeedStage.BLENDING},
        LifecycleOp.FOSSILIZE: {SeedStage.HOLDING},
        LifecycleOp.PRUNE: {SeedStage.GERMINATED, SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.HOLDING},
        LifecycleOp.SET_ALPHA_TARGET: {SeedStage.BLENDING, SeedStage.HOLDING},
    }
    for op, stages in expected.items():
        assert legal_slots(op, seed(stage)) == ([0] if stage in stages else []), op


def test_a_closed_gate_stops_advance_and_fossilization() -> None:
    assert legal_slots(LifecycleOp.ADVANCE, seed(SeedStage.TRAINING, gate_open=False)) == []
    assert legal_slots(LifecycleOp.FOSSILIZE, seed(SeedStage.HOLDING, gate_open=False)) == []


def test_a_moving_alpha_is_left_alone() -> None:
    for op in (LifecycleOp.PRUNE, LifecycleOp.SET_ALPHA_TARGET, LifecycleOp.FOSSILIZE):
        assert legal_slots(op, seed(SeedStage.HOLDING, alpha_mode=AlphaMode.UP)) == []


def test_a_seed_is_given_time_before_it_may_be_pruned() -> None:
    assert legal_slots(LifecycleOp.PRUNE, seed(SeedStage.TRAINING, age_epochs=4)) == []
    assert legal_slots(LifecycleOp.PRUNE, seed(SeedStage.TRAINING, age_epochs=5)) == [0]


def test_fossils_are_limited() -> None:
    slots = [seed(SeedStage.FOSSILIZED), seed(SeedStage.FOSSILIZED), seed(SeedStage.HOLDING)]
    assert legal_slots(LifecycleOp.FOSSILIZE, *slots) == []
    assert legal_slots(LifecycleOp.FOSSILIZE, *slots, limits=replace(LIMITS, max_fossils=3)) == [2]


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (FactoredAction(op=LifecycleOp.GERMINATE, slot=1), "slot 1"),
        (FactoredAction(op=LifecycleOp.GERMINATE, slot=7), "outside 0…1"),
        (FactoredAction(op=LifecycleOp.GERMINATE, blueprint=1), "blueprint 1"),
        (FactoredAction(op=LifecycleOp.GERMINATE, tempo=2), "tempo 2"),
        (FactoredAction(op=LifecycleOp.GERMINATE, style=BlendStyle.GATED_GATE), "style 3"),
        (FactoredAction(op=LifecycleOp.FOSSILIZE), "FOSSILIZE is not legal"),
    ],
)
def test_a_refusal_names_what_is_wrong(action: FactoredAction, words: str) -> None:
    narrow = replace(LIMITS, tempos=(0, 1), styles=(BlendStyle.LINEAR_ADD,))
    masks = compute_masks([EMPTY, seed(SeedStage.BLENDING)], narrow)
    assert words in str(explain_illegal(action, masks))


def test_batches_of_masks_join_and_split() -> None:
    rows = [compute_masks([EMPTY, seed(stage)], LIMITS) for stage in (SeedStage.TRAINING, SeedStage.HOLDING, SeedStage.FOSSILIZED)]
    joined = ActionMasks.concatenate(rows)
    for i, row in enumerate(rows):
        one = joined.select(np.array([i]))
        assert all(np.array_equal(getattr(one, f.name), getattr(row, f.name)) for f in fields(ActionMasks))
