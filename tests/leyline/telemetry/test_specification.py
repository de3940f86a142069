"""Every event type, payload and field that the specification names is there, of its kind, required or optional as written."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping
from typing import Any, get_args, get_origin

import pytest

from esper.leyline import telemetry
from esper.leyline.telemetry import PAYLOAD_CLASSES, TelemetryEvent, TelemetryEventType, parse_event_type, parse_payload_name
from esper.leyline.telemetry.payload import field_types, without_none
from tests.leyline.telemetry import specification as spec

KINDS = {"f": float, "i": int, "b": bool, "s": str}
CLASSES = {cls.__name__: cls for cls in PAYLOAD_CLASSES.values()}
PAYLOADS = sorted(set(spec.EVENTS.values()))


def fields_of(text: str) -> list[tuple[str, str, str | None]]:
    """(name, kind, default as it is written) of each field."""
    found = []
    for part in text.split():
        declared, _, default = part.partition("=")
        name, _, kind = declared.partition(":")
        found.append((name, kind, default or None))
    return found


def defaults_of(cls: Any) -> dict[str, Any]:
    return {f.name: f.default for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING}


def is_of_kind(kind: Any, wanted: str) -> bool:
    inner, _ = without_none(kind)
    if wanted == "p":
        return dataclasses.is_dataclass(inner)
    if wanted[0] == "l":
        return get_origin(inner) is tuple and is_of_kind(get_args(inner)[0], wanted[2:-1])
    if wanted[0] == "m":
        return get_origin(inner) is Mapping and get_args(inner)[0] is str and is_of_kind(get_args(inner)[1], wanted[2:-1])
    return inner is KINDS[wanted]


@pytest.mark.parametrize(("name", "payload"), spec.EVENTS.items())
def test_every_event_type_carries_its_payload(name: str, payload: str) -> None:
    assert PAYLOAD_CLASSES[TelemetryEventType[name]].__name__ == payload
    assert hasattr(telemetry, payload)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_every_required_field_is_required_and_of_its_kind(payload: str) -> None:
    kinds, defaults = field_types(CLASSES[payload]), defaults_of(CLASSES[payload])
    named = fields_of(spec.REQUIRED.get(payload, ""))
    for name, kind, _ in named:
        assert name not in defaults, name
        assert is_of_kind(kinds[name], kind), name
    required = [name for name in kinds if name not in defaults]
    assert sorted(required) == sorted([name for name, _, _ in named] + spec.ALSO_REQUIRED.get(payload, "").split())


@pytest.mark.parametrize("payload", PAYLOADS)
def test_every_optional_field_has_its_default_or_none_where_nothing_was_measured(payload: str) -> None:
    kinds, defaults = field_types(CLASSES[payload]), defaults_of(CLASSES[payload])
    for name, kind, default in fields_of(spec.OPTIONAL.get(payload, "")):
        assert name in defaults, name
        assert is_of_kind(kinds[name], kind), name
        assert default is not None
        assert defaults[name] in (ast.literal_eval(default), None), name


@pytest.mark.parametrize(("payload", "names"), spec.NOWHERE.items())
def test_fields_that_misled_are_gone(payload: str, names: tuple[str, ...]) -> None:
    assert not set(names) & field_types(CLASSES[payload]).keys()


def test_the_envelope_is_the_specified_one() -> None:
    assert {f.name for f in dataclasses.fields(TelemetryEvent)} == set(spec.ENVELOPE.split())


@pytest.mark.parametrize(("old", "new"), spec.LEGACY_EVENTS.items())
def test_old_event_names_are_read(old: str, new: str) -> None:
    assert parse_event_type(old) is TelemetryEventType[new]
    assert old not in TelemetryEventType.__members__


@pytest.mark.parametrize(("old", "new"), [*spec.LEGACY_PAYLOADS.items(), *((name, name) for name in PAYLOADS)])
def test_old_and_current_payload_names_are_read(old: str, new: str) -> None:
    assert parse_payload_name(old) is CLASSES[new]
    assert getattr(telemetry, old) is CLASSES[new]


def test_an_unknown_payload_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'PPOPayload'.*TamiyoPolicyUpdatePayload"):
        parse_payload_name("PPOPayload")


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
def test_no_field_is_open(cls: Any) -> None:
    def kinds(kind: Any) -> list[Any]:
        inner, _ = without_none(kind)
        if dataclasses.is_dataclass(inner):
            return [leaf for own in field_types(inner).values() for leaf in kinds(own)]
        arguments = [argument for argument in get_args(inner) if argument is not ...]
        return [leaf for argument in arguments for leaf in kinds(argument)] if arguments else [inner]

    assert all(leaf in KINDS.values() for kind in field_types(cls).values() for leaf in kinds(kind))
