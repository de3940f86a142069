"""Strict configuration: frozen dataclasses are the schema, YAML mappings and `a.b=c` overrides the input.

Unknown keys, wrong types and values out of range are errors that name the key, the value and what would be right.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

_BOUNDS: Mapping[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "ge": ("at least", lambda v, b: v >= b),
    "gt": ("above", lambda v, b: v > b),
    "le": ("at most", lambda v, b: v <= b),
    "lt": ("below", lambda v, b: v < b),
}


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names key, value and remedy."""


def setting(default: Any = dataclasses.MISSING, help: str = "", *, unit: str = "", **bounds: float) -> Any:  # noqa: A002
    """Declare a config field.

    Args:
        default: Its value when the user says nothing; a mutable or nested default is given as a zero-argument callable.
        help: One line for `--help`; states what happens at special values.
        unit: Unit shown beside the default.
        bounds: Any of `ge`, `gt`, `le`, `lt`; for sequences they hold for every element.
    """
    unknown = bounds.keys() - _BOUNDS.keys()
    if unknown:
        raise TypeError(f"unknown bounds {sorted(unknown)}; known: {sorted(_BOUNDS)}")
    metadata = {"help": help, "unit": unit, "bounds": bounds}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def load(cls: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """Build the config dataclass `cls` from nested mappings.

    Raises:
        ConfigError: On an unknown key, a missing required key, a wrong type, or a value out of range.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{prefix or 'configuration'}: expected a mapping of settings, got {values!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean {_join(prefix, close[0])!r}?" if close else f"known: {', '.join(fields)}"
            raise ConfigError(f"unknown setting {_join(prefix, str(key))!r} (value {values[key]!r}); {hint}")
    hints = get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for name, field in fields.items():
        key = _join(prefix, name)
        if name in values:
            arguments[name] = _convert(hints[name], values[name], key)
            _check_bounds(arguments[name], field.metadata.get("bounds", {}), key)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"setting {key!r} is required: {field.metadata.get('help', '')}")
    try:
        return cls(**arguments)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{prefix or cls.__name__}: {error}") from error


def dump(config: Any) -> dict[str, Any]:
    """Turn a config dataclass into plain nested dicts, lists and scalars that `load` accepts again."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, enum.Enum):
            return value.name
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, (tuple, list)):
            return [plain(v) for v in value]
        return value

    result: dict[str, Any] = plain(config)
    return result


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `over` upon `base`, mapping by mapping; anything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def parse_overrides(assignments: Sequence[str]) -> dict[str, Any]:
    """Read `a.b=c` assignments into nested mappings; values are YAML scalars or lists.

    Raises:
        ConfigError: If an assignment has no `=`, an empty key, or a value that is not YAML.
    """
    import yaml

    result: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"override {text!r} is not of the form key=value, e.g. ppo.learning_rate=0.0003")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"override {text!r}: the value is not YAML: {error}") from error
        nested: Any = parsed
        for part in reversed(key.split(".")):
            nested = {part: nested}
        result = merge(result, nested)
    return result


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _convert(kind: Any, value: Any, key: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _convert_union(kind, value, key)
    if origin is Literal:
        if isinstance(value, bool) and value not in get_args(kind):
            value = "on" if value else "off"  # YAML 1.1 reads the bare words as truth values
        if value not in get_args(kind):
            raise ConfigError(f"{key}={value!r} is not one of {', '.join(map(repr, get_args(kind)))}")
        return value
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ConfigError(f"{key}={value!r} should be a list")
        element = get_args(kind)[0]
        return tuple(_convert(element, item, f"{key}[{i}]") for i, item in enumerate(value))
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key}={value!r} should be a mapping")
        return {str(k): _convert(get_args(kind)[1], v, _join(key, str(k))) for k, v in value.items()}
    return _convert_plain(kind, value, key)


def _convert_plain(kind: Any, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return load(kind, value, key) if isinstance(kind, type) else value
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        member = kind.__members__.get(value.upper()) if isinstance(value, str) else None
        if member is None:
            raise ConfigError(f"{key}={value!r} is not one of {', '.join(kind.__members__)}")
        return member
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is float and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise ConfigError(f"{key}={value!r} should be a number") from None
    if kind is Any or (type(value) is kind):
        return value
    raise ConfigError(f"{key}={value!r} should be {_describe(kind)}, got {type(value).__name__}")


def _convert_union(kind: Any, value: Any, key: str) -> Any:
    if value is None and type(None) in get_args(kind):
        return None
    options = [k for k in get_args(kind) if k is not type(None)]
    errors = []
    for option in options:
        try:
            return _convert(option, value, key)
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def _check_bounds(value: Any, bounds: Mapping[str, float], key: str) -> None:
    if value is None:
        return
    for item in value if isinstance(value, tuple) else (value,):
        for name, limit in bounds.items():
            words, holds = _BOUNDS[name]
            if not holds(item, limit):
                raise ConfigError(f"{key}={value!r} should be {words} {limit}")


def _describe(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return names.get(kind, str(kind))
