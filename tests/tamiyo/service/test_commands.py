from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.leyline.actions import CAUSAL_MASK, HEAD_SIZES, WAIT, BlendStyle, FactoredAction, Head, LifecycleOp
from esper.leyline.alpha import BLENDING_METHODS, AlphaCurve
from esper.leyline.schemas import AdaptationCommand, CommandType, SeedOperation
from esper.tamiyo.service.commands import action_of, seed_operation

SLOTS = ("r0c0", "r0c1", "r0c2")
PLACES = {f"blueprint{place}": place for place in range(HEAD_SIZES[Head.BLUEPRINT])}
actions = st.tuples(
    *(st.integers(0, (len(SLOTS) if head is Head.SLOT else HEAD_SIZES[head]) - 1) for head in Head),
).map(FactoredAction.from_row)


def command(operation: SeedOperation | None, slot: str | None = None) -> AdaptationCommand:
    return AdaptationCommand("c", CommandType.SEED, None, slot, operation, confidence=1.0)


def only_what_matters(action: FactoredAction) -> list[int]:
    return [int(x) for x in np.where(CAUSAL_MASK[action.op], action, WAIT)]


@settings(max_examples=50, deadline=None)
@given(actions)
def test_a_command_can_be_carried_out_as_it_was_decided(action: FactoredAction) -> None:
    operation = seed_operation(action, lambda place: f"blueprint{place}")
    back = action_of(command(operation, SLOTS[action.slot]), slot_ids=SLOTS, places=PLACES)
    assert list(back) == only_what_matters(action)
    assert json.loads(json.dumps(dict(operation.parameters))) == operation.parameters


@settings(max_examples=50, deadline=None)
@given(actions)
def test_whatever_moves_alpha_names_one_of_the_four_methods(action: FactoredAction) -> None:
    parameters = seed_operation(action, lambda place: f"blueprint{place}").parameters
    moves = action.op in {LifecycleOp.GERMINATE, LifecycleOp.SET_ALPHA_TARGET, LifecycleOp.PRUNE}
    assert ("blending_method" in parameters) == moves
    assert not moves or parameters["blending_method"] in BLENDING_METHODS


def test_methods_come_from_the_head_that_decides_the_curve() -> None:
    first = WAIT._replace(op=LifecycleOp.GERMINATE, style=BlendStyle.SIGMOID_ADD, alpha_curve=AlphaCurve.COSINE, tempo=2)
    assert seed_operation(first, str).parameters == {
        "style": "SIGMOID_ADD",
        "operator": "ADD",
        "tempo_epochs": 8,
        "alpha_target": 1.0,
        "blending_method": "sigmoid",
        "sigmoid_steepness": 12.0,
    }
    later = first._replace(op=LifecycleOp.SET_ALPHA_TARGET, alpha_speed=1, alpha_target=0)
    assert seed_operation(later, str).parameters == {
        "style": "SIGMOID_ADD",
        "operator": "ADD",
        "schedule_epochs": 3,
        "alpha_target": 0.5,
        "alpha_curve": "COSINE",
        "blending_method": "cosine",
    }


def test_waiting_needs_nothing() -> None:
    assert seed_operation(WAIT, str) == SeedOperation("WAIT", None, {})


@pytest.mark.parametrize(
    ("operation", "slot", "message"),
    [
        (None, None, "no seed operation"),
        (SeedOperation("EXPLODE", None), None, "no seed operation"),
        (SeedOperation("ADVANCE", None), "r9c9", "slot 'r9c9' is not one of r0c0"),
        (SeedOperation("GERMINATE", "nothing"), "r0c0", "blueprint 'nothing'"),
        (
            SeedOperation("PRUNE", None, {"schedule_epochs": 4, "alpha_curve": "LINEAR"}),
            "r0c0",
            "epochs=4 is not one of 0, 3, 5, 8",
        ),
        (SeedOperation("PRUNE", None, {"schedule_epochs": 3}), "r0c0", "alpha_curve=None"),
    ],
)
def test_a_command_that_means_nothing_here_is_refused(operation: SeedOperation | None, slot: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        action_of(command(operation, slot), slot_ids=SLOTS, places=PLACES)
