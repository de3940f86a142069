"""Checkpoints: a directory of safetensors and JSON, complete or absent, verified on load. No pickle."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from esper.distributed.checkpoint_folder import (
    MANIFEST,
    PACKAGE,
    SCHEMA_VERSION,
    STATE,
    TENSORS,
    hash_of,
    read_manifest,
    require_files,
    require_same_meaning,
    sync,
    writing,
)

if TYPE_CHECKING:
    from pathlib import Path

_PACKAGES = (PACKAGE, "torch", "torch-geometric", "numpy", "ray")


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

    Raises:
        CheckpointError: If it cannot be written; those before it are as they were.
    """
    staging = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with writing(path):
        try:
            _write(staging, tensors, state, config, digests)
            _put(staging, path)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _write(
    staging: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any], config: Mapping[str, Any], digests: Mapping[str, str]
) -> None:
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        save_file({name: t.detach().contiguous().clone() for name, t in tensors.items()}, staging / TENSORS)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    (staging / STATE).write_text(json.dumps(state, indent=1))
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "config": config,
        "digests": digests,
        "sha256": {name: hash_of(staging / name) for name in (TENSORS, STATE)},
    }
    (staging / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for file in staging.iterdir():
        sync(file)
    sync(staging)


def _put(staging: Path, path: Path) -> None:
    replaced = path.with_name(f".{path.name}.old-{os.getpid()}")
    if path.exists():
        os.replace(path, replaced)
    os.replace(staging, path)
    sync(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def load_checkpoint(path: Path, *, digests: Mapping[str, str] | None = None) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises:
        CheckpointError: If a file is missing or altered.
        OtherVersionError: If the schema is newer, or a digest differs from `digests`.
    """
    manifest = read_manifest(path)
    require_files(path, manifest)
    require_same_meaning(path, manifest, digests or {})
    return Checkpoint(load_file(path / TENSORS), json.loads((path / STATE).read_text()), manifest)
