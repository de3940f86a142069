"""Where slots may stand in somebody else's model: one tensor, of a known shape, used as it is by what comes later."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from esper.kasmina.wrapping.gradients import find_reach
from esper.kasmina.wrapping.layers import layer_type
from esper.kasmina.wrapping.observe import Call, agree, dense, describe, observe, undisturbed
from esper.kasmina.wrapping.passing import nested_advice
from esper.kasmina.wrapping.survey import RUN_ERRORS, Survey
from esper.leyline.host import WrapError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.leyline.host import HostFamily

FAMILIES: dict[int, HostFamily] = {4: "cnn", 3: "transformer", 2: "mlp"}
"""Family of a value with so many axes."""
_CHANNELS_FIRST = frozenset({"conv1d", "conv2d", "depthwise_conv2d", "conv3d", "batch_norm", "group_norm"})
_CHANNELS_LAST = frozenset({"linear", "embedding", "layer_norm", "rms_norm", "attention", "recurrent"})


@dataclass(frozen=True, slots=True)
class Place:
    """The output of a submodule at which a slot may stand."""

    name: str
    """Path of the submodule under the model."""
    shape: tuple[int, ...]
    """Of one sample's value: [C, H, W], [T, C] or [C]."""
    order: int
    """Number of the call in the pass; places are ordered by it."""
    is_recomputed: bool = False
    """Whether a backward pass runs the submodule once more."""

    @property
    def family(self) -> HostFamily:
        """Shape family of the value."""
        return FAMILIES[len(self.shape) + 1]

    @property
    def channels(self) -> int:
        """C."""
        return self.shape[0] if self.family == "cnn" else self.shape[-1]

    @property
    def positions(self) -> int:
        """H·W, T or 1."""
        return torch.Size(self.shape).numel() // self.channels


def named_places(survey: Survey, names: Sequence[str]) -> tuple[Place, ...]:
    """The places with these names, in execution order.

    Raises:
        WrapError: If a slot cannot stand at one of them, or they are not of one family.
    """
    for name in names:
        _check_name(survey.model, name)
    places = []
    for name in names:
        reason = objection(survey, name)
        if reason is not None:
            raise WrapError(f"slots: {name!r} {reason}")
        places.append(place_of(survey, name))
    families = {place.name: place.family for place in places}
    if len(set(families.values())) > 1:
        told = ", ".join(f"{name!r} {family}" for name, family in families.items())
        raise WrapError(f"slots: all should have values of one family, but they have: {told}")
    reach = find_reach(survey, [place.name for place in places])
    if reach.unheard:
        reason = next(iter(reach.unheard.values()))
        unheard = [name for name, other in reach.unheard.items() if other == reason]
        raise WrapError(
            f"slots: no gradient flows from the logits to the output of {', '.join(map(repr, unheard))}, so that a seed there would "
            f"never learn; {reason}"
        )
    found = [replace(place, is_recomputed=place.name in reach.recomputed) for place in places]
    return tuple(sorted(found, key=lambda place: place.order))


def objection(survey: Survey, name: str) -> str | None:
    """Why a slot cannot stand behind the submodule `name`; None where nothing is seen against it."""
    calls, module = survey.evaluation.of(name), survey.model.get_submodule(name)
    if not calls:
        return "never runs in a forward pass, or not by being called; choose a submodule that does"
    if len(calls) > 1:
        return f"runs {len(calls)} times in a forward pass; choose a submodule that runs once, such as the block around it"
    call = calls[0]
    batch, later = len(survey.example), survey.grown.of(name)
    if not _is_plain(call.output):
        advice = nested_advice(call.output) or ", so choose a submodule that returns that"
        return f"returns {describe(call.output)}; a slot needs one plain tensor{advice}"
    shape = list(call.output.shape)
    if not call.output.is_floating_point():
        return f"returns {describe(call.output)}; a slot needs floating-point values"
    if call.output.ndim not in FAMILIES:
        return f"returns a value {shape}; a slot takes [B, C, H, W], [B, T, C] or [B, C]"
    if len(later) != 1 or not _is_plain(later[0].output):
        return f"does not run the same way with {batch + 1} samples as with {batch}"
    if list(later[0].output.shape) != [batch + 1, *shape[1:]] or shape[0] != batch:
        return _batch_objection(batch, shape, list(later[0].output.shape))
    reason = _training_objection(survey, name, shape)
    if reason is not None:
        return reason
    if call.was_changed or survey.training.of(name)[0].was_changed:
        return (
            "has its output modified in place by what runs later"
            f"{_culprit(survey, name)}; use inplace=False there, or put the slot behind that module"
        )
    return _axis_objection(survey, call, module)


def _training_objection(survey: Survey, name: str, shape: list[int]) -> str | None:
    trained = survey.training.of(name)
    counts = [run[name] for run in survey.rehearsals]
    if {*counts, len(trained)} == {0, 1}:
        return f"is left out of some training passes (it ran in {sum(counts)} of {len(counts)}); choose the block around it"
    if {*counts, len(trained)} != {1} or not _is_plain(trained[0].output) or list(trained[0].output.shape) != shape:
        return f"gives {shape} in evaluation, but {_told(trained)} in training; a slot needs the same value in both"
    return None


def shares_prefixes(survey: Survey, name: str) -> bool:
    """Whether everything flows through this place: with other samples stacked below its value, theirs are the other logits."""
    order = list(range(len(survey.example)))[::-1]
    with undisturbed(survey.model, training=False), torch.no_grad():
        try:
            run = observe(survey.model, survey.example, replace={name: lambda value: torch.cat([value, value[order]])})
        except RUN_ERRORS:
            return False
    calls = zip(run.calls, survey.evaluation.calls, strict=False)
    pairs = [(dense(now.output), dense(before.output)) for now, before in calls if now.name == before.name]
    return _is_stacked(run.logits, survey.logits, order) and all(
        _is_stacked(now, before, order)
        for now, before in pairs
        if isinstance(now, Tensor)
        and isinstance(before, Tensor)
        and now.ndim
        and before.ndim
        and (len(now), len(before)) == (2 * len(order), len(order))
    )


def _is_stacked(now: object, before: Tensor, order: list[int]) -> bool:
    return isinstance(now, Tensor) and agree(now, torch.cat([before, before[order]]))


def _check_name(model: nn.Module, name: str) -> None:
    known = [path for path, _ in model.named_modules() if path]
    try:
        found = model.get_submodule(name) if isinstance(name, str) and name else None
    except AttributeError:
        found = None
    if found is not None:
        return
    close = difflib.get_close_matches(str(name), known, n=5, cutoff=0.5)
    hint = (
        f"did you mean {', '.join(close)}?" if close else f"it has {', '.join(n for n, _ in model.named_children())} and what they contain"
    )
    raise WrapError(f"slots: {name!r} is no submodule of the {type(model).__name__}; {hint}")


def place_of(survey: Survey, name: str) -> Place:
    """The place behind a submodule that runs once."""
    order, call = next((i, call) for i, call in enumerate(survey.evaluation.calls) if call.name == name)
    return Place(name, tuple(call.output.shape[1:]), order)


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and not value.is_nested


def _batch_objection(batch: int, shape: list[int], grown: list[int]) -> str:
    axes = [axis for axis, (a, b) in enumerate(zip(shape, grown, strict=False)) if a != b]
    if len(shape) == len(grown) and len(axes) == 1 and axes[0] > 0 and (shape[axes[0]], grown[axes[0]]) == (batch, batch + 1):
        return f"returns a value {shape} with the batch in axis {axes[0]}; a slot needs it in axis 0 (batch_first=True)"
    return f"returns {shape} for {batch} samples and {grown} for {batch + 1}; a slot needs one value per sample in axis 0"


def _told(calls: Sequence[Call]) -> str:
    return describe(calls[0].output) if len(calls) == 1 else f"{len(calls)} values"


def _culprit(survey: Survey, name: str) -> str:
    """The first later submodule that says it works in place on the same memory."""
    for run in (survey.evaluation, survey.training):
        order, call = next((i, call) for i, call in enumerate(run.calls) if call.name == name)
        for later in run.calls[order + 1 :]:
            is_same = _is_plain(later.output) and later.output.data_ptr() == call.output.data_ptr()
            if is_same and getattr(later.module, "inplace", False):
                return f" ({later.name}: {type(later.module).__name__}(inplace=True))"
    return ""


def _axis_objection(survey: Survey, call: Call, module: nn.Module) -> str | None:
    """The last layer inside with a value of this shape says which axis holds the channels."""
    parts = set(module.modules())
    inside = [c for c in survey.evaluation.calls if c.module in parts and _is_plain(c.output)]
    types = [
        layer_type(c.module) for c in inside if c.output.shape == call.output.shape and type(c.module).__module__.startswith("torch.nn")
    ]
    known = [kind for kind in types if kind in _CHANNELS_FIRST | _CHANNELS_LAST]
    shape = list(call.output.shape)
    if known and len(shape) == 4 and known[-1] in _CHANNELS_LAST:
        return f"returns a value {shape} whose channels are in the last axis; a slot takes [B, C, H, W]: permute it first"
    if known and len(shape) == 3 and known[-1] in _CHANNELS_FIRST:
        return f"returns a value {shape} whose channels are in axis 1; a slot takes [B, T, C]: transpose it first"
    return None
