"""What a policy directory says about itself, in one file that is judged before any other of it is opened."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from esper.leyline.load import ConfigError, load, setting
from esper.leyline.masks import GrowthLimits
from esper.tamiyo.registries import Registries
from esper.tamiyo.service.errors import PolicyRejectedError, Rejection

if TYPE_CHECKING:
    from pathlib import Path

ARCHITECTURE_VERSION = "gnn_v1"
DIRECTORY_NAME = f"tamiyo_{ARCHITECTURE_VERSION}"
MANIFEST, WEIGHTS, NORMS = "manifest.json", "weights.safetensors", "gnn_norms.json"
REGISTRIES = "registries"
REGISTRY_FILES: Mapping[str, str] = {field.name: f"{REGISTRIES}/{field.name}.json" for field in fields(Registries)}
"""Kind → its file."""
FILES = frozenset({WEIGHTS, NORMS, *REGISTRY_FILES.values()})
"""All that a directory holds beside the manifest."""
_VERSION_DIGITS = 12
"""Digits of the weights' hash in a policy's version."""
_MOST_STEPS = 2**53
"""Counts beyond it are not exact as floats."""
_LONGEST_DETAIL = 500
"""Characters of a refusal that quotes what was found."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of `manifest.json`."""

    format: str = setting(help="name of this layout of files")
    architecture_version: str = setting(help="architecture of the network")
    policy_version: str = setting(help="names these weights and no others")
    config: Mapping[str, Any] = setting(help="settings of the network")
    digests: Mapping[str, str] = setting(help="hash of everything that the policy's inputs and outputs refer to")
    limits: GrowthLimits = setting(help="what the hosts of training allowed")
    steps_per_epoch: int = setting(help="host batches in an epoch", ge=1, le=_MOST_STEPS)
    source: Mapping[str, Any] = setting(help="where the policy was trained, for people")
    versions: Mapping[str, str] = setting(help="what wrote the directory, for people")
    sha256: Mapping[str, str] = setting(help="hash of every other file")
    seal: str = setting(help="hash over everything else in the manifest")


def version_of(num_updates: int | str, weights_hash: str) -> str:
    """Name of weights, e.g. `gnn_v1-28-0f3a…`: architecture, updates, first digits of their hash."""
    return f"{ARCHITECTURE_VERSION}-{num_updates}-{weights_hash[:_VERSION_DIGITS]}"


def seal_of(values: Mapping[str, Any]) -> str:
    """Hash over everything in a manifest but its seal."""
    return hash_of(json.dumps({key: value for key, value in values.items() if key != "seal"}, sort_keys=True).encode())


def hash_of(content: bytes) -> str:
    """SHA-256."""
    return hashlib.sha256(content).hexdigest()


def quoted(error: Exception) -> str:
    """What an error says, cut short, and without the lone surrogates that no telemetry can carry."""
    return str(error)[:_LONGEST_DETAIL].encode(errors="backslashreplace").decode()


def read_manifest(path: Path) -> Manifest:
    """The manifest of the directory `path`.

    Raises:
        PolicyRejectedError: If there is none, it was altered, or it does not describe a policy of this architecture.
    """
    values = _read_mapping(path)
    _check_name(path, values, "architecture_version", ARCHITECTURE_VERSION)
    missing = [field.name for field in fields(Manifest) if field.name not in values]
    if missing:
        raise PolicyRejectedError(path, Rejection.UNREADABLE, f"{MANIFEST} lacks {', '.join(missing)}")
    _check_name(path, values, "format", DIRECTORY_NAME)
    if values["seal"] != seal_of(values):
        raise PolicyRejectedError(path, Rejection.ALTERED, f"{MANIFEST} was altered since it was written")
    try:
        manifest = load(Manifest, values, "manifest")
    except ConfigError as error:
        raise PolicyRejectedError(path, Rejection.UNREADABLE, quoted(error)) from error
    _check_files(path, manifest)
    return manifest


def _read_mapping(path: Path) -> Mapping[str, Any]:
    try:
        values = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except NotADirectoryError as error:
        detail = f"a single file holds no {DIRECTORY_NAME} policy, such as weights of the older feed-forward network; it was not opened"
        raise PolicyRejectedError(path, Rejection.ARCHITECTURE, detail) from error
    except (OSError, ValueError) as error:
        raise PolicyRejectedError(path, Rejection.UNREADABLE, f"no readable {MANIFEST}: {quoted(error)}") from error
    if not isinstance(values, dict):
        raise PolicyRejectedError(path, Rejection.UNREADABLE, f"{MANIFEST} should be a mapping, got {type(values).__name__}")
    return values


def _check_name(path: Path, values: Mapping[str, Any], key: str, here: str) -> None:
    found = values.get(key)
    if found != here:
        raise PolicyRejectedError(path, Rejection.ARCHITECTURE, f"{MANIFEST} has {key} {repr(found)[:_LONGEST_DETAIL]}, this is {here!r}")


def _check_files(path: Path, manifest: Manifest) -> None:
    """Refuse hashes of other files, and a version that names other weights."""
    absent, unknown = sorted(FILES - manifest.sha256.keys()), sorted(manifest.sha256.keys() - FILES)
    if absent or unknown:
        detail = f"{MANIFEST} should list the hashes of {', '.join(sorted(FILES))}; missing {absent}, unknown {unknown}"
        raise PolicyRejectedError(path, Rejection.UNREADABLE, detail[:_LONGEST_DETAIL])
    updates = manifest.policy_version.removeprefix(f"{ARCHITECTURE_VERSION}-").partition("-")[0]
    if not re.fullmatch("[0-9]+", updates) or manifest.policy_version != version_of(updates, manifest.sha256[WEIGHTS]):
        detail = f"{MANIFEST} has policy_version {manifest.policy_version!r}, which does not name the weights beside it"
        raise PolicyRejectedError(path, Rejection.ALTERED, detail[:_LONGEST_DETAIL])
