"""The `esper` command: arguments in, one clear line out when something is wrong."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from esper.cli.arguments import add_evaluate, add_export, add_operations, add_resume, add_short_settings
from esper.cli.exit_codes import INTERRUPTED, USAGE

if TYPE_CHECKING:
    from collections.abc import Sequence

STOPPED = {
    "train": "stopped before the run began",
    "resume": "stopped before the run went on",
    "eval": "stopped before an episode was played",
    "sweep": "stopped before the sweep began",
    "submit": "stopped; `esper submit status` tells whether the job was handed over",
    "wandb": "stopped; what is in Weights & Biases is incomplete",
}
"""What Ctrl-C means by command, where the command itself does not say so; others leave nothing behind."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 wrong input, 130 stopped by Ctrl-C."""
    options = _parse(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path.append(os.getcwd())  # a user's own task may lie in the folder where the command is given
    try:
        return _run(options)
    except KeyboardInterrupt:
        print(f"esper: {STOPPED.get(options.command, 'stopped')}", file=sys.stderr)
        return INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    from esper.cli import commands

    try:
        return commands.run(options)
    except commands.USER_ERRORS as error:
        print("\n".join([f"esper: {error}", *getattr(error, "__notes__", ())]), file=sys.stderr)
        return USAGE


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the arguments; settings and a query may stand before, between and after options, which argparse alone does not allow."""
    parser = make_parser()
    options, others = parser.parse_known_args(arguments)
    if options.command == "query" and options.sql is None and len(others) == 1 and not others[0].startswith("-"):
        options.sql = others.pop()
    takes_settings = options.command in ("train", "sweep", "submit", "doctor")
    if others and not (takes_settings and all("=" in other and not other.startswith("-") for other in others)):
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    if others:
        options.settings = [*options.settings, *others]
    return options


class _Parser(argparse.ArgumentParser):
    """Appends the table of settings to the help of `train` and `sweep`; reading them is left until somebody asks."""

    def format_help(self) -> str:
        text = super().format_help()
        if not self.prog.endswith((" train", " sweep")):
            return text
        from esper.cli.settings import describe
        from esper.distributed.config import RunConfig
        from esper.distributed.sweep.config import SweepConfig

        return f"{text}\n{describe(RunConfig if self.prog.endswith(' train') else SweepConfig)}\n"


def make_parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    parser = argparse.ArgumentParser(prog="esper", description="Grow neural networks while they train, under a policy that learns how.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    train = commands.add_parser("train", help="train the policy, compare it with baselines, write a report")
    train.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings; see configs/run/")
    train.add_argument("--run-dir", type=Path, metavar="DIR", help="folder for everything the run writes (default: runs/<task>-<seed>)")
    train.add_argument("--local", action="store_true", help="run in this process, without Ray")
    train.add_argument("--continue", dest="goes_on", action="store_true", help="go on with the run in --run-dir if it has begun")
    add_short_settings(train)
    train.add_argument("--print-config", action="store_true", help="print the resolved settings as YAML and stop")
    train.add_argument("settings", nargs="*", metavar="key=value", help="settings, e.g. rollout.rounds=10 ppo.learning_rate=0.0003")

    add_resume(commands)
    add_evaluate(commands)
    add_export(commands)

    sweep = commands.add_parser("sweep", help="search settings with many runs, and report what was found")
    sweep.add_argument(
        "settings", nargs="*", metavar="FILE [key=value …] | report SWEEP_DIR", help="a sweep file, see configs/sweep/, and changes to it"
    )
    sweep.add_argument("--sweep-dir", type=Path, metavar="DIR", help="folder for what the sweep writes (default: sweeps/<its name>)")
    sweep.add_argument("--resume", type=Path, metavar="SWEEP_DIR", help="play what is left of a sweep; never one from a stranger")
    sweep.add_argument("--confirm", type=int, metavar="N", help="with report: train best and default settings on N further seeds")

    query = commands.add_parser("query", help="ask a run's telemetry in SQL; it is read, and nothing else can be")
    query.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="a run's folder, or a telemetry file")
    query.add_argument("sql", nargs="?", metavar="SQL", help="one statement that reads (default: name the views)")
    query.add_argument("--format", choices=("table", "csv", "json"), default="table", help="default: table")
    query.add_argument("--max-rows", type=int, default=10_000, metavar="N", help="rows printed at most (default: 10000)")
    query.add_argument(
        "--timeout", type=float, default=30.0, metavar="SEC", help="when to stop it, which a single huge value outlasts (default: 30)"
    )

    report = commands.add_parser("report", help="write a run's report as one HTML file")
    report.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="a run's folder, or a telemetry file")
    report.add_argument("--out", type=Path, metavar="FILE", help="where to (default: RUN_DIR/report.html)")

    wandb = commands.add_parser("wandb", help="show a finished run in Weights & Biases")
    wandb.add_argument("action", choices=("upload",), help="upload: rebuild the run there from its telemetry")
    wandb.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="a run's folder, or a telemetry file")
    wandb.add_argument("--project", help="project (default: the run's setting)")
    wandb.add_argument("--group", default="", help="group shown together")
    wandb.add_argument("--name", help="what the run is called (default: its folder)")
    wandb.add_argument("--mode", choices=("offline", "online"), default="online", help="offline writes files for `wandb sync`")

    add_operations(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
