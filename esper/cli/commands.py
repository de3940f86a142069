"""What each command does: reads its arguments, calls `esper.distributed`, prints what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from esper.cli import doctor
from esper.cli.arguments import overrides
from esper.cli.engines import explain_engines
from esper.cli.main import FAILED, INTERRUPTED, OK
from esper.distributed.again import fetch_run, has_begun, has_copies
from esper.distributed.checkpoint import CheckpointError
from esper.distributed.config import RunConfig, read_named, read_run_config
from esper.distributed.executor import ClusterError, RunFailedError
from esper.distributed.export import export_policy
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
        "export": _export,
        "sweep": _sweep,
        "submit": _submit,
        "status": _status,
        "query": _query,
        "report": _report,
        "wandb": _wandb,
        "doctor": _doctor,
    }
    return handlers[options.command](options)


def _train(options: argparse.Namespace) -> int:
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


def _resume(options: argparse.Namespace) -> int:
    if options.source is not None:
        fetch_run(options.source, options.run_dir)
    return _finish(resume_run(options.run_dir, local=options.local))


def _evaluate(options: argparse.Namespace) -> int:
    baselines = tuple(options.baselines.split(",")) if options.baselines is not None else None
    changes = {"seeds_per_context": options.seeds, "baselines": baselines, "split": options.split, "decisions": options.decisions}
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


def _export(options: argparse.Namespace) -> int:
    version = export_policy(options.run_dir, options.out, checkpoint=options.checkpoint)
    print(f"policy      {options.out}\nversion     {version}")
    return OK


def _sweep(options: argparse.Namespace) -> int:
    from esper.cli.sweep import run_sweep_command  # with DuckDB

    return run_sweep_command(options)


def _query(options: argparse.Namespace) -> int:
    from esper.cli.query import run_query  # with DuckDB

    return run_query(options)


def _report(options: argparse.Namespace) -> int:
    from esper.cli.report import run_report  # with DuckDB

    return run_report(options)


def _wandb(options: argparse.Namespace) -> int:
    from esper.cli.wandb import run_wandb  # with Weights & Biases

    return run_wandb(options)


def _submit(options: argparse.Namespace) -> int:
    from esper.cli.submit import run_submit_command  # with Ray's client

    return run_submit_command(options)


def _status(options: argparse.Namespace) -> int:
    from esper.cli.status import run_status_command  # with DuckDB

    return run_status_command(options)


def _doctor(options: argparse.Namespace) -> int:
    if options.engines:
        print(explain_engines(options.data_dir))
        return OK
    if options.cluster:
        from esper.cli.cluster import examine_cluster

        findings = examine_cluster(options)
    elif options.settings or options.config is not None:
        raise ConfigError("esper doctor takes settings and --config only with --cluster, which asks whether that run would find room")
    else:
        findings = doctor.examine(options.data_dir)
    print(doctor.render(findings))
    return OK if all(f.is_good for f in findings if f.is_required) else FAILED


def _finish(was_interrupted: bool) -> int:
    return INTERRUPTED if was_interrupted else OK


def _default_run_dir(config: RunConfig) -> Path:
    return Path("runs") / f"{config.task.preset}-{config.seed}"
