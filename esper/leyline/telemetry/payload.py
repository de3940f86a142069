"""How payloads become plain dicts and come back, strictly: nothing missing, nothing unknown, nothing of a wrong type."""

from __future__ import annotations

import dataclasses
import enum
import types
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Self, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class Payload:
    """Base of every payload. Subclasses are frozen slotted dataclasses whose fields are the one name of each metric."""

    __slots__ = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a payload from JSON-like values; lists become tuples, mappings become nested payloads.

        Raises:
            KeyError: If a required field is missing.
            ValueError: If a key is not a field.
            TypeError: If a value is not of its field's type.
        """
        return _build(cls, values, cls.__name__)

    def to_dict(self) -> dict[str, Any]:
        """Turn into dicts, lists and scalars that `from_dict` accepts again."""
        result: dict[str, Any] = to_plain(self)
        return result


def field_types(cls: Any) -> Mapping[str, Any]:
    """Resolved type of every field of a dataclass, in order."""
    return _field_types(cls)


@cache
def _field_types(cls: Any) -> Mapping[str, Any]:
    hints = get_type_hints(cls)
    return types.MappingProxyType({field.name: hints[field.name] for field in dataclasses.fields(cls)})


def without_none(kind: Any) -> tuple[Any, bool]:
    """Split `X | None` into X and True; any other type into itself and False.

    Raises:
        TypeError: If `kind` is a union of several types.
    """
    if get_origin(kind) not in (Union, types.UnionType):
        return kind, False
    options = [option for option in get_args(kind) if option is not type(None)]
    if len(options) != 1:
        raise TypeError(f"a payload field has one type or that type and None, got {kind}")
    return options[0], True


def to_plain(value: Any) -> Any:
    """Reduce a payload field's value to dicts, lists and scalars; enums become their names."""
    if dataclasses.is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    return value


def _build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    kinds = field_types(cls)
    unknown = sorted(values.keys() - kinds.keys())
    if unknown:
        raise ValueError(f"{where} has no field {', '.join(map(repr, unknown))}; it has {', '.join(kinds)}")
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if field.name not in values and not has_default:
            raise KeyError(f"{where}.{field.name}")
    return cls(**{name: _read(kinds[name], value, f"{where}.{name}") for name, value in values.items()})


def _read(kind: Any, value: Any, where: str) -> Any:
    kind, is_optional = without_none(kind)
    if value is None and is_optional:
        return None
    origin = get_origin(kind)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise TypeError(f"{where} should be a list, got {value!r}")
        return tuple(_read(get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise TypeError(f"{where} should be a mapping, got {value!r}")
        return {str(key): _read(get_args(kind)[1], item, f"{where}[{key!r}]") for key, item in value.items()}
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return _build(kind, value, where)  # type: ignore[arg-type]
    return _read_scalar(kind, value, where)


def _read_scalar(kind: type, value: Any, where: str) -> Any:
    if issubclass(kind, enum.Enum) and isinstance(value, str) and value in kind.__members__:
        return kind[value]
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise TypeError(f"{where} should be {kind.__name__}, got {value!r}")
