"""How far a seed is blended in: a schedule that moves alpha from where it is to a target, one step an epoch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from esper.leyline.alpha import AlphaCurve, AlphaMode, curve_at


@dataclass(frozen=True, slots=True)
class AlphaController:
    """Alpha and the schedule that moves it. Monotone from start to target, exact at both ends.

    controller = controller.retarget(1.0, curve=AlphaCurve.COSINE, steps=5)
    while controller.mode is not AlphaMode.HOLD:
        controller = controller.tick()
    """

    alpha: float = 0.0
    start: float = 0.0
    target: float = 0.0
    mode: AlphaMode = AlphaMode.HOLD
    curve: AlphaCurve = AlphaCurve.LINEAR
    steps_total: int = 0
    steps_done: int = 0

    @property
    def progress(self) -> float:
        """Share of the running schedule that is done, 0…1; 1 in HOLD."""
        return 1.0 if self.mode is AlphaMode.HOLD else self.steps_done / self.steps_total

    def retarget(self, target: float, *, curve: AlphaCurve, steps: int) -> AlphaController:
        """Begin a schedule towards `target` in 0…1 that takes `steps` ticks; 0 steps take effect at once.

        Raises:
            RuntimeError: If a schedule is still running.
            ValueError: If the target is outside 0…1 or the number of steps is negative.
        """
        if self.mode is not AlphaMode.HOLD:
            raise RuntimeError(f"alpha is still moving from {self.start} to {self.target}; retarget it in HOLD")
        if not 0.0 <= target <= 1.0:
            raise ValueError(f"alpha target {target} is outside 0…1")
        if steps < 0:
            raise ValueError(f"a schedule cannot take {steps} steps")
        if steps == 0 or target == self.alpha:
            return AlphaController(alpha=target, start=self.alpha, target=target, curve=curve)
        mode = AlphaMode.UP if target > self.alpha else AlphaMode.DOWN
        return AlphaController(self.alpha, self.alpha, target, mode, curve, steps)

    def tick(self) -> AlphaController:
        """Take one step; the last one lands on the target exactly and holds. In HOLD nothing moves."""
        if self.mode is AlphaMode.HOLD:
            return self
        done = self.steps_done + 1
        if done == self.steps_total:
            return replace(self, alpha=self.target, mode=AlphaMode.HOLD, steps_done=done)
        height = curve_at(self.curve, done / self.steps_total)
        alpha = (1.0 - height) * self.start + height * self.target
        low, high = sorted((self.alpha, self.target))
        return replace(self, alpha=min(max(alpha, low), high), steps_done=done)  # rounding may not turn it back
