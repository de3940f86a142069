"""The policy that draws evenly among what is legal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esper.leyline.actions import CAUSAL_MASK, WAIT, FactoredAction, Head, LifecycleOp

if TYPE_CHECKING:
    from esper.leyline.reports import TrialReport


class RandomPolicy:
    """Uniform over the legal operations, then over the slots legal for the one drawn, then over each head that it uses."""

    name = "random"

    def __init__(self) -> None:
        """Start unseeded; `reset` gives the generator."""
        self._rng: np.random.Generator | None = None

    def reset(self, rng: np.random.Generator) -> None:
        """Take the episode's generator."""
        self._rng = rng

    def decide(self, report: TrialReport) -> FactoredAction:
        """Draw a legal action.

        Raises:
            RuntimeError: Before the first `reset`.
        """
        if self._rng is None:
            raise RuntimeError("RandomPolicy.decide needs reset(rng) first")
        masks = report.masks
        op = int(self._rng.choice(np.flatnonzero(masks.op[0])))
        if op == LifecycleOp.WAIT:
            return WAIT
        row = [int(value) for value in WAIT]
        row[Head.OP] = op
        for head in Head:
            if head is not Head.OP and CAUSAL_MASK[op, head]:
                legal = masks.slot[0, op] if head is Head.SLOT else getattr(masks, head.name.lower())[0]
                row[head] = int(self._rng.choice(np.flatnonzero(legal)))
        return FactoredAction.from_row(row)
