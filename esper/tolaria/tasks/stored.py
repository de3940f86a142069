"""Images that stay where they are stored, as bytes in a mapped file, and become float32 samples a batch at a time.

An episode of 8,192 images of 3×32×32 is 100 MB as float32; as row numbers it is 64 kB, and the bytes are those of every
other trial on the machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch._ops import OpOverload


_READ_ONLY = "stored images are read-only; change a copy, images[:]"


class StoredRows:
    """Rows of arrays [M, …] laid end to end; those asked for are copied out.

    Args:
        arrays: Arrays whose rows are alike.
        rows: [N] which rows, counted through all arrays.
    """

    def __init__(self, arrays: Sequence[np.ndarray], rows: np.ndarray) -> None:
        ends = np.cumsum([len(array) for array in arrays])
        self._arrays = tuple(arrays)
        self._source = np.searchsorted(ends, rows, side="right").astype(np.int16)
        self._row = rows - (ends - [len(array) for array in arrays])[self._source]

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, …], the number of rows first."""
        return (len(self._row), *self._arrays[0].shape[1:])

    @property
    def device(self) -> torch.device:
        """The CPU, whose memory the arrays are in."""
        return torch.device("cpu")

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """Those rows, in the type they are stored in."""
        key = index if isinstance(index, slice) else index.numpy()
        source, row = self._source[key], self._row[key]
        taken = np.empty((len(row), *self._arrays[0].shape[1:]), dtype=self._arrays[0].dtype)
        for place in np.unique(source):
            chosen = source == place
            taken[chosen] = self._arrays[place][row[chosen]]
        return torch.from_numpy(taken)


class StandardisedImages(Tensor):
    """A float32 tensor [N, C, H, W], read-only, that computes (pixel − mean) / spread when asked for samples.

    `x[7]`, `x[:64]` and `x[index]` are plain tensors, computed from those samples alone. Moved to another device, the pixels
    are copied there as they are stored. All else that torch can do with a tensor computes every sample first, and where it
    is the first such thing in a process, torch imports a second's worth of modules for it.

    Args:
        pixels: [N, C, H, W] as stored, of any type; on the device where samples are wanted.
        mean, spread: [1, C, 1, 1] on the same device.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    _pixels: StoredRows | Tensor
    _mean: Tensor
    _spread: Tensor

    def __new__(cls, pixels: StoredRows | Tensor, mean: Tensor, spread: Tensor) -> Self:
        """Claim the shape of the whole without holding it."""
        images: Self = Tensor._make_wrapper_subclass(cls, pixels.shape, dtype=torch.float32, device=pixels.device)
        images._pixels, images._mean, images._spread = pixels, mean, spread
        return images

    def __getitem__(self, index: Any) -> Tensor:
        """Samples as a plain tensor."""
        if isinstance(index, int):
            number = range(len(self))[index]
            return self[number : number + 1][0]
        is_list = isinstance(index, Tensor) and index.dim() == 1 and index.dtype in (torch.int64, torch.int32)
        if not is_list and not isinstance(index, slice):
            return self[:][index]
        return (self._pixels[index].to(torch.float32) - self._mean).div_(self._spread)

    def __setitem__(self, index: Any, value: Any) -> None:
        """Refused.

        Raises:
            TypeError: Always.
        """
        raise TypeError(_READ_ONLY)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: OpOverload[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[Any, Any] | None = None
    ) -> Any:
        """Refuse to be written to; compute every sample for anything else."""
        named = kwargs or {}
        for position, argument in enumerate(func._schema.arguments):
            value = args[position] if position < len(args) else named.get(argument.name)
            if isinstance(value, cls) and argument.alias_info is not None and argument.alias_info.is_write:
                raise TypeError(f"{func}: {_READ_ONLY}")
        plain_args, plain_named = tree_map_only(cls, lambda images: images[:], (args, named))
        return func(*plain_args, **plain_named)

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """On another device as they are stored; in another type or order, every sample as a plain tensor."""
        wanted: tuple[Any, ...] = torch._C._nn._parse_to(*args, **kwargs)
        device, dtype, _, memory_format = wanted
        if dtype not in (None, torch.float32) or memory_format is not None:
            return self[:].to(*args, **kwargs)
        if device is None or device == self.device:
            return self
        return StandardisedImages(self._pixels[:].to(device), self._mean.to(device), self._spread.to(device))

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """Every sample."""
        return self[:].numpy(force=force)

    def tolist(self) -> list[Any]:
        """Every sample."""
        return self[:].tolist()

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"{type(self).__name__}(shape={list(self.shape)}, device={str(self.device)!r})"

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Another machine may lack the file: what is sent are the samples themselves."""
        return self[:].__reduce_ex__(protocol)


def standardised_rows(parts: Sequence[StoredRows]) -> list[Tensor]:
    """Images [N, C, H, W] of each part with mean 0 and spread 1 per channel, both measured on the first part."""
    first = parts[0][:].to(torch.float32)
    mean = first.mean((0, 2, 3), keepdim=True)
    spread = first.std((0, 2, 3), keepdim=True).clamp_min(1e-6)
    return [StandardisedImages(part, mean, spread) for part in parts]
