"""The 27 base features: their order, their bounds, and what absence looks like."""

from __future__ import annotations

import math
import sys
from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.leyline.signals import (
    TENSOR_SCHEMA_SIZE,
    FastTrainingSignals,
    SignalScale,
    TensorSchema,
    TrainingMetrics,
    TrainingSignals,
    features_of,
    pad_history,
    stage_scalar,
)

SCALE = SignalScale(max_epochs=20, max_steps=400, num_slots=3)
MIDWAY = FastTrainingSignals(
    epoch=10,
    global_step=100,
    train_loss=1.5,
    val_loss=2.0,
    loss_delta=0.1,
    train_accuracy=40.0,
    val_accuracy=35.0,
    accuracy_delta=2.5,
    plateau_epochs=4,
    best_val_accuracy=36.0,
    best_val_loss=1.9,
    loss_history=(None, 2.3, 2.2, 2.1, 2.0),
    accuracy_history=(None, 0.0, 20.0, 32.5, 35.0),
    has_active_seed=True,
    seed_stage=4,
    seed_epochs_in_stage=5,
    seed_alpha=0.25,
    seed_improvement=-3.0,
    available_slots=2,
)

anything = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True, width=64))
counts = st.integers(-(10**6), 10**12)
signals = st.builds(
    FastTrainingSignals,
    epoch=counts,
    global_step=counts,
    train_loss=anything,
    val_loss=anything,
    loss_delta=anything,
    train_accuracy=anything,
    val_accuracy=anything,
    accuracy_delta=anything,
    plateau_epochs=counts,
    best_val_accuracy=anything,
    best_val_loss=anything,
    loss_history=st.tuples(*[anything] * 5),
    accuracy_history=st.tuples(*[anything] * 5),
    has_active_seed=st.booleans(),
    seed_stage=st.integers(0, 10),
    seed_epochs_in_stage=counts,
    seed_alpha=st.floats(allow_nan=True),
    seed_improvement=anything,
    available_slots=counts,
)


def symlog(x: float) -> float:
    return math.copysign(math.log(1.0 + abs(x)), x)


def test_features_match_their_formulas() -> None:
    expected = [
        *(0.5, 0.25),
        *(symlog(1.5) / 7, symlog(2.0) / 7, symlog(0.1)),
        *(0.4, 0.35, 0.25, 0.2),
        *(0.36, symlog(1.9) / 7),
        *(-1.0, symlog(2.3) / 7, symlog(2.2) / 7, symlog(2.1) / 7, symlog(2.0) / 7),
        *(-1.0, 0.0, 0.2, 0.325, 0.35),
        *(1.0, 0.5, 0.25, 0.25, -0.3, 2 / 3),
    ]
    assert MIDWAY.to_vector(SCALE) == pytest.approx(expected)


def test_schema_names_every_feature_once() -> None:
    assert [int(f) for f in TensorSchema] == list(range(TENSOR_SCHEMA_SIZE))
    assert len(FastTrainingSignals._fields) == 19
    assert MIDWAY.to_vector(SCALE)[TensorSchema.SEED_ALPHA] == 0.25
    assert MIDWAY.to_vector(SCALE)[TensorSchema.ACC_HIST_4] == pytest.approx(0.35)


@settings(max_examples=50, deadline=None)
@given(signal=signals, scale=st.builds(SignalScale, *[st.integers(1, 10**6)] * 3))
def test_nothing_leaves_the_bounds(signal: FastTrainingSignals, scale: SignalScale) -> None:
    vector = signal.to_vector(scale)
    assert len(vector) == len(signal.feature_mask()) == TENSOR_SCHEMA_SIZE
    assert all(-1.0 <= value <= 1.0 for value in vector)


@settings(max_examples=20, deadline=None)
@given(batch=st.lists(signals, max_size=5))
def test_a_batch_equals_its_members(batch: list[FastTrainingSignals]) -> None:
    tensor = FastTrainingSignals.batch_to_tensor(batch, SCALE)
    assert tensor.shape == (len(batch), TENSOR_SCHEMA_SIZE)
    assert tensor.dtype == torch.float32
    for row, signal in zip(tensor, batch, strict=True):
        assert torch.equal(row, torch.tensor(signal.to_vector(SCALE), dtype=torch.float32))
        assert torch.equal(row, signal.to_tensor(SCALE))


def test_absent_is_minus_one_and_differs_from_zero() -> None:
    nothing = FastTrainingSignals()
    vector, mask = nothing.to_vector(SCALE), nothing.feature_mask()
    for name in ("TRAIN_LOSS", "VAL_ACCURACY", "BEST_VAL_LOSS", "LOSS_HIST_0", "ACC_HIST_4"):
        assert vector[TensorSchema[name]] == -1.0
        assert not mask[TensorSchema[name]]
    zero = nothing._replace(val_loss=0.0, val_accuracy=0.0, loss_history=(0.0,) * 5)
    assert zero.to_vector(SCALE)[TensorSchema.VAL_LOSS] == 0.0
    assert zero.to_vector(SCALE)[TensorSchema.LOSS_HIST_0] == 0.0
    assert zero.feature_mask()[TensorSchema.VAL_ACCURACY]


def test_the_best_loss_may_be_high_or_infinite() -> None:
    def best(loss: float) -> float:
        return MIDWAY._replace(best_val_loss=loss).to_vector(SCALE)[TensorSchema.BEST_VAL_LOSS]

    assert best(9.0) < best(11.0) < best(300.0) < best(1000.0) < 1.0
    assert best(math.inf) == 1.0


def test_a_diverged_loss_is_the_worst_there_is() -> None:
    vector = MIDWAY._replace(val_loss=math.nan, loss_delta=math.nan).to_vector(SCALE)
    assert vector[TensorSchema.VAL_LOSS] == 1.0
    assert vector[TensorSchema.LOSS_DELTA] == -1.0


def test_stages_off_the_growing_path_stay_in_range() -> None:
    assert [stage_scalar(s) for s in (0, 1, 4, 7, 8, 10)] == [0.0, 0.0, 0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("field", ["max_epochs", "max_steps", "num_slots"])
def test_a_scale_of_zero_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field}=0"):
        SignalScale(**{"max_epochs": 1, "max_steps": 1, "num_slots": 1, field: 0})


@pytest.mark.parametrize("length", range(8))
def test_history_keeps_the_newest_last(length: int) -> None:
    values = [float(i) for i in range(length)]
    padded = pad_history(values)
    assert padded == pad_history(deque(values)) == pad_history(tuple(values))
    assert [v for v in padded if v is not None] == values[-5:]
    assert all(v is None for v in padded[: max(5 - length, 0)])


def test_the_rich_tier_reduces_to_the_fast_one() -> None:
    rich = TrainingSignals(metrics=TrainingMetrics(epoch=3, val_loss=1.0), available_slots=2, seed_alpha=0.5)
    for loss in (3.0, 2.0, 1.5, 1.2, 1.1, 1.0):
        rich.loss_history.append(loss)
    fast = rich.to_fast()
    assert (fast.epoch, fast.val_loss, fast.available_slots, fast.seed_alpha) == (3, 1.0, 2, 0.5)
    assert fast.loss_history == (2.0, 1.5, 1.2, 1.1, 1.0)
    assert fast.best_val_loss is None
    assert rich.gpu_memory_used_gb is None
    assert rich.timestamp.tzinfo is not None


def test_a_signal_is_small_and_hashable() -> None:
    assert hash(MIDWAY) == hash(MIDWAY._replace())
    assert sys.getsizeof(MIDWAY) < 256


def test_order_of_a_batch_does_not_matter() -> None:
    other = MIDWAY._replace(epoch=1, val_loss=None)
    a, b = features_of([MIDWAY, other], SCALE)
    np.testing.assert_array_equal(features_of([other, MIDWAY], SCALE), np.stack([b, a]))
