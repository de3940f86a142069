"""One forward pass of somebody else's model, seen from outside: which submodule ran when, on what, with what result.

The model is left as it was: modes, buffers, hooks and the ambient random generator are restored.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from esper.leyline.host import WrapError
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
    """Put `model` into training or evaluation mode for a block, and give it its modes and buffers back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = _buffers(model)
    numbers = [buffer.detach().clone() for _, _, buffer in buffers]
    model.train(training)
    try:
        with SeedTree(0).child("wrap").torch_scope():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for (module, name, buffer), values in zip(buffers, numbers, strict=True):
                module._buffers[name] = buffer
                buffer.copy_(values)


@contextmanager
def refusing_written_buffers(model: nn.Module) -> Iterator[None]:
    """Check that a block of evaluation leaves the model's buffers alone.

    Raises:
        WrapError: If one was written to or replaced.
    """
    before = [(module, name, buffer, buffer._version) for module, name, buffer in _buffers(model)]
    yield
    written = [name for module, name, buffer, version in before if module._buffers.get(name) is not buffer or buffer._version != version]
    if written:
        raise WrapError(
            f"the forward pass writes to the buffers {', '.join(sorted(set(written)))} in evaluation mode, so that evaluating would "
            "change the model; write to them only where self.training"
        )


def agree(found: Tensor, expected: Tensor) -> bool:
    """Whether two results are equal but for rounding."""
    if found.shape != expected.shape:
        return False
    if not found.is_floating_point() or found.numel() == 0:
        return torch.equal(found, expected)
    limit = TOLERANCE_ULPS * torch.finfo(found.dtype).eps * float(expected.abs().max())
    return float((found - expected).abs().max()) <= limit


def describe(value: Any) -> str:
    """A value in a message: type and dtype, and shape or length."""
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor {list(value.shape)}"
    if isinstance(value, (tuple, list, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def _buffers(model: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    return [(module, name, buffer) for module in model.modules() for name, buffer in module._buffers.items() if buffer is not None]
