"""Payloads of every kind: frozen, slotted, strict, and the same after a way through JSON."""

from __future__ import annotations

import dataclasses
import json
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from esper.leyline.telemetry import (
    PAYLOAD_CLASSES,
    AnalyticsSnapshotPayload,
    BatchEpochCompletedPayload,
    CounterfactualConfig,
    CounterfactualMatrixPayload,
    EpochCompletedPayload,
    GovernorRollbackPayload,
    PPOUpdatePayload,
    RewardComputedPayload,
    SeedFossilizedPayload,
    SeedGerminatedPayload,
    SeedPrunedPayload,
    SeedSnapshot,
    SeedStageChangedPayload,
    TamiyoPolicyUpdatePayload,
    TolariaBatchPayload,
    TolariaEpochPayload,
    TolariaRollbackPayload,
    TrainingStartedPayload,
)

if TYPE_CHECKING:
    from collections.abc import Callable

CLASSES = sorted(set(PAYLOAD_CLASSES.values()), key=lambda cls: cls.__name__)
HEADS = ("op", "slot", "blueprint", "style", "tempo", "alpha_target", "alpha_speed", "alpha_curve")


def required_fields(cls: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("full", [True, False])
def test_every_payload_reads_back_through_json(cls: Any, full: bool, make_payload: Callable[..., Any]) -> None:
    payload = make_payload(cls, full=full)
    assert cls.from_dict(json.loads(json.dumps(payload.to_dict()))) == payload
    assert pickle.loads(pickle.dumps(payload)) == payload


@pytest.mark.parametrize("cls", CLASSES)
def test_every_missing_required_field_is_named(cls: Any, make_payload: Callable[..., Any]) -> None:
    values = make_payload(cls, full=True).to_dict()
    assert required_fields(cls)
    for name in required_fields(cls):
        with pytest.raises(KeyError, match=rf"{cls.__name__}\.{name}"):
            cls.from_dict({k: v for k, v in values.items() if k != name})


@pytest.mark.parametrize("cls", CLASSES)
def test_every_unknown_key_is_named(cls: Any, make_payload: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="'novelty'"):
        cls.from_dict({**make_payload(cls, full=False).to_dict(), "novelty": 1})


@pytest.mark.parametrize("cls", CLASSES)
def test_every_payload_is_frozen_and_has_no_dict(cls: Any, make_payload: Callable[..., Any]) -> None:
    payload = make_payload(cls, full=False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(payload, required_fields(cls)[0], None)
    assert not hasattr(payload, "__dict__")


def test_lists_become_tuples_at_every_depth() -> None:
    payload = CounterfactualMatrixPayload.from_dict(
        {"env_id": 1, "slot_ids": ["a", "b"], "configs": [{"slots_on": ["a"], "accuracy": 50}, {"slots_on": [], "accuracy": 40.5}]}
    )
    assert payload.slot_ids == ("a", "b")
    assert payload.configs == (CounterfactualConfig(("a",), 50.0), CounterfactualConfig((), 40.5))


def test_zero_is_kept_and_unmeasured_is_none() -> None:
    values = {"env_id": 0, "val_accuracy": 0.0, "val_loss": 0.0, "inner_epoch": 0, "train_loss": 0.0}
    payload = TolariaEpochPayload.from_dict(values)
    assert payload.train_loss == 0.0
    assert payload.train_accuracy is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_envs", "4"),
        ("n_envs", 4.5),
        ("n_envs", True),
        ("task", 3),
        ("slot_ids", "r0c0"),
        ("lr", "fast"),
        ("amp_enabled", 1),
        ("seed", None),
    ],
)
def test_a_value_of_the_wrong_type_is_named(key: str, value: object, make_payload: Callable[..., Any]) -> None:
    values = make_payload(TrainingStartedPayload, full=False).to_dict()
    with pytest.raises(TypeError, match=rf"TrainingStartedPayload\.{key}"):
        TrainingStartedPayload.from_dict({**values, key: value})


def test_an_error_in_a_nested_payload_says_where() -> None:
    values = {"env_id": 0, "val_accuracy": 0.0, "val_loss": 0.0, "inner_epoch": 0, "seeds": {"r0c0": {"seed_id": "s"}}}
    with pytest.raises(KeyError, match=r"TolariaEpochPayload\.seeds\['r0c0'\]\.blueprint_id"):
        TolariaEpochPayload.from_dict(values)


@pytest.mark.parametrize("metric", ["entropy", "grad_norm", "kl", "clip_fraction", "active_ratio"])
def test_every_head_has_every_metric(metric: str) -> None:
    names = {f.name for f in dataclasses.fields(TamiyoPolicyUpdatePayload)}
    assert {f"head_{head}_{metric}" for head in HEADS} <= names


def test_names_from_before_still_work() -> None:
    assert PPOUpdatePayload is TamiyoPolicyUpdatePayload
    assert EpochCompletedPayload is TolariaEpochPayload
    assert BatchEpochCompletedPayload is TolariaBatchPayload
    assert GovernorRollbackPayload is TolariaRollbackPayload


@pytest.mark.parametrize(
    ("cls", "names"),
    [
        (
            TrainingStartedPayload,
            "n_envs max_epochs task host_params slot_ids seed n_episodes lr clip_ratio entropy_coef param_budget policy_device env_devices",
        ),
        (TolariaEpochPayload, "env_id val_accuracy val_loss inner_epoch"),
        (TolariaBatchPayload, "episodes_completed batch_idx avg_accuracy avg_reward total_episodes n_envs"),
        (TamiyoPolicyUpdatePayload, "policy_loss value_loss entropy grad_norm kl_divergence clip_fraction nan_grad_count"),
        (RewardComputedPayload, "env_id total_reward action_name value_estimate action_confidence"),
        (SeedGerminatedPayload, "slot_id env_id blueprint_id params"),
        (SeedStageChangedPayload, "slot_id env_id from_stage to_stage"),
        (SeedFossilizedPayload, "slot_id env_id blueprint_id improvement params_added"),
        (SeedPrunedPayload, "slot_id env_id reason"),
        (CounterfactualMatrixPayload, "env_id slot_ids configs"),
        (AnalyticsSnapshotPayload, "kind"),
    ],
)
def test_what_a_producer_must_say(cls: Any, names: str) -> None:
    assert required_fields(cls) == names.split()


def test_a_seed_snapshot_is_itself_a_payload() -> None:
    snapshot = SeedSnapshot("s", "conv", "HOLDING", alpha=1.0, epochs_in_stage=1, age_epochs=2, num_parameters=3)
    assert SeedSnapshot.from_dict(snapshot.to_dict()) == snapshot
    assert snapshot.contribution is None
