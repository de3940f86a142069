"""Which places to take where the user leaves the choice: few, well spread, behind whole blocks.

1. Every submodule behind which a slot can stand and learn is a candidate, unless no layer runs before it or none after it.
2. The family with the most candidates behind blocks is taken (then images before sequences before vectors).
3. Of candidates with the same layers before them the outermost block stays; without a block, the last module.
4. Places through which everything flows come first: behind blocks, then behind layers outside of them, then within.
   Only where there are none, blocks and then layers that something bypasses, as on a branch.
5. Of too many, those before a change of resolution or width are taken, evenly over the depth; slots that they leave
   over are taken evenly from the rest.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from esper.kasmina.wrapping.gradients import find_reach
from esper.kasmina.wrapping.layers import layer_names
from esper.kasmina.wrapping.places import FAMILIES, Place, objection, place_of, shares_prefixes
from esper.leyline.host import WrapError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.kasmina.wrapping.survey import Survey

MAX_TRIED = 64
"""Places that are tried for what bypasses them, evenly taken from the candidates: each costs a forward pass."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    place: Place
    depth: int
    """Layers that have run by then."""
    is_block: bool
    """A container of layers, and not a layer itself."""


def choose_places(survey: Survey, limit: int) -> tuple[Place, ...]:
    """At most `limit` places, in execution order; equal models give equal choices.

    Raises:
        WrapError: If a slot can stand nowhere.
    """
    candidates = _candidates(survey)
    if not candidates:
        raise WrapError(f"slots='auto' finds no place in the {type(survey.model).__name__}; name submodules to learn what is against each")
    blocks = Counter(c.place.family for c in candidates if c.is_block) or Counter(c.place.family for c in candidates)
    family = max(FAMILIES.values(), key=lambda family: blocks[family])
    distinct = _distinct([c for c in candidates if c.place.family == family])
    tried = _evenly(distinct, MAX_TRIED)
    flows = {c.place.name: shares_prefixes(survey, c.place.name) for c in tried}
    flowing = [c for c in tried if flows[c.place.name]]
    chosen: list[_Candidate] = []
    for kind in _kinds(flowing or tried):
        chosen += _spread(kind, limit - len(chosen))
    return tuple(sorted((c.place for c in chosen), key=lambda place: place.order))


def _kinds(candidates: Sequence[_Candidate]) -> tuple[list[_Candidate], ...]:
    """Blocks, layers outside of them, and layers within."""
    blocks = [c for c in candidates if c.is_block]
    layers = [c for c in candidates if not c.is_block]
    within = [c for c in layers if any(c.place.name.startswith(f"{block.place.name}.") for block in blocks)]
    return blocks, [c for c in layers if c not in within], within


def _candidates(survey: Survey) -> list[_Candidate]:
    layers, calls = layer_names(survey.model), survey.evaluation.calls
    total = sum(call.name in layers for call in calls)
    found, depth = [], 0
    for call in calls:
        depth += call.name in layers
        if 0 < depth < total and isinstance(call.output, Tensor) and objection(survey, call.name) is None:
            is_block = call.name not in layers and any(layer.startswith(f"{call.name}.") for layer in layers)
            found.append(_Candidate(place_of(survey, call.name), depth, is_block))
    reach = find_reach(survey, [c.place.name for c in found])
    return [
        replace(c, place=replace(c.place, is_recomputed=c.place.name in reach.recomputed))
        for c in found
        if c.place.name not in reach.unheard
    ]


def _distinct(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """One for every number of layers."""
    best: dict[int, _Candidate] = {}
    for candidate in candidates:
        kept = best.get(candidate.depth)
        if kept is None or candidate.is_block or not kept.is_block:
            best[candidate.depth] = candidate  # calls end inside out, so that a later block is an outer one
    return list(best.values())


def _spread(candidates: Sequence[_Candidate], count: int) -> list[_Candidate]:
    last = len(candidates) - 1
    before_change = [c for i, c in enumerate(candidates) if i == last or candidates[i + 1].place.shape != c.place.shape]
    chosen = _evenly(before_change, count)
    return chosen + _evenly([c for c in candidates if c not in before_change], count - len(chosen))


def _evenly(candidates: Sequence[_Candidate], count: int) -> list[_Candidate]:
    if len(candidates) <= count:
        return list(candidates)
    if count < 1:
        return []
    if count == 1:
        return [candidates[len(candidates) // 2]]
    return [candidates[round(i * (len(candidates) - 1) / (count - 1))] for i in range(count)]
