"""Which alpha overrides to evaluate each epoch, and what their accuracies say about each seed."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esper.leyline.reports import Counterfactuals

MAX_FACTORIAL_SEEDS = 4
"""Up to here the last epoch evaluates every subset of seeds, from which Shapley values are exact."""


def plan_configurations(
    live: Sequence[int],
    fossils: Sequence[int],
    *,
    is_last: bool,
    sample: Callable[[tuple[int, ...]], Sequence[tuple[int, ...]]] | None = None,
) -> tuple[tuple[int, ...], ...]:
    """Sets of slots to leave on, the full network first and the committed one (fossils alone) always among them.

    While an episode runs: everything, everything but one live seed, fossils and one live seed, fossils alone, nothing.
    In the last epoch also: every subset, up to `MAX_FACTORIAL_SEEDS` seeds; of more seeds what `sample` names.
    """
    everything = tuple(sorted({*live, *fossils}))
    wanted = [everything, tuple(sorted(fossils)), ()]
    for slot in live:
        wanted.append(tuple(s for s in everything if s != slot))
        wanted.append(tuple(sorted({*fossils, slot})))
    if is_last and len(everything) <= MAX_FACTORIAL_SEEDS:
        wanted += [subset for size in range(1, len(everything)) for subset in combinations(everything, size)]
    elif is_last and sample is not None:
        wanted += sample(everything)
    return tuple(dict.fromkeys(wanted))


def leave_one_out(table: Counterfactuals) -> dict[int, float]:
    """Accuracy of the full network minus accuracy without one seed, in points, for every seed for which it was evaluated."""
    everything, full = table.configurations[0], table.accuracies[0]
    without = {slot: tuple(s for s in everything if s != slot) for slot in everything}
    return {slot: full - table.accuracy_of(rest) for slot, rest in without.items() if rest in table.configurations}


def solo(table: Counterfactuals, live: Sequence[int], fossils: Sequence[int]) -> dict[int, float]:
    """Accuracy of fossils and one live seed minus accuracy of fossils alone, in points."""
    committed = table.accuracy_of(tuple(sorted(fossils)))
    return {slot: table.accuracy_of(tuple(sorted({*fossils, slot}))) - committed for slot in live}
