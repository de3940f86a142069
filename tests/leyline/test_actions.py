"""The factored action: its rows, its heads, and the flat view of it."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.leyline.actions import (
    CAUSAL_MASK,
    HEAD_NAMES,
    HEAD_SIZES,
    NUM_HEADS,
    STYLE_MEANING,
    WAIT,
    BlendStyle,
    FactoredAction,
    Head,
    LifecycleOp,
    build_action_enum,
)
from esper.leyline.alpha import AlphaCurve, BlendOperator


@st.composite
def rows(draw: Any) -> list[int]:
    return [draw(st.integers(0, HEAD_SIZES.get(head, 100) - 1)) for head in Head]


@settings(max_examples=50, deadline=None)
@given(row=rows())
def test_a_row_reads_back(row: list[int]) -> None:
    action = FactoredAction.from_row(row)
    assert list(action) == row
    assert isinstance(action.op, LifecycleOp)
    assert pickle.loads(pickle.dumps(action)) == action


@settings(max_examples=50, deadline=None)
@given(row=rows(), head=st.sampled_from([h for h in Head if h is not Head.SLOT]), low=st.booleans())
def test_an_index_outside_its_head_is_refused_by_name(row: list[int], head: Head, low: bool) -> None:
    row[head] = -1 if low else HEAD_SIZES[head]
    with pytest.raises(ValueError, match=f"{head.name.lower()}={row[head]} is outside"):
        FactoredAction.from_row(row)


@pytest.mark.parametrize("length", [0, NUM_HEADS - 1, NUM_HEADS + 1])
def test_a_row_of_the_wrong_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"{NUM_HEADS} indices"):
        FactoredAction.from_row([0] * length)


def test_waiting_is_the_default() -> None:
    assert FactoredAction() == WAIT
    assert WAIT.op is LifecycleOp.WAIT


def test_heads_that_matter_to_each_operation() -> None:
    used = {op: {HEAD_NAMES[h] for h in range(NUM_HEADS) if CAUSAL_MASK[op, h]} for op in LifecycleOp}
    assert used == {
        LifecycleOp.WAIT: {"op"},
        LifecycleOp.GERMINATE: {"op", "slot", "blueprint", "style", "tempo", "alpha_target"},
        LifecycleOp.SET_ALPHA_TARGET: {"op", "slot", "style", "alpha_target", "alpha_speed", "alpha_curve"},
        LifecycleOp.PRUNE: {"op", "slot", "alpha_speed", "alpha_curve"},
        LifecycleOp.FOSSILIZE: {"op", "slot"},
        LifecycleOp.ADVANCE: {"op", "slot"},
    }


def test_a_gated_blend_rises_linearly() -> None:
    assert STYLE_MEANING[BlendStyle.GATED_GATE] == (AlphaCurve.LINEAR, BlendOperator.GATE)
    assert STYLE_MEANING.keys() == set(BlendStyle)


def test_flat_actions_cover_every_operation_in_every_slot_once() -> None:
    enum = build_action_enum({"norm": 1, "conv": 0}, ["r0c0", "r0c1"])
    members = [member.value for member in enum]
    assert members[0].op is LifecycleOp.WAIT
    assert len(set(members)) == len(members) == 1 + 2 * 2 + 4 * 2
    germinations = [(m.blueprint, m.slot) for m in members if m.op is LifecycleOp.GERMINATE]
    assert germinations == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert enum["PRUNE_R0C1"].value.slot == 1
