"""The folder of one run: what lies where, and who may write into it."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from esper.distributed import lease

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LOOK_SEC = 1.0
"""Between two looks at the claim of another machine."""
CLOCK_SEC = 1.0
"""By which the age of a file and that of a process may be told too old or too young."""


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

    @property
    def token(self) -> Path:
        """What the driver wrote for parts on other nodes to read."""
        return self.root / ".token"


def require_lasting(root: Path, option: str) -> None:
    """Refuse a folder that would be lost with a Ray job's working folder.

    Args:
        root: As the user gave it.
        option: With which the user gave it.

    Raises:
        RunDirError: If it would.
    """
    if not root.is_absolute() and "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        raise RunDirError(f"{option} {root}: inside a Ray job give an absolute path; the job's working folder is deleted with it")


def create_run_dir(root: Path) -> RunDir:
    """Claim a new run folder.

    Raises:
        RunDirError: If it holds a run already, cannot be written, or would be lost with a Ray job's working folder.
    """
    require_lasting(root, "--run-dir")
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
        RunDirError: If there is no run; for writing also if another process is writing to it, or it would be lost with a Ray
            job's working folder.
    """
    if for_writing:
        require_lasting(root, "run folder")
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
    """Who is writing here; None if nobody is. One on another machine has shown a sign of life within `lease.LEASE_SEC`."""
    try:
        with paths.lock.open() as file:
            found = _owner_in(file.read())
            return found if found is not None and _may_live(found, file, paths.root) else None
    except OSError:
        return None


def missing_folders(root: Path) -> list[Path]:
    """Folders that `create_run_dir` would have to make for `root`, the innermost first."""
    root = root.resolve()
    return [folder for folder in (root, *root.parents) if not folder.exists()]


def discard_run_dir(paths: RunDir, made: Sequence[Path] = ()) -> None:
    """Take back a claimed folder in which nothing has happened yet, so that the same command can be given again.

    Args:
        paths: The folder; one that holds telemetry or a checkpoint stays as it is.
        made: Folders that were made for it, the innermost first; those that are empty now go, too.
    """
    if paths.telemetry.exists() or any(paths.checkpoints.iterdir()):
        return
    paths.config.unlink(missing_ok=True)
    paths.checkpoints.rmdir()
    shutil.rmtree(paths.spool)
    release(paths.lock)
    remove_folders(made)


def remove_folders(made: Sequence[Path]) -> None:
    """Remove folders as `missing_folders` names them, up to the first in which somebody has put something."""
    with suppress(OSError):
        for folder in made:
            folder.rmdir()


def claim(lock: Path) -> None:
    """Take a folder for this process, and show signs of life until it is released or the process ends.

    A process of this machine that took it before and has ended loses it at once, even if another has its number by now. Whether
    one of another machine has, is told by its signs of life: they are waited for, at most `lease.LEASE_SEC`.

    Args:
        lock: The file in it that names the owner.

    Raises:
        RunDirBusyError: If another process that lives has it.
        OSError: If it cannot be written.
    """
    text = _this_process().to_text()
    first: _Claim | None = None
    until = time.monotonic() + lease.LEASE_SEC
    while (found := _take(lock, text, silent=first if time.monotonic() > until else None)) is not None:
        if found.owner.is_here:
            raise RunDirBusyError(f"{lock.parent} is being written by {found.owner}; wait for it or choose another folder")
        if first is None:
            print(f"{lock.parent} was being written by {found.owner}; looking whether it still lives", file=sys.stderr, flush=True)
            first = found
        elif found != first:
            raise RunDirBusyError(f"{lock.parent} is being written by {found.owner}, which lives; stop it there, or choose another folder")
        time.sleep(LOOK_SEC)
    os.utime(lock)  # a disk that cannot do this is found out now
    lease.keep(lock, text)


def release(lock: Path) -> None:
    """Give up the claim; one that another process has taken meanwhile stays."""
    with suppress(FileNotFoundError):
        if _owner_in(lock.read_text()) == _this_process():
            lock.unlink()


def require_claim(lock: Path) -> None:
    """Make sure that no other machine has taken the folder from this process, which may have been stopped or cut off for long.

    Raises:
        RunDirBusyError: If one has.
    """
    try:
        other = _owner_in(lock.read_text())
    except OSError:
        return
    if other is not None and other != _this_process():
        raise RunDirBusyError(
            f"{lock.parent} was taken over by {other}, after this process had given no sign of life for {lease.LEASE_SEC:g} s; "
            "it goes on there"
        )


@dataclass(frozen=True, slots=True)
class _Claim:
    owner: Owner
    touched: float
    """By the clock of the disk."""


def _take(lock: Path, text: str, *, silent: _Claim | None) -> _Claim | None:
    """Write `text` into the lock unless another process that may live has it; returns its claim then, and None otherwise.

    A claim that is still as `silent` says is taken, whatever the disk's clock says of its age.
    """
    with _in_turn(lock) as file:
        other = _owner_in(file.read())
        if other is not None and other != _this_process() and _may_live(other, file, lock.parent):
            found = _Claim(other, os.fstat(file.fileno()).st_mtime)
            if found != silent:
                return found
        file.seek(0)
        file.truncate()
        file.write(text)
        return None


def _this_process() -> Owner:
    return Owner(platform.node(), os.getpid())


def _may_live(other: Owner, file: IO[str], folder: Path) -> bool:
    """Whether the owner that the open lock names lives or, on another machine, has shown a sign of life lately."""
    if other.is_here and not _is_alive(other.process):
        return False
    silent_sec = lease.disk_time(folder) - os.fstat(file.fileno()).st_mtime
    if not other.is_here:
        return silent_sec <= lease.LEASE_SEC
    age_sec = _age_sec(other.process)  # one that is younger than the last sign of life has only the owner's number
    return age_sec is None or age_sec >= silent_sec - CLOCK_SEC


@contextmanager
def _in_turn(lock: Path) -> Iterator[IO[str]]:
    """The lock's file, open; other processes that would look into it wait, those of other machines if the disk can do that."""
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


def _age_sec(process: int) -> float | None:
    """How long a process of this machine has been running; None where that cannot be told."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        age_sec = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None
    return age_sec if age_sec >= 0.0 else None
