"""A CUDA graph's rules on a CPU: what was recorded is repeated operation by operation on the very same tensors.

No Python of the step runs again, so that a number which the step took from Python stays what it was when it was recorded, and a
tensor that is another one by then is not looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Callable

WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "unique", "masked_select", "pin_memory", "random", "dropout")
"""Operations that a graph cannot hold: the host would have to wait for them, or they draw random numbers."""


class TapeRecorder:
    """A `Recorder` whose recordings are tapes."""

    def __init__(self, frozen: Callable[[Tensor], bool] = lambda tensor: False) -> None:
        """Prepare for recording.

        Args:
            frozen: Which of the tensors that were there before are to keep the numbers of the recording; none should.
        """
        self._frozen = frozen
        self.num_warm = self.num_recorded = self.num_replayed = self.num_frozen = 0

    def warm(self, step: Callable[[], None]) -> None:
        self.num_warm += 1
        step()

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        self.num_recorded += 1
        tape = _Tape()
        with tape:
            step()
        tape.take_back()
        kept = [(tensor, tensor.clone()) for tensor in tape.inputs() if self._frozen(tensor)]
        self.num_frozen += len(kept)

        def replay() -> None:
            self.num_replayed += 1
            with torch.no_grad():
                for tensor, numbers in kept:
                    tensor.copy_(numbers)
            tape.replay()

        return replay


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], dict[int, Tensor]]] = []
        self._made: set[int] = set()
        self._before: dict[int, tuple[Tensor, Tensor]] = {}
        self._inputs: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if any(word in func.name() for word in WAITS):
            raise RuntimeError(f"{func} cannot be part of a graph")
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for tensor in given:
            place = _place(tensor)
            if place not in self._made:
                self._inputs.setdefault(id(tensor), tensor)
                if func._schema.is_mutable and place not in self._before:
                    whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
                    self._before[place] = whole, whole.clone()
        result = func(*args, **kwargs)
        places = {_place(tensor) for tensor in given}
        leaves = tree_leaves(result)
        made = {i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and _place(leaf) not in places}
        self._made |= {_place(tensor) for tensor in made.values()}
        self._operations.append((func, args, kwargs, made))
        return result

    def take_back(self) -> None:
        """Undo what recording has computed."""
        for whole, numbers in self._before.values():
            whole.copy_(numbers)

    def inputs(self) -> list[Tensor]:
        """Tensors that were there before."""
        return list(self._inputs.values())

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, made in self._operations:
            if made or func._schema.is_mutable:
                leaves = tree_leaves(func(*args, **kwargs))
                for i, place in made.items():
                    place.copy_(leaves[i])


def _place(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
