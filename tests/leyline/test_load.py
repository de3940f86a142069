"""Strict configuration: what is right is read exactly, what is wrong is named with its remedy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import pytest

from esper.leyline.load import ConfigError, dump, load, merge, parse_overrides, setting


class Colour(Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Inner:
    rate: float = setting(0.1, "step size", gt=0.0, le=1.0)
    kind: Literal["a", "b"] = setting("a", "which")


@dataclass(frozen=True)
class Outer:
    name: str = setting(help="label of the run")
    count: int = setting(3, "how many", unit="epochs", ge=1)
    limit: int | None = setting(None, "cap; none means no cap")
    sizes: tuple[int, ...] = setting((1, 2), "widths", ge=1)
    flag: bool = setting(default=False)
    colour: Colour = setting(Colour.RED, "paint")
    weights: Mapping[str, float] = setting(dict, "by name")
    inner: Inner = setting(Inner, "nested")
    one_of: Inner | int = setting(0, "either")

    def __post_init__(self) -> None:
        if self.count == 13:
            raise ValueError("13 is unlucky")


def test_values_and_defaults_are_read() -> None:
    config = load(Outer, {"name": "x", "sizes": [3], "inner": {"rate": 1}, "weights": {"a": 2}, "colour": "blue"})
    assert config == Outer(name="x", sizes=(3,), inner=Inner(rate=1.0), weights={"a": 2.0}, colour=Colour.BLUE)
    assert isinstance(config.inner.rate, float)


def test_a_dumped_config_reads_back_through_json() -> None:
    config = Outer(name="x", limit=4, colour=Colour.BLUE, weights={"a": 0.5}, inner=Inner(rate=0.5, kind="b"), one_of=Inner())
    assert load(Outer, json.loads(json.dumps(dump(config)))) == config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, ["'name'", "required", "label of the run"]),
        ({"name": "x", "cuont": 2}, ["'cuont'", "2", "did you mean 'count'"]),
        ({"name": "x", "inner": {"zzz": 1}}, ["'inner.zzz'", "known: rate, kind"]),
        ({"name": "x", "count": 0}, ["count=0", "at least 1"]),
        ({"name": "x", "count": 1.5}, ["count=1.5", "a whole number", "float"]),
        ({"name": "x", "count": True}, ["count=True", "a whole number"]),
        ({"name": "x", "flag": 1}, ["flag=1", "true or false"]),
        ({"name": 3}, ["name=3", "text"]),
        ({"name": "x", "sizes": 3}, ["sizes=3", "a list"]),
        ({"name": "x", "sizes": [1, "a"]}, ["sizes[1]='a'", "a whole number"]),
        ({"name": "x", "sizes": [1, 0]}, ["sizes=(1, 0)", "at least 1"]),
        ({"name": "x", "inner": {"rate": 0}}, ["inner.rate=0.0", "above 0"]),
        ({"name": "x", "inner": {"rate": 2}}, ["inner.rate=2.0", "at most 1"]),
        ({"name": "x", "inner": {"rate": "fast"}}, ["inner.rate='fast'", "a number"]),
        ({"name": "x", "inner": {"kind": "c"}}, ["inner.kind='c'", "'a', 'b'"]),
        ({"name": "x", "inner": 4}, ["inner", "mapping", "4"]),
        ({"name": "x", "colour": "green"}, ["colour='green'", "RED, BLUE"]),
        ({"name": "x", "weights": {"a": "b"}}, ["weights.a='b'", "a number"]),
        ({"name": "x", "weights": [1]}, ["weights=[1]", "a mapping"]),
        ({"name": "x", "limit": "many"}, ["limit='many'", "a whole number"]),
        ({"name": "x", "count": 13}, ["Outer", "unlucky"]),
    ],
)
def test_an_error_names_key_value_and_remedy(values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(Outer, values)
    for word in words:
        assert word in str(caught.value)


def test_something_else_than_a_mapping_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a mapping"):
        load(Outer, [1, 2])  # type: ignore[arg-type]


def test_text_that_yaml_leaves_a_string_may_be_a_number() -> None:
    assert load(Inner, parse_overrides(["rate=3e-4"])).rate == 3e-4


def test_an_unknown_bound_is_a_mistake_of_the_programmer() -> None:
    with pytest.raises(TypeError, match="above"):
        setting(1, "x", above=3)


def test_laying_over_replaces_leaves_and_keeps_the_rest() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 3}
    assert merge(base, {"a": {"c": [9]}, "e": 4}) == {"a": {"b": 1, "c": [9]}, "d": 3, "e": 4}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 3}


def test_overrides_become_nested_mappings() -> None:
    assert parse_overrides(["a.b=1", "a.c=[1, x]", "d=null", "e=x=y"]) == {"a": {"b": 1, "c": [1, "x"]}, "d": None, "e": "x=y"}


@pytest.mark.parametrize("text", ["a", "=1", "a..b=1", ".a=1", "a=[1"])
def test_an_override_that_cannot_be_read_is_quoted(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_overrides([text])
    assert repr(text) in str(caught.value)


@dataclass(frozen=True)
class Switch:
    mode: Literal["off", "on", "auto"] = setting("auto")


@pytest.mark.parametrize("word", ["off", "on", "auto"])
def test_a_bare_off_or_on_is_the_word_where_that_is_a_choice(word: str) -> None:
    assert load(Switch, parse_overrides([f"mode={word}"])).mode == word
