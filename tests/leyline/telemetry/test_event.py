"""Events: each type has its payload, and envelope and payload never disagree."""

from __future__ import annotations

import dataclasses
import json
import pickle
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from esper.leyline.telemetry import (
    LEGACY_EVENT_NAMES,
    PAYLOAD_CLASSES,
    HeartbeatPayload,
    SeedPrunedPayload,
    TamiyoInitiatedPayload,
    TelemetryEvent,
    TelemetryEventType,
    event_domain,
    parse_event_type,
)

if TYPE_CHECKING:
    from collections.abc import Callable

PRUNED = SeedPrunedPayload(slot_id="r0c0", env_id=1, reason="harmful")
BEAT = HeartbeatPayload(source="learner", uptime_sec=1.0, training_thread_alive=True)


def test_an_envelope_has_sensible_defaults() -> None:
    beat = TelemetryEvent(TelemetryEventType.HEARTBEAT, data=BEAT)
    assert beat.timestamp.tzinfo is not None
    assert (beat.event_id, beat.group_id, beat.message, beat.severity) == ("", "default", "", "info")
    assert (beat.seed_id, beat.slot_id, beat.epoch) == (None, None, None)


@pytest.mark.parametrize("event_type", TelemetryEventType)
@pytest.mark.parametrize("full", [True, False])
def test_every_event_reads_back_through_json_and_pickle(
    event_type: TelemetryEventType, full: bool, make_payload: Callable[..., Any]
) -> None:
    event = TelemetryEvent(event_type, data=make_payload(PAYLOAD_CLASSES[event_type], full=full), group_id="g", severity="warning")
    assert TelemetryEvent.from_dict(json.loads(json.dumps(event.to_dict()))) == event
    assert pickle.loads(pickle.dumps(event)) == event


def test_a_field_of_both_is_one() -> None:
    assert TelemetryEvent(TelemetryEventType.SEED_PRUNED, data=PRUNED).slot_id == "r0c0"
    assert TelemetryEvent(TelemetryEventType.SEED_PRUNED, data=PRUNED, slot_id="r0c0").slot_id == "r0c0"
    with pytest.raises(ValueError, match="slot_id is 'r9c9' in the envelope and 'r0c0' in the payload"):
        TelemetryEvent(TelemetryEventType.SEED_PRUNED, data=PRUNED, slot_id="r9c9")
    initiated = TamiyoInitiatedPayload(env_id=0, epoch=0, stable_count=3, stabilization_epochs=3, val_loss=1.0)
    assert TelemetryEvent(TelemetryEventType.TAMIYO_INITIATED, data=initiated).epoch == 0


def test_a_payload_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="SEED_GERMINATED carries SeedGerminatedPayload, got SeedPrunedPayload"):
        TelemetryEvent(TelemetryEventType.SEED_GERMINATED, data=PRUNED)


def test_a_time_without_zone_and_an_unknown_severity_are_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        TelemetryEvent(TelemetryEventType.HEARTBEAT, data=BEAT, timestamp=datetime(2026, 1, 1))
    with pytest.raises(ValueError, match="'loud'"):
        TelemetryEvent(TelemetryEventType.HEARTBEAT, data=BEAT, severity="loud")  # type: ignore[arg-type]


def test_events_are_frozen() -> None:
    event = TelemetryEvent(TelemetryEventType.HEARTBEAT, data=BEAT)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.message = "x"  # type: ignore[misc]


@pytest.mark.parametrize("event_type", TelemetryEventType)
def test_names_read_back_in_any_case(event_type: TelemetryEventType) -> None:
    assert parse_event_type(event_type.name) is parse_event_type(event_type.name.lower()) is event_type


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("PPO_UPDATE_COMPLETED", "TAMIYO_POLICY_UPDATE"),
        ("EPOCH_COMPLETED", "TOLARIA_EPOCH_COMPLETED"),
        ("BATCH_EPOCH_COMPLETED", "TOLARIA_BATCH_COMPLETED"),
        ("GOVERNOR_ROLLBACK", "TOLARIA_ROLLBACK"),
    ],
)
def test_names_from_before_are_read_but_never_written(old: str, new: str, make_payload: Callable[..., Any]) -> None:
    assert parse_event_type(old).name == new
    assert old not in TelemetryEventType.__members__
    payload = make_payload(PAYLOAD_CLASSES[TelemetryEventType[new]], full=False)
    event = TelemetryEvent.from_dict({"event_type": old, "data": payload.to_dict()})
    assert event.to_dict()["event_type"] == new
    assert len(LEGACY_EVENT_NAMES) == 4


@pytest.mark.parametrize("name", ["ISOLATION_VIOLATION", "", "HEART BEAT"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="HEARTBEAT"):
        parse_event_type(name)


def test_an_incomplete_or_embellished_event_is_refused() -> None:
    values = TelemetryEvent(TelemetryEventType.HEARTBEAT, data=BEAT).to_dict()
    with pytest.raises(KeyError, match="data"):
        TelemetryEvent.from_dict({k: v for k, v in values.items() if k != "data"})
    with pytest.raises(ValueError, match="'mood'"):
        TelemetryEvent.from_dict({**values, "mood": 1})


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("TAMIYO_POLICY_UPDATE", "tamiyo"),
        ("TOLARIA_ROLLBACK", "tolaria"),
        ("SEED_PRUNED", "kasmina"),
        ("EPISODE_OUTCOME", "simic"),
        ("INFRASTRUCTURE_SNAPSHOT", "infra"),
        ("TRAINING_STARTED", "run"),
    ],
)
def test_every_event_belongs_to_a_domain(name: str, domain: str) -> None:
    assert event_domain(TelemetryEventType[name]) == domain
    assert {event_domain(t) for t in TelemetryEventType} == {"tamiyo", "tolaria", "kasmina", "simic", "infra", "run"}


def test_an_emitter_is_anything_that_takes_events(list_emitter: Any) -> None:
    list_emitter.emit(TelemetryEvent(TelemetryEventType.HEARTBEAT, data=BEAT))
    assert [event.data for event in list_emitter.of_type(TelemetryEventType.HEARTBEAT)] == [BEAT]
    assert list_emitter.of_type(TelemetryEventType.SEED_PRUNED) == []
