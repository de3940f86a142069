"""The folder of one run: what lies where, and who may write into it."""

from __future__ import annotations

import fcntl
import json
import os
import platform
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class RunDirError(RuntimeError):
    """A run folder that cannot be used as asked; the message says what to do."""


class RunDirBusyError(RunDirError):
    """Another process is writing to the folder."""


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
        claim(paths.lock)
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
            claim(paths.lock)
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
        claim(scratch.lock)
        for folder in (scratch.checkpoints, scratch.spool):
            folder.mkdir(exist_ok=True)
    except OSError as error:
        raise RunDirError(f"{scratch.root} cannot be written: {error.strerror}") from error
    return scratch


def release_run_dir(paths: RunDir) -> None:
    """Give up the claim."""
    release(paths.lock)


def owner(paths: RunDir) -> Owner | None:
    """Who is writing here, as far as this machine can tell; None if nobody is."""
    found = _read_owner(paths)
    return found if found is not None and found.may_live else None


def discard_run_dir(paths: RunDir) -> None:
    """Take back a folder in which nothing has happened yet, so that the same command can be given again."""
    paths.config.unlink(missing_ok=True)
    for folder in (paths.checkpoints, paths.spool):
        folder.rmdir()


def claim(lock: Path) -> None:
    """Take a folder for this process; one that took it before and has ended loses it, to one other alone.

    Args:
        lock: The file in it that names the owner.

    Raises:
        RunDirBusyError: If another process that may live has it.
        OSError: If it cannot be written.
    """
    mine = Owner(platform.node(), os.getpid())
    with _in_turn(lock) as file:
        other = _owner_in(file.read())
        if other is not None and other != mine and other.may_live:
            remedy = "wait for it or choose another folder"
            if not other.is_here:
                remedy = f"whether it still runs cannot be seen from {mine.host}; if it does not, delete {lock} and try again"
            raise RunDirBusyError(f"{lock.parent} is being written by {other}; {remedy}")
        file.seek(0)
        file.truncate()
        file.write(mine.to_text())


def release(lock: Path) -> None:
    """Give up the claim."""
    lock.unlink(missing_ok=True)


@contextmanager
def _in_turn(lock: Path) -> Iterator[IO[str]]:
    """The lock's file, open; other processes of this machine that would look into it wait.

    Only they can tell that its owner has ended, so that no machine takes a folder from another one.
    """
    while True:
        with lock.open("a+") as file:
            with suppress(OSError):  # a disk that knows no such locks
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_still(file, lock):
                file.seek(0)
                yield file
                return


def _is_still(file: IO[str], path: Path) -> bool:
    """Whether the open file is the one at `path`, which its owner may have removed."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _read_owner(paths: RunDir) -> Owner | None:
    """Who is named in the lock; None if there is none, or it was never written out."""
    try:
        return _owner_in(paths.lock.read_text())
    except OSError:
        return None


def _owner_in(text: str) -> Owner | None:
    try:
        found = json.loads(text)
        return Owner(str(found["host"]), int(found["process"]))
    except (ValueError, KeyError, TypeError):
        return None


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process > 0
