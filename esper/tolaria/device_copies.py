"""Data on the device of the trials: what several of them hold, such as a data set that a user's factory keeps, is copied once.

The parts of a data set are told apart as tensors, not by what is in them.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import torch
from torch.utils.weak import WeakTensorKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Hashable

    from torch import Tensor

    from esper.tolaria.data import Dataset


class DeviceCopies:
    """Copies on other devices, one of a tensor or of a part of it, for all data sets that hold it.

    dataset = copies.bring(dataset, "cuda")

    A copy is let go with the last data set that holds it. A tensor that torch has changed since is copied anew; whoever holds
    the earlier copy keeps it.
    """

    def __init__(self) -> None:
        self._copies = WeakTensorKeyDictionary()

    def bring(self, dataset: Dataset, device: torch.device | str) -> Dataset:
        """The same data on a device; tensors that are there already stay themselves."""
        return dataset.with_each(partial(self._copy, torch.device(device)))

    def _copy(self, device: torch.device, tensor: Tensor) -> Tensor:
        whole = tensor if tensor._base is None else tensor._base
        copies: WeakValueDictionary[Hashable, Tensor] = self._copies.setdefault(whole, WeakValueDictionary())
        version = None if tensor.is_inference() else tensor._version
        part = (device, version, tensor.dtype, tensor.storage_offset(), tensor.shape, tensor.stride())
        copy = copies.get(part)
        if copy is None:
            copy = copies[part] = tensor.to(device)
        return copy
