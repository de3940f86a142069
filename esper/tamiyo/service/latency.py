"""How long steps take: percentiles over the last ones."""

from __future__ import annotations

from collections import deque

import numpy as np


class LatencyMeter:
    """Remembers the last `num_steps` durations."""

    def __init__(self, num_steps: int) -> None:
        self._last_ms: deque[float] = deque(maxlen=num_steps)

    def add(self, latency_ms: float) -> None:
        """Take one step into account."""
        self._last_ms.append(latency_ms)

    def percentile(self, percent: float) -> float | None:
        """Duration that so many percent of the steps did not exceed, in ms; None before the first step."""
        if not self._last_ms:
            return None
        return float(np.percentile(np.fromiter(self._last_ms, dtype=np.float64), percent))
