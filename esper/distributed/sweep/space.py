"""What a sweep varies: parameters read from YAML, checked against the run's settings, drawn and perturbed. Pure, without Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from esper.leyline.load import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

Point = dict[str, Any]
"""One value for every parameter that applies, by its dotted setting."""
KINDS = ("uniform", "loguniform", "randint", "choice")
WHEN = "when"
FACTORS = (0.8, 1.25)
"""What a perturbed number is multiplied by."""


@dataclass(frozen=True)
class Parameter:
    """One setting that varies."""

    key: str
    """Dotted setting of the run, e.g. `ppo.learning_rate`."""
    kind: str
    """One of `KINDS`; both ends of a range belong to it."""
    values: tuple[Any, ...]
    """Lower and upper end, or the options of a choice."""
    when: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    """Parameters before this one, and the values of theirs with which this one applies."""

    def applies(self, point: Mapping[str, Any]) -> bool:
        """Whether its conditions hold at `point`."""
        return all(key in point and point[key] in allowed for key, allowed in self.when)

    def draw(self, rng: np.random.Generator) -> Any:
        """A value from its distribution."""
        if self.kind == "choice":
            return self.values[int(rng.integers(len(self.values)))]
        low, high = self.values
        if self.kind == "randint":
            return int(rng.integers(low, high, endpoint=True))
        if self.kind == "loguniform":
            return self.clip(math.exp(rng.uniform(math.log(low), math.log(high))))
        return float(rng.uniform(low, high))

    def perturb(self, value: Any, rng: np.random.Generator) -> Any:
        """A value near `value` and within the range: a neighbouring option, or the number times one of `FACTORS`."""
        if self.kind == "choice":
            at = self.values.index(value) + (1 if rng.integers(2) else -1)
            return self.values[min(max(at, 0), len(self.values) - 1)]
        factor = FACTORS[int(rng.integers(2))]
        if self.kind == "randint":
            step = max(1, round(abs(value) * abs(factor - 1.0)))
            return int(self.clip(value + (step if factor > 1.0 else -step)))
        return self.clip(value * factor)

    def clip(self, value: Any) -> Any:
        """The nearest value within the range."""
        low, high = self.values
        return min(max(value, low), high)


@dataclass(frozen=True)
class Space:
    """Parameters in the order of the file; a condition refers to ones before it."""

    parameters: tuple[Parameter, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """Settings that vary."""
        return tuple(parameter.key for parameter in self.parameters)

    def walk(self, suggest: Callable[[Parameter], Any]) -> Point:
        """Ask for the value of every parameter that applies, in order."""
        point: Point = {}
        for parameter in self.parameters:
            if parameter.applies(point):
                point[parameter.key] = suggest(parameter)
        return point

    def draw(self, rng: np.random.Generator) -> Point:
        """A random point."""
        return self.walk(lambda parameter: parameter.draw(rng))

    def explore(self, point: Mapping[str, Any], rng: np.random.Generator, *, resample_frac: float) -> Point:
        """A point near `point` (Jaderberg et al. 2017): each value is drawn anew with probability `resample_frac`, or perturbed."""

        def suggest(parameter: Parameter) -> Any:
            is_new = rng.random() < resample_frac or parameter.key not in point
            return parameter.draw(rng) if is_new else parameter.perturb(point[parameter.key], rng)

        return self.walk(suggest)


def parse_space(values: Mapping[str, Any]) -> Space:
    """Read the `space` section of a sweep file.

    Raises:
        ConfigError: If a parameter has no or two distributions, impossible ends, or a condition on what does not come before it.
    """
    if not values:
        raise ConfigError("space is empty; give at least one setting, e.g. ppo.learning_rate: {loguniform: [0.0001, 0.01]}")
    parsed: dict[str, Parameter] = {}
    for key, spec in values.items():
        parsed[str(key)] = _parse_parameter(str(key), spec, parsed)
    return Space(tuple(parsed.values()))


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The `space` section with dotted settings as keys, where the command line or a file has nested it by sections."""
    result: dict[str, Any] = {}
    for key, spec in values.items():
        if _is_section(spec):
            result |= flat(spec, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = spec
    return result


def lay(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay parameters upon those of a file: each one is replaced as a whole, in its place, and None leaves it out.

    Raises:
        ConfigError: If something is left out that is not there.
    """
    missing = [key for key, spec in over.items() if spec is None and key not in base]
    if missing:
        raise ConfigError(f"space.{missing[0]}=null leaves out what does not vary; the file has {', '.join(base) or 'nothing'}")
    return {key: spec for key, spec in {**base, **over}.items() if spec is not None or key not in over}


def nested(point: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted settings as nested mappings."""
    result: dict[str, Any] = {}
    for key, value in point.items():
        *parents, name = key.split(".")
        level = result
        for parent in parents:
            level = level.setdefault(parent, {})
        level[name] = value
    return result


def _is_section(spec: Any) -> bool:
    """Whether a mapping holds parameters and is none itself: it names no distribution, nor something unknown with ends or options."""
    if not isinstance(spec, Mapping) or not spec or any(name in spec for name in (*KINDS, WHEN)):
        return False
    return not any(isinstance(part, list) for part in spec.values())


def _parse_parameter(key: str, spec: Any, known: Mapping[str, Parameter]) -> Parameter:
    if not isinstance(spec, Mapping):
        raise ConfigError(f"space.{key}={spec!r} should name a distribution, e.g. {{uniform: [0.0, 1.0]}} or {{choice: [a, b]}}")
    kinds = [name for name in spec if name != WHEN]
    unknown = [name for name in kinds if name not in KINDS]
    if unknown:
        raise ConfigError(f"space.{key}: {unknown[0]!r} is no distribution; there are {', '.join(KINDS)}, and `when` for a condition")
    if len(kinds) != 1:
        raise ConfigError(f"space.{key} should have exactly one of {', '.join(KINDS)}, got {', '.join(kinds) or 'none'}")
    kind = kinds[0]
    given = spec[kind]
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ConfigError(f"space.{key}.{kind}={given!r} should be a list")
    values = _parse_options(key, given) if kind == "choice" else _parse_ends(key, kind, given)
    return Parameter(key, kind, values, _parse_condition(key, spec.get(WHEN, {}), known))


def _parse_options(key: str, given: Sequence[Any]) -> tuple[Any, ...]:
    options = tuple(given)
    if len(options) < 2 or any(option in options[:i] for i, option in enumerate(options)):
        raise ConfigError(f"space.{key}.choice={list(given)!r} should have two or more different options")
    return options


def _parse_ends(key: str, kind: str, given: Sequence[Any]) -> tuple[Any, ...]:
    name = f"space.{key}.{kind}={list(given)!r}"
    if len(given) != 2:
        raise ConfigError(f"{name} should have two numbers: the lower and the upper end")
    if kind == "randint":
        if any(type(end) is not int for end in given):
            raise ConfigError(f"{name} should have whole numbers")
        ends: tuple[Any, ...] = tuple(given)
    else:
        ends = tuple(_number(end, name) for end in given)
    low, high = ends
    if not low < high:
        raise ConfigError(f"{name}: the lower end should be below the upper one")
    if kind == "loguniform" and low <= 0:
        raise ConfigError(f"{name}: the lower end should be above 0, which has no logarithm")
    return ends


def _number(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise ConfigError(f"{name}: {value!r} should be a finite number")
    return number


def _parse_condition(key: str, given: Any, known: Mapping[str, Parameter]) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"space.{key}.when={given!r} should be a mapping, e.g. {{reward.mode: shaped}}")
    conditions = []
    for other, allowed in given.items():
        if other not in known:
            listed = ", ".join(known) or "none"
            raise ConfigError(f"space.{key}.when: {other!r} is not a parameter that stands before {key}; these do: {listed}")
        if known[other].kind != "choice":
            raise ConfigError(f"space.{key}.when: {other} should be a choice, it is {known[other].kind}")
        options = tuple(allowed) if isinstance(allowed, list) else (allowed,)
        wrong = [option for option in options if option not in known[other].values]
        if wrong:
            raise ConfigError(f"space.{key}.when: {other}={wrong[0]!r} never holds; its options are {list(known[other].values)!r}")
        conditions.append((str(other), options))
    return tuple(conditions)
