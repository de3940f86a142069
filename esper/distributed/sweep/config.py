"""Settings of a sweep, and what a sweep file says: read and checked as a whole before any work."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import yaml

from esper.distributed.config import RunConfig, config_from
from esper.distributed.settings_file import read_settings
from esper.distributed.sweep.space import Point, Space, flat, lay, nested, parse_space
from esper.karn.sweeps import OBJECTIVES
from esper.leyline.load import ConfigError, dump, load, merge, parse_overrides, setting

if TYPE_CHECKING:
    from pathlib import Path

NUM_TRIED = 64
"""Points drawn from the space before the sweep begins, to find combinations that no run can have."""
MEASURES = {
    "utility": ("reward.rent_weight", "reward.rent_form", "reward.rent_reference_params"),
    "utility_recent": ("reward.rent_weight", "reward.rent_form", "reward.rent_reference_params"),
    "reward": ("reward",),
    "accuracy": (),
}
"""Settings that define a metric: trials that differ in one are not comparable by it."""
MUTABLE = ("ppo", "reward")
"""Sections that may change in the middle of a run, which population based training does."""
SHARED = ("cluster", "checkpoint", "telemetry")
"""Sections that all trials have in common: one session plays them, and their checkpoints and telemetry are the sweep's to keep."""
COUNTING_ACTORS = ("rollout.num_envs", "rollout.envs_per_actor")
"""Settings that say how many environment actors a run has."""


@dataclass(frozen=True)
class SchedulerConfig:
    """Which trials may go on."""

    kind: Literal["none", "asha", "pbt"] = setting(
        "none",
        "none plays every trial to its end; asha stops trials that are behind (Li et al. 2020); "
        "pbt lets them continue from a better one's weights with changed parameters (Jaderberg et al. 2017)",
    )
    grace_rounds: int = setting(2, "asha: rounds that every trial plays before it may be stopped", unit="rounds", ge=1)
    reduction_factor: int = setting(3, "asha: one in so many trials goes on at each rung, and rungs are so many times apart", ge=2)
    perturb_rounds: int = setting(2, "pbt: rounds between comparisons", unit="rounds", ge=1)
    quantile_frac: float = setting(0.25, "pbt: share of the trials that is replaced, and share that it is copied from", gt=0.0, le=0.5)
    resample_frac: float = setting(0.25, "pbt: chance that a parameter is drawn anew where others are changed a little", ge=0.0, le=1.0)


@dataclass(frozen=True)
class SweepConfig:
    """Everything a sweep depends on."""

    name: str = setting("", "what the sweep is called, and the group of its runs in Weights & Biases; empty: as its file")
    base: str | None = setting(None, "YAML file of settings that all trials share, e.g. ../run/quick.yaml, relative to the sweep's file")
    run: Mapping[str, Any] = setting(
        dict, "settings that all trials share, above those of `base`; on the command line e.g. run.rollout.rounds=10"
    )
    space: Mapping[str, Any] = setting(
        dict,
        "what varies: dotted setting → uniform, loguniform, randint or choice, and when; on the command line "
        "'space.ppo.gamma={uniform: [0.9, 1.0]}' adds a parameter or replaces the file's, and space.ppo.gamma=null leaves it out",
    )
    metric: str = setting("utility_recent", f"what is optimised: {', '.join(OBJECTIVES)}")
    mode: Literal["max", "min"] = setting("max", "whether more is better")
    recent_rounds: int = setting(3, "rounds that utility_recent averages", unit="rounds", ge=1)
    num_trials: int = setting(8, "trials, started one after another as room allows", unit="trials", ge=1)
    max_concurrent: int | None = setting(
        None, "trials at once; none: as many as fit. A search with optuna learns from finished trials only", unit="trials", ge=1
    )
    seed: int = setting(0, "root of the search's randomness; that of the runs is run.seed, the same for all trials", ge=0)
    search: Literal["random", "optuna"] = setting("random", "random draws all points beforehand; optuna is TPE (Bergstra et al. 2011)")
    scheduler: SchedulerConfig = setting(SchedulerConfig, "which trials may go on")
    local: bool = setting(True, "true plays a trial in one process; false gives it environment actors and a learner of its own")
    max_failures: int = setting(1, "times that a trial is started again from its last checkpoint after a fault", ge=0)


@dataclass(frozen=True)
class Sweep:
    """A sweep that has been checked."""

    config: SweepConfig
    space: Space
    points: tuple[Point, ...] | None = None
    """The trials' points, where they are known beforehand."""
    evaluates: bool = False
    """Whether a finished trial's policy plays on hosts that it never trained on."""

    @property
    def name(self) -> str:
        """What it is called."""
        return self.config.name

    @property
    def base(self) -> RunConfig:
        """The run without any change."""
        return config_from(self.config.run)

    def run_config(self, point: Mapping[str, Any]) -> RunConfig:
        """The run at a point."""
        return config_from(merge(self.config.run, nested(point)))


def read_sweep(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read and check a sweep file.

    Raises:
        ConfigError: If it cannot be read, or something in it is wrong.
    """
    written, named = read_settings(path), parse_overrides(overrides)
    config = load(SweepConfig, merge(written, named))
    shared = config.run if config.base is None else merge(read_settings(path.parent / config.base), config.run)
    space = lay(_space_of(written), _space_of(named))
    return check_sweep(replace(config, name=config.name or path.stem, base=None, run=shared, space=space))


def check_sweep(config: SweepConfig) -> Sweep:
    """Check a sweep against the run's settings and draw its points where the search does not depend on results.

    Raises:
        ConfigError: Naming key, value and what would be right.
    """
    space = parse_space(config.space)
    sweep = Sweep(config, space)
    base = sweep.base
    if base.checkpoint.uri is not None:
        raise ConfigError(f"checkpoint.uri={base.checkpoint.uri!r} would be shared by all trials; leave it out: Tune copies what they save")
    if config.metric not in OBJECTIVES:
        raise ConfigError(f"metric={config.metric!r} is measured in no round; there are {', '.join(OBJECTIVES)}")
    _check_comparability(config.metric, space)
    _check_parameters(sweep)
    _check_placement(space, local=config.local)
    _check_scheduler(config, space, base)
    rng = np.random.default_rng(config.seed)
    for _ in range(NUM_TRIED):
        _check_point(sweep, space.draw(rng))
    if config.search == "optuna":
        if importlib.util.find_spec("optuna") is None:
            raise ConfigError("search='optuna' needs the package optuna, which is not installed; install it, or set search=random")
        return sweep
    rng = np.random.default_rng(config.seed)
    points = tuple(space.draw(rng) for _ in range(config.num_trials))
    for point in points:
        _check_point(sweep, point)
    return replace(sweep, points=points)


def write_sweep(sweep: Sweep, path: Path) -> None:
    """Write the resolved sweep as YAML that `read_sweep` reads back."""
    path.write_text(yaml.safe_dump(dump(sweep.config), sort_keys=False))


def _space_of(values: Mapping[str, Any]) -> dict[str, Any]:
    given = values.get("space")
    return flat(given) if isinstance(given, Mapping) else {}


def _check_parameters(sweep: Sweep) -> None:
    """Both ends of every range, and every option, by itself and together with what its condition wants."""
    for parameter in sweep.space.parameters:
        needed = {key: allowed[0] for key, allowed in parameter.when}
        for value in parameter.values:
            try:
                sweep.run_config({**needed, parameter.key: value})
            except ConfigError as error:
                raise ConfigError(f"space.{parameter.key}.{parameter.kind}={list(parameter.values)!r}: {error}") from error


def _check_placement(space: Space, *, local: bool) -> None:
    """A trial's room is made from the settings that all share, before anybody knows its point."""
    for key in space.keys:
        section = next((section for section in SHARED if _is_within(key, section)), None)
        if section is not None:
            raise ConfigError(
                f"space.{key} cannot vary: {section} says where runs are played and what is kept of them, which is the same for all "
                f"trials; give it once, as run.{key}"
            )
        if not local and any(_is_within(key, counting) or _is_within(counting, key) for counting in COUNTING_ACTORS):
            raise ConfigError(
                f"space.{key} cannot vary with local=false: trials get room for one number of environment actors; set local=true, "
                f"which plays every trial in one process, or fix it as run.{key}"
            )


def _check_point(sweep: Sweep, point: Point) -> None:
    try:
        sweep.run_config(point)
    except ConfigError as error:
        raise ConfigError(f"the space holds a point that no run can have: {point}: {error}; restrict it, e.g. with `when`") from error


def _check_comparability(metric: str, space: Space) -> None:
    defining = [key for key in space.keys if any(_is_within(key, setting_) for setting_ in (*MEASURES[metric], "task"))]
    if defining:
        raise ConfigError(
            f"space.{defining[0]} changes what {metric} measures, so that trials could not be compared by it; "
            + ("give each task a sweep of its own" if _is_within(defining[0], "task") else "set metric=accuracy, or fix it under `run`")
        )


def _check_scheduler(config: SweepConfig, space: Space, base: RunConfig) -> None:
    scheduler, rounds = config.scheduler, base.rollout.rounds
    if scheduler.kind == "asha" and scheduler.grace_rounds >= rounds:
        raise ConfigError(
            f"scheduler.grace_rounds={scheduler.grace_rounds} should be below rollout.rounds={rounds}: nothing would be stopped"
        )
    if scheduler.kind != "pbt":
        return
    if config.search != "random":
        raise ConfigError(f"search={config.search!r} cannot go with scheduler.kind=pbt, which changes parameters itself; set search=random")
    if scheduler.perturb_rounds >= rounds:
        raise ConfigError(f"scheduler.perturb_rounds={scheduler.perturb_rounds} should be below rollout.rounds={rounds}: none would change")
    if config.num_trials < 2:
        raise ConfigError(
            f"num_trials={config.num_trials} should be 2 or more with scheduler.kind=pbt, which copies one trial into another"
        )
    for parameter in space.parameters:
        if not any(_is_within(parameter.key, section) for section in MUTABLE) or bool in map(type, parameter.values):
            raise ConfigError(
                f"space.{parameter.key} cannot vary with scheduler.kind=pbt: a trial goes on from another's checkpoint, which fits only "
                f"if they differ in numbers and names under {' and '.join(MUTABLE)}; use asha, or fix it under `run`"
            )


def _is_within(key: str, section: str) -> bool:
    return key == section or key.startswith(f"{section}.")
