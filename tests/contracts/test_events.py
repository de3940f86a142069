"""Every event type has a payload class and an Arrow schema."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from esper.leyline.telemetry import PAYLOAD_CLASSES, TelemetryEventType, TelemetryPayload, event_schema

WITHOUT_PAYLOAD: frozenset[TelemetryEventType] = frozenset()
SPECIFIED = {
    "TAMIYO_POLICY_UPDATE",
    "TAMIYO_INITIATED",
    "TOLARIA_EPOCH_COMPLETED",
    "TOLARIA_BATCH_COMPLETED",
    "TOLARIA_ROLLBACK",
    "SEED_GERMINATED",
    "SEED_STAGE_CHANGED",
    "SEED_GATE_EVALUATED",
    "SEED_FOSSILIZED",
    "SEED_PRUNED",
    "PLATEAU_DETECTED",
    "DEGRADATION_DETECTED",
    "IMPROVEMENT_DETECTED",
    "TRAINING_STARTED",
    "CHECKPOINT_LOADED",
    "EPISODE_OUTCOME",
    "COUNTERFACTUAL_MATRIX_COMPUTED",
    "GRADIENT_ANOMALY",
    "RATIO_EXPLOSION_DETECTED",
    "RATIO_COLLAPSE_DETECTED",
    "VALUE_COLLAPSE_DETECTED",
    "GRADIENT_PATHOLOGY_DETECTED",
    "NUMERICAL_INSTABILITY_DETECTED",
    "PERFORMANCE_DEGRADATION",
    "ANALYTICS_SNAPSHOT",
    "MEMORY_WARNING",
    "REWARD_HACKING_SUSPECTED",
    "REWARD_COMPUTED",
    "INFRASTRUCTURE_SNAPSHOT",
    "HEARTBEAT",
    "POLICY_UPDATE_REJECTED",
    "TAMIYO_STEP_EVALUATED",
    "FIELD_REPORT",
    "PART_LOST",
    "PART_RECOVERED",
    "RUN_FINISHED",
}


def test_the_event_types_are_the_specified_ones() -> None:
    assert set(TelemetryEventType.__members__) == SPECIFIED


@pytest.mark.parametrize("event_type", TelemetryEventType)
def test_every_type_has_a_payload_class_and_a_schema(event_type: TelemetryEventType) -> None:
    assert (event_type in PAYLOAD_CLASSES) != (event_type in WITHOUT_PAYLOAD)
    assert dataclasses.is_dataclass(PAYLOAD_CLASSES[event_type])
    assert len(event_schema(event_type)) > 0


def test_the_union_of_payloads_is_exactly_what_events_carry() -> None:
    assert set(get_args(TelemetryPayload)) == set(PAYLOAD_CLASSES.values())
