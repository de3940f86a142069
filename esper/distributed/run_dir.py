"""The folder of one run: what lies where, and who may write into it."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path


class RunDirError(RuntimeError):
    """A run folder that cannot be used as asked; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that writes to a run's folder."""

    host: str
    """Name of its machine; a folder on a shared disk is seen by several."""
    process: int

    @property
    def is_here(self) -> bool:
        """Whether it belongs to this machine."""
        return self.host == platform.node()

    @property
    def may_live(self) -> bool:
        """Whether it lives, or belongs to another machine, where nobody here can look."""
        return not self.is_here or _is_alive(self.process)

    def to_text(self) -> str:
        """As the lock names it."""
        return json.dumps({"host": self.host, "process": self.process})

    def __str__(self) -> str:
        """In words."""
        return f"process {self.process}" if self.is_here else f"process {self.process} on host {self.host}"


@dataclass(frozen=True, slots=True)
class RunDir:
    """Paths within a run's folder."""

    root: Path

    @property
    def config(self) -> Path:
        """Resolved settings."""
        return self.root / "config.yaml"

    @property
    def telemetry(self) -> Path:
        """DuckDB file; one process owns it while the run lives."""
        return self.root / "telemetry.duckdb"

    @property
    def snapshot(self) -> Path:
        """Copy of the DuckDB file, for readers of a living run."""
        return self.root / "telemetry.snapshot.duckdb"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.root / "checkpoints"

    @property
    def spool(self) -> Path:
        """Telemetry that the sink has not taken yet."""
        return self.root / "spool"

    @property
    def comparison(self) -> Path:
        """Episodes and statistics of the closing comparison, as JSON."""
        return self.root / "comparison.json"

    @property
    def plot(self) -> Path:
        """The run in one picture."""
        return self.root / "report.png"

    @property
    def report(self) -> Path:
        """The run in words."""
        return self.root / "report.md"

    @property
    def lock(self) -> Path:
        """Names the process that writes here, and its machine."""
        return self.root / ".owner"


def create_run_dir(root: Path) -> RunDir:
    """Claim a new run folder.

    Raises:
        RunDirError: If it holds a run already, cannot be written, or would be lost with a Ray job's working folder.
    """
    if not root.is_absolute() and "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        raise RunDirError(f"--run-dir {root}: inside a Ray job give an absolute path; the job's working folder is deleted with it")
    paths = RunDir(root.resolve())
    try:
        if paths.config.exists():
            raise RunDirError(f"--run-dir {root} holds a run already; continue it with `esper resume {root}` or choose another folder")
        if root.exists() and any(root.iterdir()):
            raise RunDirError(f"--run-dir {root} is not empty and holds no run; choose another folder")
        paths.root.mkdir(parents=True, exist_ok=True)
        _claim(paths)
        for folder in (paths.checkpoints, paths.spool):
            folder.mkdir()
    except OSError as error:
        raise RunDirError(f"--run-dir {root} cannot be written: {error.strerror}") from error
    return paths


def open_run_dir(root: Path, *, for_writing: bool) -> RunDir:
    """Open an existing run's folder.

    Raises:
        RunDirError: If there is no run, or another process is writing to it.
    """
    paths = RunDir(root.resolve())
    if not paths.config.exists():
        raise RunDirError(f"{root} holds no run: {paths.config.name} is missing")
    if for_writing:
        try:
            _claim(paths)
        except OSError as error:
            raise RunDirError(f"{root} cannot be written: {error.strerror}") from error
    return paths


def open_evaluation_dir(paths: RunDir) -> RunDir:
    """Claim the folder within a run's where later evaluations write.

    Raises:
        RunDirError: If it cannot be written, or another process is writing to it.
    """
    scratch = RunDir(paths.root / "evaluation")
    try:
        scratch.root.mkdir(exist_ok=True)
        _claim(scratch)
        for folder in (scratch.checkpoints, scratch.spool):
            folder.mkdir(exist_ok=True)
    except OSError as error:
        raise RunDirError(f"{scratch.root} cannot be written: {error.strerror}") from error
    return scratch


def release_run_dir(paths: RunDir) -> None:
    """Give up the claim."""
    paths.lock.unlink(missing_ok=True)


def owner(paths: RunDir) -> Owner | None:
    """Who is writing here, as far as this machine can tell; None if nobody is."""
    found = _read_owner(paths)
    return found if found is not None and found.may_live else None


def discard_run_dir(paths: RunDir) -> None:
    """Take back a folder in which nothing has happened yet, so that the same command can be given again."""
    paths.config.unlink(missing_ok=True)
    for folder in (paths.checkpoints, paths.spool):
        folder.rmdir()


def _claim(paths: RunDir) -> None:
    mine = Owner(platform.node(), os.getpid())
    try:
        with paths.lock.open("x") as lock:
            lock.write(mine.to_text())
        return
    except FileExistsError:
        other = _read_owner(paths)
    if other is not None and other != mine and other.may_live:
        remedy = "wait for it or choose another folder"
        if not other.is_here:
            remedy = f"whether it still runs cannot be seen from {mine.host}; if it does not, delete {paths.lock} and try again"
        raise RunDirError(f"{paths.root} is being written by {other}; {remedy}")
    paths.lock.write_text(mine.to_text())


def _read_owner(paths: RunDir) -> Owner | None:
    """Who is named in the lock; None if there is none, or it was never written out."""
    try:
        found = json.loads(paths.lock.read_text())
        return Owner(str(found["host"]), int(found["process"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process > 0
