"""`esper train`, `resume`, `eval` and `export`: what plays episodes or reads a policy, and so needs PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from esper.cli.arguments import overrides
from esper.cli.exit_codes import INTERRUPTED, OK
from esper.distributed.again import fetch_run, has_begun, has_copies
from esper.distributed.config import RunConfig, read_named, read_run_config
from esper.distributed.export import export_policy
from esper.distributed.session import evaluate_run, resume_run, train_run
from esper.leyline.load import ConfigError, dump

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping


def run_train(options: argparse.Namespace) -> int:
    """Train from the beginning or, with `--continue`, go on."""
    config = read_run_config(options.config, overrides(options))
    if options.print_config:
        print(yaml.safe_dump(dump(config), sort_keys=False), end="")
        return OK
    root = options.run_dir or _default_run_dir(config)
    if options.goes_on and _has_begun(root, config, options):
        return _finish(resume_run(root, local=options.local))
    return _finish(train_run(config, root, local=options.local))


def _has_begun(root: Path, config: RunConfig, options: argparse.Namespace) -> bool:
    """Whether there is a run to go on with, here or, if it is brought here, in its second place for checkpoints."""
    named = read_named(options.config, overrides(options))
    if has_begun(root, config, named):
        return True
    if config.checkpoint.uri is None or not has_copies(config, named):
        return False
    fetch_run(config.checkpoint.uri, root)
    return True


def run_resume(options: argparse.Namespace) -> int:
    """Go on with a run."""
    if options.source is not None:
        fetch_run(options.source, options.run_dir)
    return _finish(resume_run(options.run_dir, local=options.local))


def run_evaluate(options: argparse.Namespace) -> int:
    """Compare a run's policy with baselines."""
    baselines = tuple(options.baselines.split(",")) if options.baselines is not None else None
    evaluation = {
        "seeds_per_context": options.seeds,
        "seed": options.host_seed,
        "baselines": baselines,
        "split": options.split,
        "decisions": options.decisions,
    }
    if options.json is not None and not options.json.resolve().parent.is_dir():
        raise ConfigError(f"--json {options.json}: the folder {options.json.resolve().parent} does not exist")
    comparison = evaluate_run(
        options.run_dir,
        {"evaluation": _given(evaluation), "engine": _given({"kind": options.engine})},
        checkpoint=options.checkpoint,
        local=options.local,
    )
    if comparison is None:
        return INTERRUPTED
    if options.json is not None:
        options.json.write_text(json.dumps(comparison, indent=1))
        print(f"comparison  {options.json}")
    return OK


def run_export(options: argparse.Namespace) -> int:
    """Write a run's policy as a folder."""
    version = export_policy(options.run_dir, options.out, checkpoint=options.checkpoint)
    print(f"policy      {options.out}\nversion     {version}")
    return OK


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None}


def _finish(was_interrupted: bool) -> int:
    return INTERRUPTED if was_interrupted else OK


def _default_run_dir(config: RunConfig) -> Path:
    return Path("runs") / f"{config.task.preset}-{config.seed}"
