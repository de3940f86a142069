"""Weights to return to after a failure: those of the host and of its fossils, where they are computed with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from esper.kasmina.copies import copies, write

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Parameters and buffers by module, then by name; independent copies."""

    host: Mapping[str, Tensor]
    fossils: Mapping[str, Mapping[str, Tensor]]
    """By seed id."""

    @staticmethod
    def take(host: nn.Module, fossils: Mapping[str, nn.Module]) -> Snapshot:
        """Copy the weights of a host and of its fossils by seed id."""
        return Snapshot(_copy(host), {seed_id: _copy(module) for seed_id, module in fossils.items()})

    def with_fossils(self, fossils: Mapping[str, nn.Module]) -> Snapshot:
        """The same, with copies of those fossils by seed id that it does not hold yet."""
        new = {seed_id: _copy(module) for seed_id, module in fossils.items() if seed_id not in self.fossils}
        return Snapshot(self.host, {**self.fossils, **new})

    def write(self, host: nn.Module, fossils: Mapping[str, nn.Module]) -> None:
        """Copy the weights back into the modules' own tensors, which keep their identity.

        Raises:
            ValueError: If a fossil is lost, or names or shapes differ; nothing is written then.
        """
        lost = self.fossils.keys() - fossils.keys()
        if lost:
            raise ValueError(f"the snapshot holds fossils {sorted(lost)} that the model does not have")
        targets = [(host, self.host), *((fossils[seed_id], state) for seed_id, state in self.fossils.items())]
        for module, state in targets:
            _check(module, state)
        for module, state in targets:
            _write(module, state)


def _copy(module: nn.Module) -> dict[str, Tensor]:
    named = dict(_tensors(module))
    return dict(zip(named, copies(list(named.values())), strict=True))


def _check(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    found = {name: tuple(tensor.shape) for name, tensor in _tensors(module)}
    expected = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if found != expected:
        differing = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise ValueError(f"the snapshot does not fit the {type(module).__name__}; differing: {differing}")


def _write(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    named = dict(_tensors(module))
    write([state[name] for name in named], into=list(named.values()))


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()
