"""The policy that never grows anything: the static host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.leyline.actions import WAIT, FactoredAction

if TYPE_CHECKING:
    import numpy as np

    from esper.leyline.reports import TrialReport


class WaitPolicy:
    """Waits."""

    name = "wait"

    def reset(self, rng: np.random.Generator) -> None:
        """There is nothing to forget."""

    def decide(self, report: TrialReport) -> FactoredAction:  # noqa: ARG002
        """WAIT."""
        return WAIT
