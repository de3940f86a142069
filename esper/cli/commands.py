"""What each command does: reads its arguments, calls `esper.distributed`, prints what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from esper.cli import doctor
from esper.cli.engines import explain_engines
from esper.cli.main import FAILED, INTERRUPTED, OK
from esper.distributed.checkpoint import CheckpointError
from esper.distributed.config import RunConfig, read_run_config
from esper.distributed.executor import ClusterError, RunFailedError
from esper.distributed.run_dir import RunDirError
from esper.distributed.session import evaluate_run, resume_run, train_run
from esper.kasmina.wrapping.observe import WrapError
from esper.leyline.load import ConfigError, dump

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

USER_ERRORS = (ConfigError, WrapError, RunDirError, CheckpointError, ClusterError, RunFailedError)
"""Errors whose message is meant for the user as it stands."""


def run(options: argparse.Namespace) -> int:
    """Run the chosen command."""
    handlers: dict[str, Callable[[argparse.Namespace], int]] = {
        "train": _train,
        "resume": _resume,
        "eval": _evaluate,
        "doctor": _doctor,
    }
    return handlers[options.command](options)


def _train(options: argparse.Namespace) -> int:
    config = read_run_config(options.config, _overrides(options))
    if options.print_config:
        print(yaml.safe_dump(dump(config), sort_keys=False), end="")
        return OK
    return _finish(train_run(config, options.run_dir or _default_run_dir(config), local=options.local))


def _resume(options: argparse.Namespace) -> int:
    return _finish(resume_run(options.run_dir, local=options.local))


def _evaluate(options: argparse.Namespace) -> int:
    baselines = tuple(options.baselines.split(",")) if options.baselines is not None else None
    changes = {"seeds_per_context": options.seeds, "baselines": baselines, "split": options.split}
    if options.json is not None and not options.json.resolve().parent.is_dir():
        raise ConfigError(f"--json {options.json}: the folder {options.json.resolve().parent} does not exist")
    comparison = evaluate_run(
        options.run_dir,
        {key: value for key, value in changes.items() if value is not None},
        checkpoint=options.checkpoint,
        local=options.local,
    )
    if comparison is None:
        return INTERRUPTED
    if options.json is not None:
        options.json.write_text(json.dumps(comparison, indent=1))
        print(f"comparison  {options.json}")
    return OK


def _doctor(options: argparse.Namespace) -> int:
    if options.engines:
        print(explain_engines(options.data_dir))
        return OK
    findings = doctor.examine(options.data_dir)
    print(doctor.render(findings))
    return OK if all(f.is_good for f in findings if f.is_required) else FAILED


def _finish(was_interrupted: bool) -> int:
    return INTERRUPTED if was_interrupted else OK


def _overrides(options: argparse.Namespace) -> list[str]:
    overrides = list(options.settings)
    if options.seed is not None:
        overrides.append(f"seed={options.seed}")
    if options.slots is not None:
        overrides.append(f"growth.slots=[{options.slots}]")
    return overrides


def _default_run_dir(config: RunConfig) -> Path:
    return Path("runs") / f"{config.task.preset}-{config.seed}"
