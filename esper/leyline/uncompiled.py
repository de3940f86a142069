"""torch's own optimizers without the import of its compiler.

The decorators around their methods import `torch._dynamo` at the first call: more than a second and 70 MB in every process, for
nothing where nothing is compiled. The updates are the library's, to the last bit. Needs torch; no other contract does.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

if TYPE_CHECKING:
    from collections.abc import Callable


class _Uncompiled(Optimizer):
    """The methods beneath the decorators; where there are none, nothing changes."""

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)


class AdamW(_Uncompiled, torch.optim.AdamW):
    """`torch.optim.AdamW`."""

    _take: Callable[..., Any] = inspect.unwrap(torch.optim.AdamW.step)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters once."""
        return self._take(closure)


class SGD(_Uncompiled, torch.optim.SGD):
    """`torch.optim.SGD`."""

    _take: Callable[..., Any] = inspect.unwrap(torch.optim.SGD.step)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters once."""
        return self._take(closure)
