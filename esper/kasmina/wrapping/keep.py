"""Somebody else's model is run to learn how it behaves; here is kept, and put back, what that could change."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from esper.leyline.host import WrapError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from esper.leyline.rng import SeedTree


@contextmanager
def keeping_modes(model: nn.Module) -> Iterator[None]:
    """Training or evaluation mode of every submodule."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def keeping_buffers(model: nn.Module) -> Iterator[None]:
    """Buffers and what is in them."""
    buffers = _buffers(model)
    numbers = [buffer.detach().clone() for _, _, buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for (module, name, buffer), values in zip(buffers, numbers, strict=True):
                module._buffers[name] = buffer
                buffer.copy_(values)


@contextmanager
def keeping_what_training_changes(model: nn.Module) -> Iterator[None]:
    """Parameters, their gradients, and the modules' plain attributes; not what is in lists, dicts and other objects there.

    The parameters have no gradients when the block begins.
    """
    attributes = [(module, dict(vars(module))) for module in model.modules()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    held = [value for _, kept in attributes for value in kept.values() if _is_plain(value)]
    numbers = [(tensor, tensor.detach().clone()) for tensor in dict.fromkeys([*model.parameters(), *held])]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        for module, kept in attributes:
            vars(module).clear()
            vars(module).update(kept)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for tensor, values in numbers:
                if not torch.equal(tensor, values):
                    tensor.copy_(values)


@contextmanager
def keeping_ambient_generators(seeds: SeedTree) -> Iterator[None]:
    """Python's and NumPy's own generators, which the block finds in a state of `seeds`; torch's are another's concern."""
    own, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # the generator that models draw from
    try:
        random.setstate(random.Random(seeds.integer()).getstate())
        np.random.set_state({"bit_generator": "MT19937", "state": np.random.MT19937(seeds.integer()).state["state"]})  # noqa: NPY002
        yield
    finally:
        random.setstate(own)
        np.random.set_state(numpy)  # noqa: NPY002


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


def _buffers(model: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    return [(module, name, buffer) for module in model.modules() for name, buffer in module._buffers.items() if buffer is not None]


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_nested
