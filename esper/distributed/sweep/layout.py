"""The folder of a sweep: what lies where, and who may begin or continue one in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from esper.distributed.run_dir import RunDirError, require_lasting
from esper.karn.sweeps import SWEEP_FILE


@dataclass(frozen=True, slots=True)
class SweepDir:
    """Paths within a sweep's folder."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved sweep."""
        return self.root / "sweep.yaml"

    @property
    def database(self) -> Path:
        """Trials, parameters and results."""
        return self.root / SWEEP_FILE

    @property
    def tune(self) -> Path:
        """What Ray Tune keeps in order to go on; it is read with pickle, so never go on with a sweep from a stranger."""
        return self.root / "tune"

    @property
    def confirmation(self) -> Path:
        """The sweep that plays winner and default on further seeds."""
        return self.root / "confirm"

    @property
    def report(self) -> Path:
        """The report, one page without other files."""
        return self.root / "report.html"

    @property
    def picture(self) -> Path:
        """The report's picture."""
        return self.root / "report.png"

    @property
    def best(self) -> Path:
        """Settings of the best trial, for `esper train --config`."""
        return self.root / "best.yaml"

    @property
    def lock(self) -> Path:
        """Names the process that plays the sweep, and its machine."""
        return self.root / ".owner"

    @property
    def place(self) -> Path:
        """Says where the sweep was begun."""
        return self.root / ".place"

    @property
    def trials(self) -> Path:
        """One run folder per trial."""
        return self.root / "trials"

    def trial(self, trial_id: str) -> Path:
        """A trial's run folder."""
        return self.trials / trial_id


def create_sweep_dir(root: Path) -> SweepDir:
    """Make a new sweep's folder.

    Raises:
        RunDirError: If something lies there, it cannot be written, or it would be lost with a Ray job's working folder.
    """
    require_lasting(root, "--sweep-dir")
    folder = SweepDir(root.resolve())
    if folder.config.exists():
        raise RunDirError(
            f"--sweep-dir {root} holds a sweep already; continue it with `esper sweep --resume {root}`, or choose another folder"
        )
    try:
        if root.exists() and any(root.iterdir()):
            raise RunDirError(f"--sweep-dir {root} is not empty and holds no sweep; choose another folder")
        folder.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirError(f"--sweep-dir {root} cannot be written: {error.strerror}") from error
    return folder


def note_place(folder: SweepDir) -> None:
    """Note where the sweep begins."""
    folder.place.write_text(f"{folder.root}\n")


def require_place(folder: SweepDir) -> None:
    """Refuse to go on where Tune would look for the sweep elsewhere: trials that it has yet to make bear the path of the beginning.

    Raises:
        RunDirError: If that path no longer leads to the folder.
    """
    try:
        begun = Path(folder.place.read_text().strip())
    except FileNotFoundError:
        return  # stopped before Tune began
    if begun.resolve() != folder.root:
        raise RunDirError(
            f"{folder.root} was begun as {begun}, and Ray Tune keeps that path; move it back, or let the path lead here: "
            f"ln -s {folder.root} {begun}"
        )


def open_sweep_dir(root: Path) -> SweepDir:
    """Open an existing sweep's folder.

    Raises:
        RunDirError: If there is no sweep.
    """
    folder = SweepDir(root.resolve())
    if not folder.config.exists():
        raise RunDirError(f"{root} holds no sweep: {folder.config.name} is missing")
    return folder
