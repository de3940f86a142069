"""Options of the commands that play nothing themselves; importing this costs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse


def add_operations(commands: Any) -> None:
    """What looks after runs and the machines that they are on: `submit`, `status`, `doctor`."""
    _add_submit(commands)
    _add_status(commands)

    doctor = commands.add_parser("doctor", help="show versions, devices, Ray, and which data sets are found")
    doctor.add_argument("--data-dir", type=Path, default=Path("data"), metavar="DIR", help="where data sets are looked for (default: data)")
    _add_cluster(doctor)
    doctor.add_argument("--engines", action="store_true", help="show instead how training engines are chosen, and what that rests on")


def add_short_settings(command: argparse.ArgumentParser) -> None:
    """Options that stand for settings; `overrides` spells them out."""
    command.add_argument("--seed", type=int, metavar="N", help="root of all randomness (default: 0)")
    command.add_argument("--slots", metavar="IDS", help="only these slots may grow, e.g. r0c0,r0c2 (default: all of the host)")
    command.add_argument("--telemetry", choices=("off", "light", "normal", "full"), help="how much is recorded (default: normal)")
    command.add_argument("--legacy-events", action="store_true", help="record renamed events under old names too; raw_events shows both")


def overrides(options: argparse.Namespace) -> list[str]:
    """All settings that a command line names, as `key=value`."""
    named = list(options.settings)
    if options.seed is not None:
        named.append(f"seed={options.seed}")
    if options.slots is not None:
        named.append(f"growth.slots=[{options.slots}]")
    if options.telemetry is not None:
        named.append(f"telemetry.level={options.telemetry}")
    if options.legacy_events:
        named.append("telemetry.legacy_events=true")
    return named


def add_resume(commands: Any) -> None:
    """`esper resume`."""
    resume = commands.add_parser("resume", help="continue a run from its last checkpoint")
    resume.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    resume.add_argument("--from", dest="source", metavar="URI", help="begin RUN_DIR with the copies at the run's checkpoint.uri")
    resume.add_argument("--local", action="store_true", help="run in this process, without Ray")


def add_evaluate(commands: Any) -> None:
    """`esper eval`."""
    evaluate = commands.add_parser("eval", help="compare a trained policy with baselines on unseen host seeds")
    evaluate.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    evaluate.add_argument("--seeds", type=int, metavar="N", help="unseen host seeds per context (default: the run's setting)")
    evaluate.add_argument("--host-seed", type=int, metavar="N", help="root of the hosts' randomness; another one draws other hosts")
    evaluate.add_argument("--baselines", metavar="NAMES", help="comma-separated: random,wait,plateau,gradient,fixed")
    evaluate.add_argument("--split", choices=("eval", "heldout"), help="training contexts on new seeds, or contexts never trained on")
    evaluate.add_argument("--decisions", choices=("greedy", "sampled"), help="most probable choices, or drawn as in training")
    evaluate.add_argument("--engine", choices=("auto", "sequential", "population"), help="how hosts are trained (default: as in the run)")
    evaluate.add_argument("--checkpoint", choices=("latest", "best"), default="latest", help="which policy (default: latest)")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="also write every episode and the comparison as JSON")
    evaluate.add_argument("--local", action="store_true", help="run in this process, without Ray")


def add_export(commands: Any) -> None:
    """`esper export`."""
    export = commands.add_parser("export", help="write a trained policy as a directory that TamiyoService loads")
    export.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder for the policy, e.g. tamiyo_gnn_v1")
    export.add_argument("--checkpoint", choices=("latest", "best"), default="latest", help="which policy (default: latest)")


def _add_submit(commands: Any) -> None:
    submit: argparse.ArgumentParser = commands.add_parser("submit", help="train as a job of a Ray cluster; look at jobs, stop them")
    submit.add_argument(
        "settings", nargs="*", metavar="key=value … | status [ID …] | logs ID | stop ID", help="settings as for train, or a look at a job"
    )
    submit.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings; its content is sent")
    submit.add_argument("--run-dir", type=Path, metavar="DIR", help="absolute folder on a disk that the whole cluster sees")
    add_short_settings(submit)
    submit.add_argument("--address", metavar="URL", help="job server (default: RAY_API_SERVER_ADDRESS, or http://127.0.0.1:8265)")
    submit.add_argument(
        "--project", type=Path, default=Path("."), metavar="DIR", help="folder that is uploaded (default: this one); see .rayignore"
    )
    submit.add_argument(
        "--env", action="append", default=[], metavar="KEY[=VALUE]", help="a variable for the job; WANDB_* but the key go anyway"
    )
    submit.add_argument("--python", metavar="EXE", help="interpreter on the cluster (default: this one if it is here, else python)")
    submit.add_argument(
        "--entrypoint-cpus", type=float, default=0.0, metavar="N", help="CPU share of the driver, which may then leave the head"
    )
    submit.add_argument("--local", action="store_true", help="run everything in the job's own process")
    submit.add_argument("--wait", action="store_true", help="wait for the job's end; exit code 0, 1 failed, 130 stopped")
    submit.add_argument("--follow", action="store_true", help="wait, and print what the job prints")


def _add_status(commands: Any) -> None:
    status: argparse.ArgumentParser = commands.add_parser("status", help="how far a run is, and whether somebody is at work on it")
    status.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    status.add_argument("--json", action="store_true", help="print it as JSON")


def _add_cluster(doctor: argparse.ArgumentParser) -> None:
    doctor.add_argument("--cluster", action="store_true", help="show instead a cluster's nodes, and whether a run would find room there")
    doctor.add_argument("--config", type=Path, metavar="FILE", help="with --cluster: the run's settings")
    doctor.add_argument("settings", nargs="*", metavar="key=value", help="with --cluster: more of them, e.g. cluster.address=head:6379")
