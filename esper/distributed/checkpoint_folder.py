"""The checkpoints of a run as files: which there are, which are whole, which is best. What they hold is not read here."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST, BEST = "manifest.json", "best.json"
TENSORS, STATE = "learner.safetensors", "state.json"
SCHEMA_VERSION = 1
PACKAGE = "esper-morph"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be trusted; the message names the file and what is wrong."""


class OtherVersionError(CheckpointError):
    """A whole checkpoint that this version cannot go on from; the message names the version that can."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell of whatever keeps `path` from being written.

    Raises:
        CheckpointError: If something does.
    """
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written: {error}; make room, then continue with `esper resume`: what was saved before is whole"
        ) from error


def require_intact(path: Path) -> None:
    """Compare a checkpoint's files with the hashes in its own manifest; errors as for `require_files`."""
    require_files(path, read_manifest(path))


def require_files(path: Path, manifest: Mapping[str, Any]) -> None:
    """Compare a checkpoint's files with the hashes in `manifest`.

    Raises:
        CheckpointError: If one is missing or altered.
    """
    for name, expected in manifest["sha256"].items():
        if not (path / name).exists() or hash_of(path / name) != expected:
            raise CheckpointError(f"{path / name}: missing or altered since it was written")


def read_manifest(path: Path) -> Mapping[str, Any]:
    """A checkpoint's manifest.

    Raises:
        CheckpointError: If it cannot be read or was altered.
        OtherVersionError: If its schema is newer.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: no readable {MANIFEST}: {error}") from error
    schema = manifest.get("schema_version") if isinstance(manifest, Mapping) else None
    if isinstance(schema, int) and schema > SCHEMA_VERSION:
        raise OtherVersionError(f"{path}: schema {schema} is newer than {SCHEMA_VERSION}; {_advice(manifest)}")
    missing = {"schema_version", "sha256", "digests"} - set(manifest if isinstance(manifest, Mapping) else ())
    if missing or set(manifest["sha256"]) != {TENSORS, STATE}:
        raise CheckpointError(f"{path / MANIFEST}: altered since it was written")
    result: Mapping[str, Any] = manifest
    return result


def require_same_meaning(path: Path, manifest: Mapping[str, Any], digests: Mapping[str, str]) -> None:
    """Compare what a checkpoint's tensors refer to with what this version has.

    Raises:
        OtherVersionError: If one of `digests` is another in `manifest`.
    """
    for name, expected in digests.items():
        found = manifest["digests"].get(name)
        if found != expected:
            raise OtherVersionError(f"{path}: digest of {name} is {found}, this version has {expected}; {_advice(manifest)}")


def name_of(num_rounds: int) -> str:
    """What the checkpoint after so many rounds is called."""
    return f"round-{num_rounds:05d}"


def rounds_among(names: Iterable[str]) -> list[int]:
    """Numbers of rounds of those names that `name_of` gives, ascending."""
    numbers = (name.removeprefix("round-") for name in names if name.startswith("round-"))
    return sorted(int(number) for number in numbers if number.isdecimal())


class CheckpointFolder:
    """The checkpoints of one run: `round-00007`, …, and the name of the best."""

    def __init__(self, root: Path, keep_last: int) -> None:
        self.root = root
        self._keep_last = keep_last

    def path(self, num_rounds: int) -> Path:
        """Where the checkpoint after `num_rounds` rounds lies."""
        return self.root / name_of(num_rounds)

    def rounds(self) -> list[int]:
        """Numbers of rounds after which a checkpoint exists, ascending."""
        return rounds_among(path.name for path in self.root.glob("round-*"))

    def sound(self) -> tuple[list[int], list[str]]:
        """Look for damage, from the newest checkpoint back to the first that is whole.

        Returns:
            Rounds as `rounds` gives them, without the damaged ones; and what was wrong with each of those, newest first.

        Raises:
            OtherVersionError: If the newest that is whole has a newer schema.
        """
        rounds, complaints = self.rounds(), []
        while rounds:
            try:
                require_intact(self.path(rounds[-1]))
                break
            except OtherVersionError:
                raise
            except CheckpointError as error:
                complaints.append(str(error))
                rounds.pop()
        return rounds, complaints

    def latest(self) -> Path:
        """The newest checkpoint.

        Raises:
            CheckpointError: If there is none.
        """
        rounds = self.rounds()
        if not rounds:
            raise CheckpointError(f"{self.root}: no checkpoint; the run ended before its first round did")
        return self.path(rounds[-1])

    def note_best(self, num_rounds: int, utility: float) -> None:
        """Remember the checkpoint after `num_rounds` if its utility is the highest so far.

        Raises:
            CheckpointError: If that cannot be written; the checkpoint itself is whole.
        """
        best = self.best()
        if best is not None and utility <= best[1]:
            return
        staging = self.root / ".best.json.tmp"
        with writing(self.root / BEST):
            staging.write_text(json.dumps({"rounds": num_rounds, "utility": utility}))
            sync(staging)
            os.replace(staging, self.root / BEST)
            sync(self.root)

    def best(self) -> tuple[int, float] | None:
        """Rounds and utility of the best checkpoint; None before one was noted, or if the note is damaged, which is then said."""
        file = self.root / BEST
        try:
            best = json.loads(file.read_text())
            return int(best["rounds"]), float(best["utility"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"{file} is damaged and counts for nothing: {type(error).__name__}: {error}", file=sys.stderr)
            return None

    def require_best(self) -> None:
        """Forget which was the best if it is not here."""
        best = self.best()
        if best is not None and best[0] not in self.rounds():
            (self.root / BEST).unlink()

    def choose(self, which: Literal["latest", "best"]) -> Path:
        """The newest checkpoint, or that of the highest utility.

        Raises:
            CheckpointError: If there is none.
        """
        if which == "latest":
            return self.latest()
        best = self.best()
        if best is None:
            raise CheckpointError("no best checkpoint was noted; use --checkpoint latest")
        return self.path(best[0])

    def forget_old(self) -> None:
        """Delete all but the last few and the best, and what a process that was killed left half written."""
        for leftover in self.root.glob(".round-*"):
            shutil.rmtree(leftover)
        best = self.best()
        for num_rounds in self.rounds()[: -self._keep_last]:
            if best is None or num_rounds != best[0]:
                shutil.rmtree(self.path(num_rounds))


def sync(path: Path) -> None:
    """Wait until a file or a folder's entries are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _advice(manifest: Mapping[str, Any]) -> str:
    """What to do about a checkpoint that this version cannot use."""
    versions = manifest.get("versions")
    writer = versions.get(PACKAGE) if isinstance(versions, Mapping) else None
    if writer is None:
        return f"go on with the {PACKAGE} that wrote it, or begin a new run in another folder"
    here = version(PACKAGE)
    same = ", though of another state of the code," if writer == here else ""
    return f"it was written by {PACKAGE} {writer}{same} and this is {here}: go on with that one, or begin a new run in another folder"


def hash_of(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
