"""Let seeds grow in somebody else's `nn.Module`, as it is: slots stand at the outputs of named submodules."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn
from torch.utils.checkpoint import set_checkpoint_early_stop

from esper.kasmina.wrapping.choose import choose_places
from esper.kasmina.wrapping.layers import layer_specs
from esper.kasmina.wrapping.observe import describe
from esper.kasmina.wrapping.passing import Passing, Post, Revisits
from esper.kasmina.wrapping.places import Place, named_places, shares_prefixes
from esper.kasmina.wrapping.survey import Survey, survey
from esper.leyline.host import HostFamily, InjectionSpec, LayerSpec, WrapError

if TYPE_CHECKING:
    from collections.abc import Callable

_SLOT_ID = re.compile(r"r(\d+)c(\d+)")


def wrap(
    model: nn.Module, slots: Sequence[str] | Mapping[str, str] | Literal["auto"], *, example: Tensor, max_auto_slots: int = 3
) -> WrappedHost:
    """Make a host of a model whose code stays as it is.

        host = esper.wrap(model, ["layer1", "layer2"], example=torch.randn(2, 3, 32, 32))

    The model is run some times on `example`, in evaluation and in training mode, forward and backward. Its parameters, gradients,
    buffers, modes and plain attributes are then as they were, and so are the random generators; not what its forward pass
    has put into lists, dicts and other objects. Parameters that are frozen stay so. A model that cannot be trained on a single
    sample, as one with batch norms on vectors, must not be given a last batch of one; see `WrappedHost.min_train_batch`.

    Args:
        model: Maps a batch to logits [B, classes] or [B, T, classes].
        slots: Submodules, by the paths of `model.named_modules()`, behind whose output a seed may grow: a sequence, whose
            slots are called r0c0, r0c1, … in execution order; or slot ids by submodule; or `auto`, which takes a few
            well spread places behind whole blocks (`esper.kasmina.wrapping.choose` says which).
        example: At least two inputs [B, …] of the real shape, on the model's device; int64 where they are tokens.
            Samples that differ show whether the model keeps them apart.
        max_auto_slots: Most slots that `auto` chooses.

    Raises:
        WrapError: If the model cannot be a host, or a slot cannot stand where it should.
    """
    if not isinstance(model, nn.Module):
        raise WrapError(f"model should be an nn.Module, got {describe(model)}")
    ids = _slot_ids(slots)
    if slots == "auto" and max_auto_slots < 1:
        raise WrapError(f"max_auto_slots={max_auto_slots} should be at least 1")
    found = survey(model, example)
    places = choose_places(found, max_auto_slots) if ids is None else named_places(found, list(ids))
    named = {place.name: (ids or {}).get(place.name) or f"r0c{i}" for i, place in enumerate(places)}
    return WrappedHost(found, places, named)


class WrappedHost(nn.Module):
    """A user's model with slots. Implements `HostProtocol`; made by `wrap`.

    The model itself is `host.model`, and trains, moves and saves as any submodule does. Copies and pickles of the host
    are independent of it.
    """

    def __init__(self, found: Survey, places: Sequence[Place], slot_ids: Mapping[str, str]) -> None:
        super().__init__()
        self.model = found.model
        self.min_train_batch = found.min_train_batch
        """Samples that a training batch needs: 2 where the model fails on one."""
        self.num_classes = found.logits.shape[-1]
        """Width of the logits."""
        self._min_eval_batch = found.min_eval_batch
        self._family = places[0].family
        self._shares_prefixes = all(shares_prefixes(found, place.name) for place in places)
        self._logits_shape = tuple(found.logits.shape[1:])
        self._input_shape = tuple(found.example.shape[1:])
        self._posts = tuple(Post(slot_ids[p.name], p.name, p.shape, 0 if p.family == "cnn" else len(p.shape) - 1) for p in places)
        self._parts = tuple(found.model.get_submodule(place.name) for place in places)
        self._is_recomputed = any(place.is_recomputed for place in places)
        self._revisits = Revisits()
        specs = [InjectionSpec(slot_ids[p.name], p.channels, p.positions, segment) for segment, p in enumerate(places)]
        self._injections = tuple(sorted(specs, key=lambda spec: _row_and_column(spec.slot_id)))
        segments = {place.name: segment for segment, place in enumerate(places)}
        self._layers = layer_specs(found.model, found.evaluation, segments, len(found.example))

    @property
    def family(self) -> HostFamily:
        """Shape family of the values at the slots."""
        return self._family

    @property
    def shares_prefixes(self) -> bool:
        """Whether everything flows through every slot, so that a larger batch may leave it than entered."""
        return self._shares_prefixes

    @property
    def slot_modules(self) -> Mapping[str, str]:
        """Path of the submodule behind which each slot stands, by slot id, in execution order."""
        return {post.slot_id: post.name for post in self._posts}

    def injection_specs(self) -> Sequence[InjectionSpec]:
        """Slots in row-major order; segments count slots in execution order."""
        return self._injections

    def layer_specs(self) -> Sequence[LayerSpec]:
        """Layers in the order in which they first ran, those of a large model joined to blocks; ids are paths of submodules."""
        return self._layers

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the model without seeds."""
        logits: Tensor = self.model(x)
        return logits

    def run(self, x: Tensor, visit: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Logits, with `visit` called on the value behind every slot.

        A single sample that the model does not take is evaluated beside a copy of itself.

        Raises:
            WrapError: If a slot's value or the logits have another shape than when the model was wrapped, a slot is passed by or
                visited twice, or the model is trained on fewer samples than it takes.
        """
        num_samples = len(x)
        if self.training and num_samples < self.min_train_batch:
            raise WrapError(
                f"this {type(self.model).__name__} cannot be trained on a batch of {num_samples} (batch norms need at least "
                f"{self.min_train_batch} values): choose another batch size or number of training samples"
            )
        is_doubled = not self.training and num_samples < self._min_eval_batch
        self._revisits.end()
        passing = Passing(self._posts, self._parts, visit, is_known_input=tuple(x.shape[1:]) == self._input_shape)
        with passing.visiting(), self._recomputing():
            logits: Tensor = self.model(x.repeat_interleave(2, 0) if is_doubled else x)
        passing.check_complete()
        self._check_logits(logits, is_known_input=passing.is_known_input)
        if self._is_recomputed:
            passing.visit_again(logits, self._revisits)
        return logits[::2] if is_doubled else logits

    def __getstate__(self) -> dict[str, Any]:
        """Copies have no hooks that a backward pass has left behind by failing."""
        self._revisits.end()
        return dict(self.__dict__)

    def _recomputing(self) -> AbstractContextManager[None]:
        """Recomputation runs to its end, because where it stops early it raises what a seed at that place would be blamed for."""
        return set_checkpoint_early_stop(enable=False) if self._is_recomputed else nullcontext()

    def _check_logits(self, logits: object, *, is_known_input: bool) -> None:
        expected = self._logits_shape
        shape = tuple(logits.shape[1:]) if isinstance(logits, Tensor) and logits.ndim else None
        is_alike = shape is not None and len(shape) == len(expected) and shape[-1] == expected[-1]
        if shape != expected and (is_known_input or not is_alike):
            raise WrapError(
                f"this {type(self.model).__name__} returned {describe(logits)}, but logits [B, {', '.join(map(str, expected))}] when it "
                "was wrapped; they need one shape"
            )


def _slot_ids(slots: object) -> dict[str, str | None] | None:
    """Slot ids by submodule, None where the order of execution decides; None altogether for `auto`."""
    if slots == "auto":
        return None
    if isinstance(slots, Mapping):
        return dict(_checked_ids(slots))
    if isinstance(slots, str) or not isinstance(slots, Sequence):
        raise WrapError(f"slots={slots!r} should be 'auto', a list of submodules such as [{slots!r}], or slot ids by submodule")
    if not slots or len(set(slots)) < len(slots):
        raise WrapError(f"slots={list(slots)} should name at least one submodule, and each one once")
    return dict.fromkeys(slots)


def _checked_ids(slots: Mapping[str, str]) -> Mapping[str, str]:
    wrong = [slot_id for slot_id in slots.values() if not isinstance(slot_id, str) or not _SLOT_ID.fullmatch(slot_id)]
    if wrong or not slots or len(set(slots.values())) < len(slots):
        raise WrapError(f"slots={dict(slots)} should give at least one submodule, and each a slot id of its own such as 'r0c1'")
    return slots


def _row_and_column(slot_id: str) -> tuple[int, int]:
    match = _SLOT_ID.fullmatch(slot_id)
    assert match is not None
    return int(match[1]), int(match[2])
