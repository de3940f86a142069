"""Settings that move with the number of updates."""

from __future__ import annotations


def linear(start: float, end: float, *, step: int, num_steps: int) -> float:
    """Straight line from `start` at step 0 to `end` at step `num_steps`, and `end` after it.

    With `num_steps` 0 the setting is constant at `start`.
    """
    if num_steps == 0:
        return start
    progress = min(max(step / num_steps, 0.0), 1.0)
    return start + (end - start) * progress
