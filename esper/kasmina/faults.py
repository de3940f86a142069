"""What can go wrong in a seed, and whose seed it was."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from torch import Tensor

from esper.leyline.layer_ops import BlueprintError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Seed = Callable[[Tensor], Tensor]

Place = TypeVar("Place")


class BackwardWatch(Generic[Place]):
    """Knows in which seed a backward pass is, because an error there does not tell.

        watch.end_at(h)
        s = watch.begin_at(seed(source), place)          # source is h, or was made of it
        with watch.naming(lambda place, error: …):
            loss.backward()

    Autograd visits nodes in the reverse order of their making. So what a seed has made is visited after the gradient of its value
    is known, and before that of the value `h` that its host had made before.
    """

    def __init__(self) -> None:
        self._place: Place | None = None

    def end_at(self, h: Tensor) -> None:
        """Notice when a backward pass comes to what was there before the seed."""
        if h.requires_grad and torch.is_grad_enabled():
            h.register_hook(lambda _: self._be_at(None))

    def begin_at(self, s: Tensor, place: Place) -> Tensor:
        """Notice when a backward pass comes to a seed's value; returns the value, whatever it is."""
        if isinstance(s, Tensor) and s.requires_grad and torch.is_grad_enabled():
            s.register_hook(lambda _: self._be_at(place))
        return s

    @contextmanager
    def naming(self, describe: Callable[[Place, Exception], BlueprintError]) -> Iterator[None]:
        """A block with a backward pass; what fails in a seed is raised as `describe` says.

        Raises:
            BlueprintError: If a seed failed.
        """
        self._place = None
        try:
            yield
        except BlueprintError:
            raise
        except Exception as error:
            if self._place is None:
                raise
            raise describe(self._place, error) from error
        finally:
            self._place = None

    def _be_at(self, place: Place | None) -> None:
        self._place = place


def require_value(value: object, source: Tensor) -> Tensor:
    """A seed's value, which must have the shape of what the seed was given.

    Raises:
        TypeError: If it is no tensor.
        ValueError: If it has another shape, even one that would broadcast.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"its value should be a tensor {list(source.shape)}, and is a {type(value).__name__}")
    if value.shape != source.shape:
        raise ValueError(f"its value should have the shape {list(source.shape)} that it was given, and is {list(value.shape)}")
    return value
