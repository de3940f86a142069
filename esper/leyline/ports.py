"""Protocols through which packages meet without importing each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pyarrow as pa
    from torch import nn

    from esper.leyline.actions import FactoredAction
    from esper.leyline.graph import GraphBatch
    from esper.leyline.host import HostFamily
    from esper.leyline.reports import TrialReport
    from esper.leyline.schemas import BlueprintSpec
    from esper.leyline.telemetry.event import TelemetryEvent


class Emitter(Protocol):
    """Takes events in constant time and never blocks.

    emitter.emit(TelemetryEvent(TelemetryEventType.TRAINING_STARTED, data=payload))
    """

    def emit(self, event: TelemetryEvent) -> None:
        """Hand over one event."""
        ...


class Sink(Protocol):
    """Stores batches of events; writing the same (source, incarnation, seq) twice stores it once."""

    def write(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Store batches durably before returning."""
        ...

    def close(self) -> None:
        """Flush and release."""
        ...


class Catalogue(Protocol):
    """Blueprints by name and by their place in the 32-way head."""

    def names(self, family: HostFamily) -> tuple[str, ...]:
        """Blueprints that exist for a host family, in catalogue order."""
        ...

    def place(self, name: str) -> int:
        """Place of a blueprint; KeyError naming the known ones otherwise."""
        ...

    def name(self, place: int) -> str:
        """Blueprint at a place; KeyError if the place is empty."""
        ...

    def spec(self, name: str, family: HostFamily, channels: int, positions: int) -> BlueprintSpec:
        """Cost and risk of a blueprint at a width."""
        ...

    def build(self, name: str, family: HostFamily, channels: int, positions: int) -> nn.Module:
        """A fresh module that computes the identity; initialised from torch's ambient generator."""
        ...

    @property
    def digest(self) -> str:
        """Hash of names, places and families, stored in checkpoints."""
        ...


class ScriptedPolicy(Protocol):
    """A policy without learning, played beside the trial it acts on.

    policy.reset(rng)
    while not report.done:
        report = trial.step(policy.decide(report))
    """

    @property
    def name(self) -> str:
        """Row label in comparisons."""
        ...

    def reset(self, rng: np.random.Generator) -> None:
        """Forget the last episode."""
        ...

    def decide(self, report: TrialReport) -> FactoredAction:
        """Choose a legal action."""
        ...


class GraphEncoder(Protocol):
    """Turns reports of K trials into the policy's observation."""

    def build(self, reports: Sequence[TrialReport]) -> GraphBatch:
        """[K] reports → a batch of K graphs."""
        ...


class TrainablePolicy(Protocol):
    """A policy that samples decisions and re-evaluates them with gradients. Tensors throughout.

    output = policy.act(graph_batch, noise)                   # rollout
    evaluation = policy.evaluate(graph_batch, actions)        # update
    """

    def act(self, batch: GraphBatch, noise: np.ndarray | None) -> Any:
        """Sample with `noise` [B, 8] uniform in (0, 1), or take the mode where it is None."""
        ...

    def evaluate(self, batch: GraphBatch, actions: np.ndarray) -> Any:
        """Log-probabilities, entropies and values of `actions` [B, 8], with gradients."""
        ...
