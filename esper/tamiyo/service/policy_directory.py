"""The `tamiyo_gnn_v1` directory: a trained policy, complete, verified on load, without pickle.

manifest.json           architecture, configuration, digests, what the observation needs, and a hash of every other file
weights.safetensors     parameters and buffers, the running statistics of the inputs among them
gnn_norms.json          these statistics for people and other tools
registries/*.json       the names behind every index that the policy knows
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Generator

from esper.leyline.load import ConfigError, dump
from esper.leyline.load import load as load_config
from esper.leyline.masks import GrowthLimits
from esper.tamiyo.config import TamiyoGNNConfig
from esper.tamiyo.norms import FeatureNorms, MetricNormalisation
from esper.tamiyo.policy import TamiyoPolicy
from esper.tamiyo.registries import Registries, Registry, RegistryError
from esper.tamiyo.service.own_draws import OwnDraws

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

ARCHITECTURE_VERSION = "gnn_v1"
DIRECTORY_NAME = f"tamiyo_{ARCHITECTURE_VERSION}"
_MANIFEST, _WEIGHTS, _NORMS, _REGISTRIES = "manifest.json", "weights.safetensors", "gnn_norms.json", "registries"
_REQUIRED = ("format", "architecture_version", "policy_version", "config", "digests", "limits", "steps_per_epoch", "sha256", "seal")
_VERSION_DIGITS = 12
"""Digits of the weights' hash in a policy's version."""


class Rejection(StrEnum):
    """Why a directory was refused."""

    UNREADABLE = "unreadable"
    """It is no policy directory, or a file of it is missing or cut short."""
    ALTERED = "altered"
    """A file is not what it was when the directory was written."""
    ARCHITECTURE = "architecture"
    """It holds a policy of another architecture."""
    DIGEST = "digest"
    """Its indices mean something else here."""
    WEIGHTS = "weights"
    """The weights do not fit the configuration, or are not finite."""


class PolicyRejectedError(ValueError):
    """A policy directory that cannot be used; the message names the file and what is wrong."""

    def __init__(self, path: Path, kind: Rejection, detail: str) -> None:
        super().__init__(path, kind, detail)
        self.path = path
        self.kind = kind
        self.detail = detail

    def __str__(self) -> str:
        """What is wrong, in one line."""
        return f"{self.path}: refused ({self.kind}): {self.detail}"


@dataclass(frozen=True, slots=True)
class Observing:
    """What turns reports into the graphs that a policy was trained on."""

    registries: Registries
    limits: GrowthLimits
    """Of the host family that it was trained on."""
    steps_per_epoch: int
    """Host batches."""


@dataclass(frozen=True)
class StoredPolicy:
    """A policy read from its directory."""

    policy: TamiyoPolicy
    """In evaluation mode."""
    version: str
    """Names these weights and no others, e.g. `gnn_v1-28-0f3a…`: architecture, updates, first digits of their hash."""
    observing: Observing
    digests: Mapping[str, str]
    source: Mapping[str, Any]
    """Where it was trained, for people."""


def save_policy(
    path: Path,
    policy: TamiyoPolicy,
    observing: Observing,
    *,
    digests: Mapping[str, str],
    num_updates: int,
    source: Mapping[str, Any],
) -> str:
    """Write a policy under a temporary name, then rename it into place.

    Args:
        path: The directory to make; it must not exist.
        policy: What to store.
        observing: What it was trained to see.
        digests: Hashes of the registries that its inputs and outputs refer to.
        num_updates: Updates that it has learned from.
        source: Plain values that say where it was trained.

    Returns:
        Its version.

    Raises:
        FileExistsError: If `path` exists.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists")
    staging = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in policy.state_dict().items()}
    save_file(tensors, staging / _WEIGHTS)
    (staging / _NORMS).write_text(_norms_of(policy).to_json(), encoding="utf-8")
    observing.registries.save(staging / _REGISTRIES)
    hashes = {str(file.relative_to(staging)): _hash(file.read_bytes()) for file in sorted(staging.rglob("*.*")) if file.is_file()}
    manifest: dict[str, Any] = {
        "format": DIRECTORY_NAME,
        "architecture_version": ARCHITECTURE_VERSION,
        "policy_version": f"{ARCHITECTURE_VERSION}-{num_updates}-{hashes[_WEIGHTS][:_VERSION_DIGITS]}",
        "config": dump(policy.config),
        "digests": dict(digests),
        "limits": dump(observing.limits),
        "steps_per_epoch": observing.steps_per_epoch,
        "source": dict(source),
        "versions": {name: version(name) for name in ("esper-morph", "torch")},
        "sha256": hashes,
    }
    manifest["seal"] = _seal(manifest)
    (staging / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    os.rename(staging, path)
    stored: str = manifest["policy_version"]
    return stored


def load_policy(path: Path, *, digests: Mapping[str, str] | None = None, device: str = "cpu", is_compiled: bool = False) -> StoredPolicy:
    """Read and verify a policy directory; nothing is unpickled.

    Args:
        path: The directory.
        digests: Hashes that the registries must have; None takes the directory's own.
        device: Where the policy shall live.
        is_compiled: Compile its network.

    Raises:
        PolicyRejectedError: If it is damaged, of another architecture, or belongs to other registries.
    """
    manifest = _read_manifest(path)
    contents = _read_files(path, manifest["sha256"])
    registries = _read_registries(path, contents, manifest["digests"])
    if digests is not None:
        _check_digests(path, manifest["digests"], digests)
    policy = _build(path, manifest, contents[_WEIGHTS], device=device, is_compiled=is_compiled)
    try:
        limits = load_config(GrowthLimits, manifest["limits"], "limits")
    except ConfigError as error:
        raise PolicyRejectedError(path, Rejection.UNREADABLE, f"{_MANIFEST}: {error}") from error
    return StoredPolicy(
        policy=policy,
        version=manifest["policy_version"],
        observing=Observing(registries, limits, int(manifest["steps_per_epoch"])),
        digests=dict(manifest["digests"]),
        source=dict(manifest.get("source", {})),
    )


def _read_manifest(path: Path) -> Mapping[str, Any]:
    if path.is_file():
        detail = f"a single file holds no {DIRECTORY_NAME} policy, such as weights of the older feed-forward network; it was not opened"
        raise PolicyRejectedError(path, Rejection.ARCHITECTURE, detail)
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PolicyRejectedError(path, Rejection.UNREADABLE, f"no readable {_MANIFEST}: {error}") from error
    if not isinstance(manifest, Mapping):
        raise PolicyRejectedError(path, Rejection.UNREADABLE, f"{_MANIFEST} is no mapping")
    architecture = manifest.get("architecture_version")
    if architecture != ARCHITECTURE_VERSION:
        raise PolicyRejectedError(path, Rejection.ARCHITECTURE, f"architecture {architecture!r}, this is {ARCHITECTURE_VERSION!r}")
    missing = [key for key in _REQUIRED if key not in manifest]
    if missing:
        raise PolicyRejectedError(path, Rejection.UNREADABLE, f"{_MANIFEST} lacks {', '.join(missing)}")
    if manifest["seal"] != _seal(manifest):
        raise PolicyRejectedError(path, Rejection.ALTERED, f"{_MANIFEST} was altered since it was written")
    return manifest


def _read_files(path: Path, hashes: Mapping[str, str]) -> dict[str, bytes]:
    """Contents of every file, each read once: what is used is what was verified."""
    contents: dict[str, bytes] = {}
    for name, expected in hashes.items():
        try:
            contents[name] = (path / name).read_bytes()
        except OSError as error:
            raise PolicyRejectedError(path, Rejection.UNREADABLE, f"{name}: {error.strerror}") from error
        if _hash(contents[name]) != expected:
            raise PolicyRejectedError(path, Rejection.ALTERED, f"{name} was altered since it was written")
    absent = [name for name in (_WEIGHTS, _NORMS) if name not in contents]
    if absent:
        raise PolicyRejectedError(path, Rejection.UNREADABLE, f"{_MANIFEST} lists no {', '.join(absent)}")
    return contents


def _read_registries(path: Path, contents: Mapping[str, bytes], digests: Mapping[str, str]) -> Registries:
    names = {field.name: f"{_REGISTRIES}/{field.name}.json" for field in fields(Registries)}
    absent = [name for name in names.values() if name not in contents]
    if absent:
        raise PolicyRejectedError(path, Rejection.UNREADABLE, f"{_MANIFEST} lists no {', '.join(absent)}")
    try:
        registries = Registries(**{kind: Registry.from_json(contents[name].decode()) for kind, name in names.items()})
    except (RegistryError, UnicodeDecodeError) as error:
        raise PolicyRejectedError(path, Rejection.UNREADABLE, str(error)) from error
    for name, found in registries.digests().items():
        if digests.get(name) != found:
            raise PolicyRejectedError(path, Rejection.DIGEST, f"registry {name} has digest {found}, {_MANIFEST} says {digests.get(name)}")
    return registries


def _check_digests(path: Path, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise PolicyRejectedError(path, Rejection.DIGEST, f"the digest of {name} is {found.get(name)}, here it is {expected.get(name)}")


def _build(path: Path, manifest: Mapping[str, Any], weights: bytes, *, device: str, is_compiled: bool) -> TamiyoPolicy:
    try:
        stored = load_config(TamiyoGNNConfig, manifest["config"], "config")
        tensors = load(weights)
    except ConfigError as error:
        raise PolicyRejectedError(path, Rejection.ARCHITECTURE, f"{_MANIFEST}: {error}") from error
    except SafetensorError as error:
        raise PolicyRejectedError(path, Rejection.UNREADABLE, f"{_WEIGHTS}: {error}") from error
    with OwnDraws(Generator()):
        policy = TamiyoPolicy(replace(stored, device="cpu", compile=False))
    problem = _misfit(policy.state_dict(), tensors)
    if problem:
        raise PolicyRejectedError(path, Rejection.WEIGHTS, f"{_WEIGHTS}: {problem}")
    policy.load_state_dict(tensors)
    policy.eval().requires_grad_(False)
    policy.run_on(device, is_compiled=is_compiled, group_size=1)
    return policy


def _misfit(own: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> str:
    """What keeps stored weights from being loaded; empty if nothing does."""
    differing = sorted(own.keys() ^ stored.keys())
    if differing:
        return f"{len(differing)} tensors are missing or unknown, {differing[0]!r} among them"
    for name, tensor in own.items():
        if stored[name].shape != tensor.shape:
            return f"{name} has shape {tuple(stored[name].shape)}, the configuration asks for {tuple(tensor.shape)}"
        if stored[name].is_floating_point() and not bool(stored[name].isfinite().all()):
            return f"{name} is not finite"
    return ""


def _norms_of(policy: TamiyoPolicy) -> FeatureNorms:
    return next(module.norms for module in policy.modules() if isinstance(module, MetricNormalisation))


def _seal(manifest: Mapping[str, Any]) -> str:
    """Hash over everything else in the manifest."""
    return _hash(json.dumps({key: value for key, value in manifest.items() if key != "seal"}, sort_keys=True).encode())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
