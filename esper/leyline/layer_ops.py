"""The operations that blueprints are written in, so that one formula serves one model and a whole population of them.

A blueprint module states its value once, as `value(ops, layers, h)`. With plain operations, `layers` is the module itself. With
stacked ones, `layers` is a tree of the same attribute names whose tensors carry K members on a leading axis, and so does h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

if TYPE_CHECKING:
    from torch import Tensor


class BlueprintError(RuntimeError):
    """A blueprint that failed; the cause is chained."""

    def __init__(self, blueprint_id: str, slot_id: str, doing: str, reason: str, members: tuple[int, ...] = ()) -> None:
        super().__init__(blueprint_id, slot_id, doing, reason, members)
        self.blueprint_id = blueprint_id
        self.slot_id = slot_id
        self.doing = doing
        self.reason = reason
        self.members = members
        """Whose seeds failed, of a population; none where a model runs by itself, or where it is everybody's fault."""

    def __str__(self) -> str:
        return f"blueprint {self.blueprint_id!r} in slot {self.slot_id} failed while {self.doing}: {self.reason}"

    def for_members(self, members: tuple[int, ...] = ()) -> BlueprintError:
        """The same failure, as that of others; by default of nobody in particular."""
        error = BlueprintError(self.blueprint_id, self.slot_id, self.doing, self.reason, members)
        error.__cause__ = self.__cause__
        return error


class LayerOps(Protocol):
    """Shapes below are those of one member; stacked operations take and give the same with members in front.

    Values are planes [B, C, H, W] in cnn hosts (stacked: [K, C, H, W, B]) and rows [B, C] or [B, T, C] in others. Element-wise
    functions of torch work on any of them. `layer` is anything with the named attributes.
    """

    def conv(self, layer: Any, x: Tensor) -> Tensor:
        """Convolution that keeps H and W: `weight` [O, C / groups, k, k] with k odd, `bias` [O] or None, `groups` 1 or C."""
        ...

    def dense(self, layer: Any, x: Tensor) -> Tensor:
        """Linear map of the channels of rows, or of pooled planes: `weight` [O, C], `bias` [O] or None."""
        ...

    def norm(self, layer: Any, x: Tensor) -> Tensor:
        """Mean 0 and mean square 1 per sample and group (planes, `groups`) or per position (rows), then `weight` and `bias`."""
        ...

    def pool(self, x: Tensor) -> Tensor:
        """Mean over the positions of planes: [B, C]."""
        ...

    def spread(self, pooled: Tensor) -> Tensor:
        """One value per sample and channel, so shaped that it broadcasts over planes."""
        ...

    def scalar(self, parameter: Tensor) -> Tensor:
        """A parameter without axes, so shaped that it broadcasts over values."""
        ...

    def with_coordinates(self, x: Tensor) -> Tensor:
        """Planes with two channels more: x and y, each from −1 to 1 over the image."""
        ...

    def attend(self, packed: Tensor, num_heads: int) -> Tensor:
        """Causal multi-head attention over [B, T, 3·C] that holds queries, keys and values; gives [B, T, C]."""
        ...

    def causal_conv(self, layer: Any, x: Tensor) -> Tensor:
        """Each channel with its own past: `weight` [C, 1, taps] and `bias` [C] over the T of [B, T, C]."""
        ...


class Stackable(Protocol):
    """A module whose formula can run for many members at once."""

    @staticmethod
    def value(ops: LayerOps, layers: Any, h: Tensor) -> Tensor:
        """What `forward` computes, with the operations and parameters given."""
        ...


def is_stackable(module: object) -> TypeGuard[Stackable]:
    """Whether a module's class states its formula, as a static method, and no class derived from it computes otherwise.

    A layer or an attribute that happens to be called `value` is no formula.
    """
    for own in map(vars, type(module).__mro__):
        if "value" in own:
            return isinstance(own["value"], staticmethod)
        if "forward" in own:
            return False
    return False
