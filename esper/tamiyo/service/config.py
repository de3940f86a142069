"""Settings of the policy service."""

from __future__ import annotations

from dataclasses import dataclass

from esper.leyline.load import setting


@dataclass(frozen=True, slots=True)
class TamiyoServiceConfig:
    """How the network runs, how commands are watched, and how much is remembered."""

    is_compiled: bool = setting(False, "compile the network when a policy is loaded, which takes a while; if that fails it runs as it is")
    window_epochs: int = setting(5, "epochs after which a command is judged", unit="epochs", ge=1)
    success_points: float = setting(1.0, "gain of accuracy within the window from which a command is a SUCCESS", unit="points", gt=0.0)
    regression_points: float = setting(1.0, "loss of accuracy within the window from which it is a REGRESSION", unit="points", gt=0.0)
    kept_reports: int = setting(1000, "newest field reports that the ledger keeps; telemetry gets all of them", ge=1)
    latency_steps: int = setting(1000, "steps behind the percentiles of latency", ge=1)
    kept_runs: int = setting(64, "training runs watched at once; the one not heard of for longest is given up", ge=1)
    execution_deadline_ms: int | None = setting(None, "deadline written into every command; none has no limit", unit="ms", ge=1)
