"""Names of categories and the indices by which a trained policy knows them. Indices are append-only.

A registry is a value: it is passed to who needs it, and a digest of it travels with every checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

REGISTRY_VERSION = 1
CAPACITY = 64
"""Indices that a registry can give out, that of `unknown` included: rows of an embedding table."""
UNKNOWN = "unknown"

LAYER_TYPES = (
    UNKNOWN, "conv1d", "conv2d", "conv3d", "depthwise_conv2d", "linear", "embedding", "attention", "mlp",
    "batch_norm", "group_norm", "layer_norm", "rms_norm", "pool", "dropout", "residual_block", "transformer_block",
    "recurrent", "positional", "mixer", "scale", "identity", "head",
)  # fmt: skip
ACTIVATIONS = (
    UNKNOWN, "identity", "relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid", "softmax", "elu", "hardswish", "mish",
    "softplus", "swiglu",
)  # fmt: skip
OPTIMIZER_FAMILIES = (UNKNOWN, "sgd", "adam", "adamw", "rmsprop", "adagrad")
HAZARDS = (UNKNOWN, "low", "medium", "high", "critical")
"""Bands of a blueprint's safety data sheet, by its risk score: low below 0.30, medium below 0.60, high below 0.85."""
SPECIALIZATIONS = (UNKNOWN, "normalisation", "attention", "convolution", "low_rank", "mlp", "gating", "recurrence")


class RegistryError(ValueError):
    """A registry that cannot be used as asked; the message names kind, value and remedy."""


@dataclass(frozen=True, slots=True)
class Registry:
    """Names of one kind; the place of a name is its index, and index 0 is `unknown`."""

    kind: str
    names: tuple[str, ...] = (UNKNOWN,)

    def __post_init__(self) -> None:
        """Refuse names that could not be told apart.

        Raises:
            RegistryError: If the first name is not `unknown`, a name is empty, stands twice or is no text of Unicode characters, or
                there are too many.
        """
        odd = [name for name in self.names if not _is_text(name)]
        if odd:
            raise RegistryError(f"registry {self.kind!r} should hold texts of Unicode characters, got {odd[0]!r}")
        if not self.names or self.names[0] != UNKNOWN:
            raise RegistryError(f"registry {self.kind!r} should begin with {UNKNOWN!r}, got {self.names[:1]}")
        twice = sorted({name for name in self.names if self.names.count(name) > 1 or not name})
        if twice:
            raise RegistryError(f"registry {self.kind!r} should name everything once, and these are empty or stand twice: {twice}")
        if len(self.names) > CAPACITY:
            raise RegistryError(f"registry {self.kind!r} holds at most {CAPACITY} names, got {len(self.names)}")

    def __len__(self) -> int:
        """Names, `unknown` included."""
        return len(self.names)

    def index(self, name: str | None) -> int:
        """Index of a name; 0 for None and for a name that is not registered."""
        return self.names.index(name) if name in self.names else 0

    def name(self, index: int) -> str:
        """Name at an index.

        Raises:
            RegistryError: If there is none.
        """
        if not 0 <= index < len(self.names):
            raise RegistryError(f"registry {self.kind!r} has indices 0…{len(self.names) - 1}, not {index}")
        return self.names[index]

    def extended(self, names: Iterable[str]) -> Registry:
        """The registry with the names that it lacks behind its own, in the order given.

        Raises:
            RegistryError: If they do not fit.
        """
        return replace(self, names=tuple(dict.fromkeys((*self.names, *names))))

    @property
    def digest(self) -> str:
        """SHA-256 over kind and names in their order."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Text that `from_json` reads; equal registries give equal text."""
        return json.dumps({"version": REGISTRY_VERSION, "kind": self.kind, "names": list(self.names)}, ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Registry:
        """Read what `to_json` wrote.

        Raises:
            RegistryError: If the text is something else, or of another version.
        """
        try:
            values = json.loads(text)
        except RecursionError as error:
            raise RegistryError(f"a registry should have version, kind and names, and is nested too deeply: {text[:80]!r}") from error
        except ValueError as error:
            raise RegistryError(f"a registry should be JSON: {error}") from error
        if not isinstance(values, dict) or values.keys() != {"version", "kind", "names"}:
            raise RegistryError(f"a registry should have version, kind and names, got {text[:80]!r}")
        if values["version"] != REGISTRY_VERSION:
            raise RegistryError(f"registry version {values['version']!r} cannot be read; this is version {REGISTRY_VERSION}")
        kind, names = values["kind"], values["names"]
        if not isinstance(kind, str) or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise RegistryError(f"a registry's kind should be text and its names a list of texts, got {text[:80]!r}")
        return cls(kind, tuple(names))


@dataclass(frozen=True, slots=True)
class Registries:
    """Everything that a policy knows by index."""

    layer_types: Registry
    activations: Registry
    optimizer_families: Registry
    hazards: Registry
    specializations: Registry
    seeds: Registry
    """Seeds of long life whose identity the policy may use; the seeds of training are strangers to it, index 0."""
    blueprints: Registry
    """In the order of their places in the blueprint head: place p has index p + 1."""

    def __post_init__(self) -> None:
        """Refuse a registry in the place of another.

        Raises:
            RegistryError: If a registry's kind is not its field's name.
        """
        for field in fields(self):
            kind = getattr(self, field.name).kind
            if kind != field.name:
                raise RegistryError(f"the registry of {field.name} should be of that kind, got {kind!r}")

    @classmethod
    def standard(cls, *, blueprints: Iterable[str] = (), seeds: Iterable[str] = ()) -> Registries:
        """The shipped vocabularies, with the blueprints in the order of their places and the seeds given."""
        return cls(
            layer_types=Registry("layer_types", LAYER_TYPES),
            activations=Registry("activations", ACTIVATIONS),
            optimizer_families=Registry("optimizer_families", OPTIMIZER_FAMILIES),
            hazards=Registry("hazards", HAZARDS),
            specializations=Registry("specializations", SPECIALIZATIONS),
            seeds=Registry("seeds").extended(seeds),
            blueprints=Registry("blueprints").extended(blueprints),
        )

    def extended(self, **names: Iterable[str]) -> Registries:
        """The registries with names appended, by kind.

        Raises:
            RegistryError: If a kind is unknown, or names do not fit.
        """
        return replace(self, **{kind: self.of(kind).extended(more) for kind, more in names.items()})

    def of(self, kind: str) -> Registry:
        """The registry of a kind.

        Raises:
            RegistryError: If the kind is unknown.
        """
        kinds = [f.name for f in fields(self)]
        if kind not in kinds:
            raise RegistryError(f"there is no registry {kind!r}; there are {', '.join(kinds)}")
        registry: Registry = getattr(self, kind)
        return registry

    def digests(self) -> dict[str, str]:
        """Digest of each registry by its kind."""
        return {f.name: getattr(self, f.name).digest for f in fields(self)}

    def save(self, folder: Path) -> None:
        """Write one JSON file per registry into `folder`, which is made if it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        for field in fields(self):
            (folder / f"{field.name}.json").write_text(getattr(self, field.name).to_json(), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Registries:
        """Read what `save` wrote.

        Raises:
            RegistryError: If a file is missing, cannot be read, or is no registry of its kind.
        """
        found = {}
        for field in fields(cls):
            path = folder / f"{field.name}.json"
            if not path.is_file():
                raise RegistryError(f"the registry {path} is missing")
            try:
                found[field.name] = Registry.from_json(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise RegistryError(f"{path} is no registry: {error}") from error
        return cls(**found)


def _is_text(name: object) -> bool:
    """Whether a name is text that can be written: a lone surrogate cannot."""
    return isinstance(name, str) and not any("\ud800" <= character <= "\udfff" for character in name)
