"""Where the time of training steps goes: laps between moments, on the host's clock or on the GPU's own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

PARTS = ("transfer", "forward", "backward", "optimizer")


class StepTimes(NamedTuple):
    """Seconds of an epoch's steps, summed by part."""

    transfer_sec: float
    """Picking and augmenting batches, and bringing them to the device."""
    forward_sec: float
    backward_sec: float
    optimizer_sec: float

    def divided_by(self, num_members: int) -> StepTimes:
        """One member's share."""
        return StepTimes(*(seconds / num_members for seconds in self))


class StepClock:
    """Collects laps; what lies between two laps belongs to the later one's part.

        clock.lap()
        for batch in batches:
            clock.lap("transfer")
            …
            clock.lap("optimizer")
        times = clock.times()

    On a GPU a lap is an event in the stream, so that nothing waits before `times`.

    Args:
        device: Where the steps run.
        is_running: A clock that stands measures nothing and costs a call a lap.
    """

    def __init__(self, device: torch.device, *, is_running: bool) -> None:
        self._device = device
        self.is_running = is_running
        self._laps: list[tuple[str | None, Any]] = []

    def lap(self, part: str | None = None) -> None:
        """End a part; None ends what is not told."""
        if self.is_running:
            self._laps.append((part, self._now()))

    def times(self) -> StepTimes | None:
        """Sums of the laps so far; None if the clock stands. Waits for the GPU."""
        if not self.is_running:
            return None
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        total: dict[str | None, float] = dict.fromkeys(PARTS, 0.0)
        for (_, before), (part, after) in zip(self._laps, self._laps[1:], strict=False):
            total[part] = total.get(part, 0.0) + self._between(before, after)
        return _times(total)

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _between(self, before: Any, after: Any) -> float:
        return 1e-3 * float(before.elapsed_time(after)) if self._device.type == "cuda" else after - before


def _times(total: Mapping[str | None, float]) -> StepTimes:
    return StepTimes(*(total[part] for part in PARTS))
