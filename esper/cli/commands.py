"""Which function carries out which command; what one needs is imported when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.cli import doctor
from esper.cli.exit_codes import FAILED, OK
from esper.distributed.checkpoint_folder import CheckpointError
from esper.distributed.executor import ClusterError, RunFailedError
from esper.distributed.run_dir import RunDirError
from esper.leyline.host import WrapError
from esper.leyline.layer_ops import BlueprintError
from esper.leyline.load import ConfigError
from esper.nissa.sinks.base import SinkUnavailableError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

USER_ERRORS = (ConfigError, WrapError, RunDirError, CheckpointError, ClusterError, RunFailedError, SinkUnavailableError, BlueprintError)
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
    from esper.cli.run import run_train  # with PyTorch

    return run_train(options)


def _resume(options: argparse.Namespace) -> int:
    from esper.cli.run import run_resume  # with PyTorch

    return run_resume(options)


def _evaluate(options: argparse.Namespace) -> int:
    from esper.cli.run import run_evaluate  # with PyTorch

    return run_evaluate(options)


def _export(options: argparse.Namespace) -> int:
    from esper.cli.run import run_export  # with PyTorch

    return run_export(options)


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
        from esper.cli.engines import explain_engines  # with PyTorch

        print(explain_engines(options.data_dir))
        return OK
    if options.cluster:
        from esper.cli.cluster import examine_cluster  # with Ray

        findings = examine_cluster(options)
    elif options.settings or options.config is not None:
        raise ConfigError("esper doctor takes settings and --config only with --cluster, which asks whether that run would find room")
    else:
        findings = doctor.examine(options.data_dir)
    print(doctor.render(findings))
    return OK if all(f.is_good for f in findings if f.is_required) else FAILED
