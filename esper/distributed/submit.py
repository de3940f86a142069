"""What is handed to a cluster's job server so that it trains a run: command, environment and name. Decides; sends nothing."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from esper.distributed.config import read_named, read_run_config
from esper.leyline.load import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

RUN_DIR_KEY = "esper.run_dir"
"""Under this key a job's metadata names its run's folder."""
IGNORE_FILE = ".rayignore"
EXCLUDES = (".git/", ".venv/", "venv/", "__pycache__/", "runs/", "sweeps/", "checkpoints/", "wandb/", "*.duckdb", "*.duckdb.wal")
"""Left at home if the project has no `.rayignore`."""
SECRETS = frozenset({"WANDB_API_KEY"})
"""Sent only if they are named: whoever may look at the cluster's dashboard can read what is sent."""
FORWARDED_PREFIX = "WANDB_"


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """What the user asked for."""

    run_dir: Path
    """Absolute, on a disk that the whole cluster sees."""
    project: Path
    """Folder that is uploaded and becomes the job's working folder."""
    config: Path | None = None
    settings: Sequence[str] = ()
    """Overrides of the file, `key=value`."""
    env: Sequence[str] = ()
    """`KEY=VALUE`, or `KEY` to send this process's value."""
    python: str | None = None
    """Interpreter on the cluster; None leaves it to `interpreter`."""
    is_local: bool = False
    """Whether the run stays in the job's own process."""
    entrypoint_cpus: float = 0.0
    """CPU share of the job's own process."""


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What `JobServer.submit` sends."""

    submission_id: str
    entrypoint: str
    """Shell command."""
    runtime_env: dict[str, Any]
    metadata: dict[str, str]
    entrypoint_cpus: float
    notes: tuple[str, ...] = field(default=())
    """What the user should know about it."""


def check(options: SubmitOptions) -> None:
    """Look at everything that can be wrong before anybody is asked.

    Raises:
        ConfigError: If a setting, a path or a variable cannot be used.
    """
    if not options.run_dir.is_absolute():
        raise ConfigError(
            f"--run-dir {options.run_dir} should be absolute, on a disk that the whole cluster sees: "
            "a job's working folder is deleted with the job"
        )
    if not options.project.is_dir():
        raise ConfigError(f"--project {options.project} should be a folder; it is uploaded as the job's working folder")
    if options.run_dir.resolve() == options.project.resolve():
        raise ConfigError(f"--run-dir {options.run_dir} is the project that is uploaded; choose another folder")
    config = read_run_config(options.config, options.settings)
    if config.cluster.address is not None:
        raise ConfigError(f"cluster.address={config.cluster.address!r}: a job always joins the cluster that runs it; leave the setting out")
    env_vars(options.env, os.environ)


def make_request(options: SubmitOptions, *, python: str, earlier: Iterable[str]) -> JobRequest:
    """The job for `options`.

    Args:
        options: Checked by `check`.
        python: Interpreter that starts it.
        earlier: Submission ids that the cluster knows.
    """
    project = options.project.resolve()
    run = run_name(options.run_dir)
    sent = env_vars(options.env, os.environ)
    runtime_env: dict[str, Any] = {"working_dir": str(project), "env_vars": sent}
    if not (project / IGNORE_FILE).exists():
        runtime_env["excludes"] = list(EXCLUDES)
    return JobRequest(
        submission_id=f"esper-{run}-{next_attempt(run, earlier)}",
        entrypoint=entrypoint(options, python),
        runtime_env=runtime_env,
        metadata={RUN_DIR_KEY: str(options.run_dir)},
        entrypoint_cpus=options.entrypoint_cpus,
        notes=tuple(_notes(project, sent)),
    )


def entrypoint(options: SubmitOptions, python: str) -> str:
    """The command: trains, or continues what lies in the run's folder; the settings of the file are spelt out in it.

    `exec` lets a stop signal reach Python and not a shell around it.
    """
    words = [python, "-m", "esper.cli.main", "train", "--continue", "--run-dir", str(options.run_dir)]
    words += ["--local"] if options.is_local else []
    return "exec " + shlex.join([*words, *assignments(read_named(options.config, options.settings))])


def assignments(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Nested settings as `a.b=value`, as overrides are written."""
    result: list[str] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        is_nested = isinstance(value, dict) and value and not any("." in str(inner) for inner in value)
        result += assignments(value, f"{name}.") if is_nested else [f"{name}={_flow(value)}"]
    return result


def env_vars(named: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Variables for the job: this process's settings of Weights & Biases without its key, and what is named.

    Raises:
        ConfigError: If a named variable is not set here, or its name cannot be one.
    """
    result = {key: value for key, value in environ.items() if key.startswith(FORWARDED_PREFIX) and key not in SECRETS}
    for item in named:
        key, is_given, value = item.partition("=")
        if not re.fullmatch(r"[A-Za-z_]\w*", key):
            raise ConfigError(f"--env {item}: expected KEY=VALUE, or KEY to send the value that it has here")
        if not is_given and key not in environ:
            raise ConfigError(f"--env {key}: it is not set here; set it, or write --env {key}=VALUE")
        result[key] = value if is_given else environ[key]
    return result


def run_name(run_dir: Path) -> str:
    """The folder's name, of characters that a submission id may have."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", run_dir.name).strip("-") or "run"


def next_attempt(run: str, earlier: Iterable[str]) -> int:
    """One more than the highest attempt at `run` among earlier submission ids."""
    attempts = (re.fullmatch(rf"esper-{re.escape(run)}-(\d+)", submission_id) for submission_id in earlier)
    return 1 + max((int(match[1]) for match in attempts if match), default=0)


def interpreter(asked: str | None, *, executable: str, is_same_machine: bool) -> str:
    """The interpreter for the entrypoint: the one asked for, this very one where the cluster is on this machine, or the image's."""
    if asked is not None:
        return asked
    return executable if is_same_machine else "python"


def _flow(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=math.inf)
    return text.removesuffix("...\n").strip()


def _notes(project: Path, sent: Mapping[str, str]) -> Iterable[str]:
    ignoring = [name for name in (".gitignore", IGNORE_FILE) if (project / name).exists()]
    if ignoring and os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE") != "1":
        yield f"files named in {' and '.join(ignoring)} stay here; a job that needs them fails"
    for key in sorted(SECRETS):
        if key in sent:
            yield f"{key} is sent: whoever may look at the cluster's dashboard can read it"
        elif key in os.environ:
            yield f"{key} is set here and not sent; set it on the cluster, or send it with --env {key}"
