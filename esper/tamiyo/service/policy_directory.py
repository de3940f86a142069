"""The `tamiyo_gnn_v1` directory: a trained policy, complete, verified on load, without pickle.

manifest.json           architecture, configuration, digests, what the observation needs, and a hash of every other file
weights.safetensors     parameters and buffers, the running statistics of the inputs among them
gnn_norms.json          these statistics for people and other tools
registries/*.json       the names behind every index that the policy knows
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Generator

from esper.leyline.actions import HEAD_SIZES, NUM_BLUEPRINT_PLACES, Head
from esper.leyline.load import ConfigError, dump
from esper.leyline.load import load as load_config
from esper.leyline.masks import GrowthLimits
from esper.tamiyo.config import TamiyoGNNConfig
from esper.tamiyo.graph_spec import GRAPH_SPEC
from esper.tamiyo.norms import FeatureNorms, MetricNormalisation, NormsError
from esper.tamiyo.policy import TamiyoPolicy
from esper.tamiyo.registries import Registries, Registry, RegistryError
from esper.tamiyo.service.errors import PolicyRejectedError, Rejection
from esper.tamiyo.service.manifest import (
    ARCHITECTURE_VERSION,
    DIRECTORY_NAME,
    MANIFEST,
    NORMS,
    REGISTRIES,
    REGISTRY_FILES,
    WEIGHTS,
    Manifest,
    hash_of,
    quoted,
    read_manifest,
    seal_of,
    version_of,
)
from esper.tamiyo.service.own_draws import OwnDraws
from esper.tamiyo.tiny_graph import tiny_graphs

if TYPE_CHECKING:
    from torch import Tensor

    from esper.leyline.graph import GraphBatch


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
    save_file(tensors, staging / WEIGHTS)
    (staging / NORMS).write_text(_norms_of(policy).to_json(), encoding="utf-8")
    observing.registries.save(staging / REGISTRIES)
    hashes = {file.relative_to(staging).as_posix(): hash_of(file.read_bytes()) for file in sorted(staging.rglob("*.*")) if file.is_file()}
    manifest = Manifest(
        format=DIRECTORY_NAME,
        architecture_version=ARCHITECTURE_VERSION,
        policy_version=version_of(num_updates, hashes[WEIGHTS]),
        config=dump(policy.config),
        digests=digests,
        limits=observing.limits,
        steps_per_epoch=observing.steps_per_epoch,
        source=source,
        versions={name: version(name) for name in ("esper-morph", "torch")},
        sha256=hashes,
        seal="",
    )
    values = dump(manifest)
    (staging / MANIFEST).write_text(json.dumps(values | {"seal": seal_of(values)}, indent=1), encoding="utf-8")
    os.rename(staging, path)
    return manifest.policy_version


def load_policy(
    path: Path | str, *, digests: Mapping[str, str] | None = None, device: str = "cpu", is_compiled: bool = False
) -> StoredPolicy:
    """Read and verify a policy directory; nothing is unpickled.

    Args:
        path: The directory.
        digests: Hashes that all it refers to must have; None asks only that its registries are those of its manifest, and that
            its observations are laid out as they are here, which is asked always.
        device: Where the policy shall live.
        is_compiled: Compile its network.

    Raises:
        PolicyRejectedError: If it is damaged, of another architecture, belongs to other registries or another layout of
            observations, or answers with numbers that are not finite.
    """
    path = Path(path)
    try:
        stored = _read(path, digests)
    except RecursionError as error:
        raise PolicyRejectedError(path, Rejection.UNREADABLE, "a file of it is nested too deeply") from error
    stored.policy.run_on(device, is_compiled=is_compiled, group_size=1)
    return stored


def _read(path: Path, digests: Mapping[str, str] | None) -> StoredPolicy:
    manifest = read_manifest(path)
    contents = _read_files(path, manifest.sha256)
    registries = _read_registries(path, contents)
    here = {"graph": GRAPH_SPEC.digest, **registries.digests()}
    _check_digests(path, {name: manifest.digests.get(name) for name in here}, here)
    if digests is not None:
        _check_digests(path, manifest.digests, digests)
    _check_limits(path, manifest.limits, num_blueprints=min(NUM_BLUEPRINT_PLACES, len(registries.blueprints) - 1))
    policy = _build(path, manifest, contents[WEIGHTS])
    _check_norms(path, contents[NORMS], policy)
    return StoredPolicy(
        policy=policy,
        version=manifest.policy_version,
        observing=Observing(registries, manifest.limits, manifest.steps_per_epoch),
        digests=manifest.digests,
        source=manifest.source,
    )


def _read_files(path: Path, hashes: Mapping[str, str]) -> dict[str, bytes]:
    """Contents of every file, each read once: what is used is what was verified."""
    contents: dict[str, bytes] = {}
    for name, expected in hashes.items():
        try:
            contents[name] = (path / name).read_bytes()
        except OSError as error:
            raise PolicyRejectedError(path, Rejection.UNREADABLE, f"{name}: {error.strerror}") from error
        if hash_of(contents[name]) != expected:
            raise PolicyRejectedError(path, Rejection.ALTERED, f"{name} was altered since it was written")
    return contents


def _read_registries(path: Path, contents: Mapping[str, bytes]) -> Registries:
    try:
        return Registries(**{kind: Registry.from_json(contents[name].decode()) for kind, name in REGISTRY_FILES.items()})
    except (RegistryError, UnicodeDecodeError) as error:
        raise PolicyRejectedError(path, Rejection.UNREADABLE, quoted(error)) from error


def _check_digests(path: Path, found: Mapping[str, str | None], expected: Mapping[str, str]) -> None:
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            detail = f"the digest of {name!r} is {found.get(name)!r}, here it is {expected.get(name)!r}"
            raise PolicyRejectedError(path, Rejection.DIGEST, detail)


def _check_limits(path: Path, limits: GrowthLimits, *, num_blueprints: int) -> None:
    """Refuse places that no head has, and blueprints without a name."""
    sizes = {"blueprints": num_blueprints, "tempos": HEAD_SIZES[Head.TEMPO], "alpha_targets": HEAD_SIZES[Head.ALPHA_TARGET]}
    for name, size in sizes.items():
        places = getattr(limits, name)
        if not all(0 <= place < size for place in places):
            raise PolicyRejectedError(path, Rejection.UNREADABLE, f"limits.{name}={list(places)} should be places from 0 to {size - 1}")


def _check_norms(path: Path, content: bytes, policy: TamiyoPolicy) -> None:
    """Refuse statistics that are not those of the weights."""
    try:
        told = FeatureNorms.from_json(content.decode())
    except (NormsError, UnicodeDecodeError) as error:
        raise PolicyRejectedError(path, Rejection.UNREADABLE, f"{NORMS}: {quoted(error)}") from error
    if told != _norms_of(policy):
        raise PolicyRejectedError(path, Rejection.ALTERED, f"{NORMS} tells other statistics than {WEIGHTS} holds")


def _build(path: Path, manifest: Manifest, weights: bytes) -> TamiyoPolicy:
    """The policy in evaluation mode, on the CPU."""
    try:
        config = replace(load_config(TamiyoGNNConfig, manifest.config, "config"), device="cpu", compile=False)
        tensors = load(weights)
        with OwnDraws(Generator()):
            policy = TamiyoPolicy(config)
    except ConfigError as error:
        raise PolicyRejectedError(path, Rejection.ARCHITECTURE, f"{MANIFEST}: {quoted(error)}") from error
    except (SafetensorError, KeyError) as error:
        raise PolicyRejectedError(path, Rejection.UNREADABLE, f"{WEIGHTS}: {quoted(error)}") from error
    problem = _misfit(policy.state_dict(), tensors)
    if not problem:
        policy.load_state_dict(tensors)
        policy.eval().requires_grad_(False)
        problem = _nonsense(policy)
    if problem:
        raise PolicyRejectedError(path, Rejection.WEIGHTS, f"{WEIGHTS}: {problem}")
    return policy


def _misfit(own: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> str:
    """What keeps stored weights from being loaded; empty if nothing does."""
    differing = sorted(own.keys() ^ stored.keys())
    if differing:
        return f"{len(differing)} tensors are missing or unknown, {differing[0]!r} among them"
    for name, tensor in own.items():
        if stored[name].shape != tensor.shape:
            return f"{name} has shape {tuple(stored[name].shape)}, the configuration asks for {tuple(tensor.shape)}"
        if stored[name].dtype != tensor.dtype:
            return f"{name} is of type {stored[name].dtype}, and should be {tensor.dtype}"
        if not bool(stored[name].isfinite().all()):
            return f"{name} is not finite"
    return ""


def _nonsense(policy: TamiyoPolicy) -> str:
    """Why no sense can be made of what a policy would answer; empty if it can."""
    try:
        _norms_of(policy)
    except NormsError as error:
        return quoted(error)
    parts = policy.inspect(_trial_graphs()).not_finite
    return f"asked about small graphs, it answers with {', '.join(parts)} not finite" if parts else ""


def _trial_graphs() -> GraphBatch:
    """Two small graphs: one without content, and one in which everything was measured and is 1."""
    graphs = tiny_graphs(2)
    for rows in (*graphs.nodes.values(), *graphs.edge_attr.values()):
        rows[len(rows) // 2 :] = 1.0
    return graphs


def _norms_of(policy: TamiyoPolicy) -> FeatureNorms:
    return next(module.norms for module in policy.modules() if isinstance(module, MetricNormalisation))
