"""Who earned the accuracy: Shapley values and pair interactions from counterfactual accuracies.

Player sets are sorted tuples of slot indices; worths are accuracies in percent, results points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.leyline.reports import Counterfactuals

Players = tuple[int, ...]
MAX_EXACT_PLAYERS = 4
"""Up to here all 2ⁿ configurations are cheap."""
MAX_PAIRS = 10
"""Antithetic pairs of orders in a sampled attribution."""
MAX_SAMPLED_CONFIGURATIONS = 256
"""About as many configurations a sampled attribution evaluates at most; one pair of orders is always drawn."""


@dataclass(frozen=True, slots=True)
class ShapleyValue:
    """Share of one slot, in points."""

    slot: int
    value: float
    standard_error: float | None
    """0 where exact; None where a single sample leaves it unmeasured."""


def all_configurations(slots: Sequence[int]) -> tuple[Players, ...]:
    """The 2ⁿ sets that an exact attribution needs, smallest first."""
    ordered = sorted(slots)
    return tuple(chosen for size in range(len(ordered) + 1) for chosen in combinations(ordered, size))


def antithetic_orders(slots: Sequence[int], rng: np.random.Generator, *, num_pairs: int = 10) -> tuple[Players, ...]:
    """Random orders of joining, each followed by its reverse, which cancels much of the noise (Mitchell et al. 2022)."""
    orders: list[Players] = []
    for _ in range(num_pairs):
        order = tuple(int(slot) for slot in rng.permutation(sorted(slots)))
        orders += [order, order[::-1]]
    return tuple(orders)


def sampled_orders(slots: Sequence[int], rng: np.random.Generator) -> tuple[Players, ...]:
    """Orders for a sampled attribution: ten antithetic pairs, or fewer where they would ask for too many configurations."""
    num_pairs = MAX_SAMPLED_CONFIGURATIONS // max(2 * len(slots), 1)
    return antithetic_orders(slots, rng, num_pairs=min(max(num_pairs, 1), MAX_PAIRS))


def shapley_values(table: Counterfactuals, rng: np.random.Generator) -> tuple[ShapleyValue, ...]:
    """Shares of every slot that was on in the full network: exact up to `MAX_EXACT_PLAYERS`, else sampled.

    Args:
        table: From the last epoch of an episode; its first configuration is the full network.
        rng: In the state in which it was when the configurations were drawn with `sampled_orders`.
    """
    slots = table.configurations[0]
    if len(slots) <= MAX_EXACT_PLAYERS:
        return shapley_exact(table, slots)
    return shapley_sampled(table, sampled_orders(slots, rng))


def configurations_of(orders: Sequence[Players]) -> tuple[Players, ...]:
    """Every set that occurs as the beginning of an order, each once, smallest first."""
    found = {tuple(sorted(order[:size])) for order in orders for size in range(len(order) + 1)}
    return tuple(sorted(found, key=lambda players: (len(players), players)))


def shapley_exact(table: Counterfactuals, slots: Sequence[int]) -> tuple[ShapleyValue, ...]:
    """Shapley values from all subsets of `slots` (Shapley 1953); they add up to f(all) − f(∅).

    φ_i = Σ_{S ∌ i} |S|!(n − |S| − 1)!/n! · (f(S ∪ i) − f(S))

    Raises:
        KeyError: If a configuration was not evaluated.
    """
    ordered = sorted(slots)
    n = len(ordered)
    values = []
    for player in ordered:
        others = [slot for slot in ordered if slot != player]
        total = 0.0
        for coalition in all_configurations(others):
            weight = math.factorial(len(coalition)) * math.factorial(n - len(coalition) - 1) / math.factorial(n)
            with_player = tuple(sorted((*coalition, player)))
            total += weight * (table.accuracy_of(with_player) - table.accuracy_of(coalition))
        values.append(ShapleyValue(player, total, 0.0))
    return tuple(values)


def shapley_sampled(table: Counterfactuals, orders: Sequence[Players]) -> tuple[ShapleyValue, ...]:
    """Shapley values from `antithetic_orders`, with standard errors over the pairs (sample variance).

    Whatever the orders, the values add up to f(all) − f(∅).

    Raises:
        KeyError: If a configuration was not evaluated.
        ValueError: If the orders are not pairs of each other's reverse.
    """
    pairs = list(zip(orders[::2], orders[1::2], strict=True))
    if not pairs or any(forward != backward[::-1] for forward, backward in pairs):
        raise ValueError("orders should come in pairs, each followed by its reverse")
    slots = sorted(pairs[0][0])
    gains = np.array([[_gains(table, order) for order in pair] for pair in pairs])
    per_pair = gains.mean(axis=1)
    means = per_pair.mean(axis=0)
    if len(pairs) == 1:
        return tuple(ShapleyValue(slot, float(mean), None) for slot, mean in zip(slots, means, strict=True))
    errors = per_pair.std(axis=0, ddof=1) / math.sqrt(len(pairs))
    return tuple(ShapleyValue(slot, float(m), float(e)) for slot, m, e in zip(slots, means, errors, strict=True))


def pair_interactions(table: Counterfactuals, slots: Sequence[int]) -> dict[tuple[int, int], float]:
    """f(ij) − f(i) − f(j) + f(∅) of every pair whose configurations were evaluated; positive is synergy."""
    known = dict(zip(table.configurations, table.accuracies, strict=True))
    return {
        (i, j): known[i, j] - known[(i,)] - known[(j,)] + known[()]
        for i, j in combinations(sorted(slots), 2)
        if all(players in known for players in ((i, j), (i,), (j,), ()))
    }


def _gains(table: Counterfactuals, order: Players) -> list[float]:
    """What each player adds when joining in `order`, sorted by slot."""
    beginnings = [tuple(sorted(order[:size])) for size in range(len(order) + 1)]
    worth = [table.accuracy_of(players) for players in beginnings]
    added = dict(zip(order, (after - before for before, after in pairwise(worth)), strict=True))
    return [added[slot] for slot in sorted(order)]
