"""One forward pass of somebody else's model, seen from outside: which submodule ran when, on what, with what result.

The model is left as it was: see `undisturbed`.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from esper.kasmina.wrapping.keep import keeping_ambient_generators, keeping_buffers, keeping_modes, keeping_what_training_changes
from esper.leyline.rng import SeedTree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

TOLERANCE_ULPS = 1000
"""Rounding steps of the largest value by which two results may differ and still count as equal."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a submodule. Calls are ordered by their ends, so that a part comes before what contains it."""

    name: str
    """Path under the model."""
    module: nn.Module
    inputs: tuple[Any, ...]
    """Positional inputs."""
    output: Any
    version: int | None
    """In-place changes that the output had seen by then; None where it is not a tensor."""

    @property
    def was_changed(self) -> bool:
        """Whether the output was modified in place after the call, directly or through what shares its storage."""
        return isinstance(self.output, Tensor) and self.output._version != self.version


@dataclass(frozen=True, slots=True)
class Observation:
    """What one forward pass did."""

    calls: tuple[Call, ...]
    logits: Any

    def of(self, name: str) -> list[Call]:
        """The calls of one submodule."""
        return [call for call in self.calls if call.name == name]


def observe(model: nn.Module, x: Tensor, *, replace: Mapping[str, Callable[[Tensor], Tensor]] | None = None) -> Observation:
    """Run `model` on `x` and note every call of a submodule.

    Args:
        model: In the mode in which it should run; see `undisturbed`.
        x: One batch.
        replace: By submodule, what to make of its output before it flows on.
    """
    calls: list[Call] = []

    def note(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        if replace is not None and name in replace:
            output = replace[name](output)
        calls.append(Call(name, module, inputs, output, output._version if isinstance(output, Tensor) else None))
        return output

    handles = [module.register_forward_hook(partial(note, name)) for name, module in model.named_modules() if name]
    try:
        logits = model(x)
    finally:
        for handle in handles:
            handle.remove()
    return Observation(tuple(calls), logits)


@contextmanager
def undisturbed(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put `model` into training or evaluation mode for a block that draws the same random numbers every time.

    Afterwards modes, buffers and the ambient random generators are as they were; after training, parameters, their gradients and
    plain attributes too.
    """
    devices = list(dict.fromkeys(parameter.device for parameter in model.parameters()))
    seeds = SeedTree(0).child("wrap")
    with (
        keeping_modes(model),
        keeping_buffers(model),
        keeping_what_training_changes(model) if training else nullcontext(),
        keeping_ambient_generators(seeds),
        seeds.torch_scope(devices),
    ):
        model.train(training)
        yield


def agree(found: Tensor, expected: Tensor) -> bool:
    """Whether two results are equal but for rounding; what is not finite should be the same."""
    if found.shape != expected.shape:
        return False
    if not found.is_floating_point() or found.numel() == 0:
        return torch.equal(found, expected)
    is_finite = expected.isfinite()
    if not torch.equal(found[~is_finite], expected[~is_finite]):
        return False
    found, expected = found[is_finite], expected[is_finite]
    if found.numel() == 0:
        return True
    limit = TOLERANCE_ULPS * torch.finfo(found.dtype).eps * float(expected.abs().max())
    return float((found - expected).abs().max()) <= limit


def dense(value: Any) -> Any:
    """A nested tensor, as torch's transformer encoder makes of a padded one, padded with zeros; anything else as it is."""
    return torch.nested.to_padded_tensor(value, 0.0) if isinstance(value, Tensor) and value.is_nested else value


def describe(value: Any) -> str:
    """A value in a message: type and dtype, and shape or length."""
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        return f"a nested {kind} tensor of {value.size(0)}" if value.is_nested else f"a {kind} tensor {list(value.shape)}"
    if isinstance(value, (tuple, list, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
