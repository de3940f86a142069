"""Checkpoints: a directory of safetensors and JSON, complete or absent, verified on load. No pickle."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from safetensors.torch import load_file, save_file
from torch import Tensor

if TYPE_CHECKING:
    from pathlib import Path

CHECKPOINT_SCHEMA_VERSION = 1
_PACKAGES = ("esper-morph", "torch", "torch-geometric", "numpy", "ray")
MANIFEST, BEST = "manifest.json", "best.json"
_TENSORS, _STATE = "learner.safetensors", "state.json"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be trusted; the message names the file and what is wrong."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint holds."""

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]
    """JSON: the learner's counters and the run's."""
    manifest: Mapping[str, Any]


def save_checkpoint(
    path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, config: Mapping[str, Any], digests: Mapping[str, str]
) -> None:
    """Write a checkpoint under a temporary name, sync it, and rename it into place.

    Args:
        path: The directory to make; an existing one of that name is replaced.
        tensors: Named tensors; saved contiguous and apart from each other.
        state: JSON-able counters.
        config: The run's configuration as plain mappings.
        digests: Hashes of the registries that the tensors' meaning depends on.
    """
    staging = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    save_file({name: t.detach().contiguous().clone() for name, t in tensors.items()}, staging / _TENSORS)
    (staging / _STATE).write_text(json.dumps(state, indent=1))
    manifest = {
        "schema_version": CHECKPOINT_SCHEMA_VERSION,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "config": config,
        "digests": digests,
        "sha256": {name: _hash(staging / name) for name in (_TENSORS, _STATE)},
    }
    (staging / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for file in staging.iterdir():
        _sync(file)
    _sync(staging)
    replaced = path.with_name(f".{path.name}.old-{os.getpid()}")
    if path.exists():
        os.replace(path, replaced)
    os.replace(staging, path)
    _sync(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def load_checkpoint(path: Path, *, digests: Mapping[str, str] | None = None) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises:
        CheckpointError: If a file is missing or altered, the schema is newer, or a digest differs from `digests`.
    """
    manifest = _read_manifest(path)
    if manifest["schema_version"] > CHECKPOINT_SCHEMA_VERSION:
        raise CheckpointError(f"{path}: schema {manifest['schema_version']} is newer than {CHECKPOINT_SCHEMA_VERSION}; update esper-morph")
    _require_files(path, manifest)
    for name, expected in (digests or {}).items():
        found = manifest["digests"].get(name)
        if found != expected:
            raise CheckpointError(f"{path}: digest of {name} is {found}, this version has {expected}")
    return Checkpoint(load_file(path / _TENSORS), json.loads((path / _STATE).read_text()), manifest)


def require_intact(path: Path) -> None:
    """Compare a checkpoint's files with the hashes in its manifest.

    Raises:
        CheckpointError: If one is missing or altered.
    """
    _require_files(path, _read_manifest(path))


def _require_files(path: Path, manifest: Mapping[str, Any]) -> None:
    for name, expected in manifest["sha256"].items():
        if not (path / name).exists() or _hash(path / name) != expected:
            raise CheckpointError(f"{path / name}: missing or altered since it was written")


def _read_manifest(path: Path) -> Mapping[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: no readable {MANIFEST}: {error}") from error
    missing = {"schema_version", "sha256", "digests"} - set(manifest if isinstance(manifest, Mapping) else ())
    if missing or set(manifest["sha256"]) != {_TENSORS, _STATE}:
        raise CheckpointError(f"{path / MANIFEST}: altered since it was written")
    result: Mapping[str, Any] = manifest
    return result


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
        """
        rounds, complaints = self.rounds(), []
        while rounds:
            try:
                require_intact(self.path(rounds[-1]))
                break
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
        """Remember the checkpoint after `num_rounds` if its utility is the highest so far."""
        best = self.best()
        if best is None or utility > best[1]:
            staging = self.root / ".best.json.tmp"
            staging.write_text(json.dumps({"rounds": num_rounds, "utility": utility}))
            os.replace(staging, self.root / BEST)

    def best(self) -> tuple[int, float] | None:
        """Rounds and utility of the best checkpoint, or None before one was noted."""
        file = self.root / BEST
        if not file.exists():
            return None
        best = json.loads(file.read_text())
        return best["rounds"], best["utility"]

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


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
