"""Payloads made from their own field types, so that a new field is covered the day it is added."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_origin

import pytest

from esper.leyline.telemetry.payload import field_types, without_none

_SCALARS: dict[type, Any] = {bool: True, int: 7, float: 0.25, str: "text é"}


def _value(kind: Any, *, full: bool) -> Any:
    inner, is_optional = without_none(kind)
    if is_optional and not full:
        return None
    origin, arguments = get_origin(inner), get_args(inner)
    if origin is tuple:
        return (_value(arguments[0], full=full), _value(arguments[0], full=False)) if full else ()
    if origin is Mapping:
        return {"r0c0": _value(arguments[1], full=full), "r0c1": _value(arguments[1], full=False)} if full else {}
    return make_payload(inner, full=full) if dataclasses.is_dataclass(inner) else _SCALARS[inner]


def make_payload(cls: Any, *, full: bool) -> Any:
    """A payload with every field set (full) or with its required ones alone, None and empty where allowed."""
    kinds = field_types(cls)
    required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    return cls(**{name: _value(kinds[name], full=full) for name in (kinds if full else required)})


@pytest.fixture(name="make_payload")
def make_payload_fixture() -> Callable[..., Any]:
    return make_payload
