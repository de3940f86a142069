"""The attributes of a module, with tensors of many members in the place of its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from esper.kasmina.population.columns import Stack


class Stacked:
    """What `layers.spatial.weight` and the like are read from; any other attribute is that of the template's module."""

    __slots__ = ("__dict__", "_module")
    _module: nn.Module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def __getitem__(self, index: int) -> Any:
        length = len(self)
        if not -length <= index < length:
            raise IndexError(f"{index} is outside a stack of {length} layers")
        return getattr(self, str(index % length))

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    def __len__(self) -> int:
        return len(self._module)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class _Node:
    module: nn.Module
    parent: int
    name: str
    parameters: tuple[tuple[str, int], ...]


class StackPlan:
    """How to make a `Stacked` from a list of tensors; found out once, because it is done at every training step.

        plan = StackPlan(template)
        layers = plan.bind(tensors)        # in the order of template.parameters(), members in front
        layers.spatial.weight              # [K, O, C, k, k]

    Args:
        template: One of the members' modules; it lends its structure and settings, never its numbers.

    Raises:
        ValueError: If the template has buffers, which would be one member's own.
    """

    def __init__(self, template: nn.Module) -> None:
        buffers = [name for name, _ in template.named_buffers()]
        if buffers:
            raise ValueError(f"{type(template).__name__} cannot be stacked: it has the buffers {', '.join(buffers)}")
        self.names = tuple(name for name, _ in template.named_parameters())
        places = {id(parameter): i for i, parameter in enumerate(template.parameters())}
        self._nodes: list[_Node] = []
        self._add(template, -1, "", places)

    def bind(self, tensors: Sequence[Stack]) -> Stacked:
        """The tree of attributes that carries these tensors.

        Raises:
            ValueError: If they are not as many as the template has parameters.
        """
        if len(tensors) != len(self.names):
            raise ValueError(f"{len(tensors)} tensors for the {len(self.names)} parameters {', '.join(self.names)}")
        made: list[Stacked] = []
        for node in self._nodes:
            stacked = Stacked()
            stacked._module = node.module
            for name, place in node.parameters:
                stacked.__dict__[name] = tensors[place]
            if node.parent >= 0:
                made[node.parent].__dict__[node.name] = stacked
            made.append(stacked)
        return made[0]

    def _add(self, module: nn.Module, parent: int, name: str, places: dict[int, int]) -> None:
        own = tuple((key, places[id(parameter)]) for key, parameter in module.named_parameters(recurse=False, remove_duplicate=False))
        index = len(self._nodes)
        self._nodes.append(_Node(module, parent, name, own))
        for key, child in module._modules.items():
            if child is not None and next(child.parameters(), None) is not None:
                self._add(child, index, key, places)
