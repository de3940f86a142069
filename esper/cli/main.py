"""The `esper` command: arguments in, one clear line out when something is wrong."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 wrong input, 130 stopped by Ctrl-C."""
    options = _parse(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path.append(os.getcwd())  # a user's own task may lie in the folder where the command is given
    from esper.cli import commands

    try:
        return commands.run(options)
    except commands.USER_ERRORS as error:
        print(f"esper: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("esper: stopped before the run began", file=sys.stderr)
        return INTERRUPTED


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the arguments; settings may stand before, between and after options, which argparse alone does not allow."""
    parser = make_parser()
    options, others = parser.parse_known_args(arguments)
    if others and not (options.command == "train" and all("=" in other and not other.startswith("-") for other in others)):
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    if others:
        options.settings = [*options.settings, *others]
    return options


class _Parser(argparse.ArgumentParser):
    """Appends the table of settings to the help of `train`; reading them is left until somebody asks."""

    def format_help(self) -> str:
        text = super().format_help()
        if not self.prog.endswith(" train"):
            return text
        from esper.cli.settings import describe
        from esper.distributed.config import RunConfig

        return f"{text}\n{describe(RunConfig)}\n"


def make_parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    parser = argparse.ArgumentParser(prog="esper", description="Grow neural networks while they train, under a policy that learns how.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    train = commands.add_parser("train", help="train the policy, compare it with baselines, write a report")
    train.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings; see configs/run/")
    train.add_argument("--run-dir", type=Path, metavar="DIR", help="folder for everything the run writes (default: runs/<task>-<seed>)")
    train.add_argument("--local", action="store_true", help="run in this process, without Ray")
    train.add_argument("--seed", type=int, metavar="N", help="root of all randomness (default: 0)")
    train.add_argument("--slots", metavar="IDS", help="only these slots may grow, e.g. r0c0,r0c2 (default: all of the host)")
    train.add_argument("--print-config", action="store_true", help="print the resolved settings as YAML and stop")
    train.add_argument("settings", nargs="*", metavar="key=value", help="settings, e.g. rollout.rounds=10 ppo.learning_rate=0.0003")

    resume = commands.add_parser("resume", help="continue a run from its last checkpoint")
    resume.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    resume.add_argument("--local", action="store_true", help="run in this process, without Ray")

    evaluate = commands.add_parser("eval", help="compare a trained policy with baselines on unseen host seeds")
    evaluate.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    evaluate.add_argument("--seeds", type=int, metavar="N", help="unseen host seeds per context (default: the run's setting)")
    evaluate.add_argument("--baselines", metavar="NAMES", help="comma-separated: random,wait,plateau,gradient,fixed")
    evaluate.add_argument("--split", choices=("eval", "heldout"), help="training contexts on new seeds, or contexts never trained on")
    evaluate.add_argument("--checkpoint", choices=("latest", "best"), default="latest", help="which policy (default: latest)")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="also write every episode and the comparison as JSON")
    evaluate.add_argument("--local", action="store_true", help="run in this process, without Ray")

    doctor = commands.add_parser("doctor", help="show versions, devices, Ray, and which data sets are found")
    doctor.add_argument("--data-dir", type=Path, default=Path("data"), metavar="DIR", help="where data sets are looked for (default: data)")
    doctor.add_argument("--engines", action="store_true", help="show instead how training engines are chosen, and what that rests on")
    return parser


if __name__ == "__main__":
    sys.exit(main())
