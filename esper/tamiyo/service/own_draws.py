"""Building modules in one thread without a trace in the random numbers of the others.

torch's own generator is the whole process's: seeding and restoring it around a block hands other threads the block's numbers, and
takes from them what they draw meanwhile. Here the functions that initialise weights are told which generator to use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

DRAWING: frozenset[Callable[..., Any]] = frozenset(
    {
        Tensor.normal_,
        Tensor.uniform_,
        nn.init.kaiming_normal_,
        nn.init.kaiming_uniform_,
        nn.init.normal_,
        nn.init.orthogonal_,
        nn.init.trunc_normal_,
        nn.init.uniform_,
        nn.init.xavier_normal_,
        nn.init.xavier_uniform_,
    }
)
"""What draws while modules are built, and takes a generator."""


class OwnDraws(TorchFunctionMode):
    """Initialises modules from one generator, in this thread.

    with OwnDraws(torch.Generator()):
        policy = TamiyoPolicy(config)
    """

    def __init__(self, generator: torch.Generator) -> None:
        """Draw from `generator`, which should be on the CPU, as the modules."""
        super().__init__()
        self._generator = generator

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a torch function, with the generator if it draws."""
        given = dict(kwargs or {})
        if func in DRAWING and given.get("generator") is None:
            given["generator"] = self._generator
        return func(*args, **given)
