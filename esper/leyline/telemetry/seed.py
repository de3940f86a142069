"""A seed's local picture: a snapshot for the policy, beside the events, and a collection of such snapshots."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from esper.leyline.gradient_health import norm_share
from esper.leyline.signals import stage_scalar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from esper.leyline.reports import SeedStateReport
    from esper.leyline.stages import SeedStage

SEED_TELEMETRY_SCHEMA_VERSION = 1
SEED_FEATURE_DIM = 10
_STAGE_EPOCHS_RANGE = 50
_ACCURACY_DELTA_RANGE = 10.0


@dataclass(slots=True)
class SeedTelemetry:
    """What one seed knows about itself at one moment. Gradient fields that were not measured are None."""

    seed_id: str
    blueprint_id: str = ""
    layer_id: str = ""
    """Where it grows, for spatial grouping."""
    gradient_norm: float | None = 0.0
    gradient_health: float | None = 1.0
    """0…1; higher is healthier."""
    has_vanishing: bool | None = False
    has_exploding: bool | None = False
    accuracy: float = 0.0
    """Percent."""
    accuracy_delta: float = 0.0
    """Points gained since the stage began."""
    epochs_in_stage: int = 0
    stage: int = 1
    """Number of the `SeedStage`."""
    alpha: float = 0.0
    epoch: int = 0
    max_epochs: int = 25
    captured_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def to_features(self) -> list[float]:
        """Ten features in [-1, 1] (all but the accuracy difference in [0, 1]).

        min(gradient norm, 10)/10 · gradient health · vanishing · exploding · min(epochs in stage, 50)/50 · accuracy/100 ·
        clip(accuracy difference/10, ±1) · (stage − 1)/6 clamped · alpha · epoch/max_epochs. Unmeasured is 0 here and False
        in `feature_mask`; a NaN gradient norm counts as the largest.
        """
        return [
            norm_share(0.0 if self.gradient_norm is None else self.gradient_norm),
            self.gradient_health or 0.0,
            float(self.has_vanishing or False),
            float(self.has_exploding or False),
            min(self.epochs_in_stage, _STAGE_EPOCHS_RANGE) / _STAGE_EPOCHS_RANGE,
            self.accuracy / 100.0,
            max(-1.0, min(1.0, self.accuracy_delta / _ACCURACY_DELTA_RANGE)),
            stage_scalar(self.stage),
            self.alpha,
            self.epoch / max(self.max_epochs, 1),
        ]

    def feature_mask(self) -> list[bool]:
        """Which of the ten features were measured."""
        gradients = (self.gradient_norm, self.gradient_health, self.has_vanishing, self.has_exploding)
        return [value is not None for value in gradients] + [True] * (SEED_FEATURE_DIM - len(gradients))

    @classmethod
    def feature_dim(cls) -> int:
        """Length of `to_features`."""
        return SEED_FEATURE_DIM

    def is_stale(self, threshold_seconds: float = 60.0, now: datetime | None = None) -> bool:
        """Say whether the snapshot is older than the threshold; `now` is the clock's time unless given."""
        return ((now or datetime.now(UTC)) - self.captured_at).total_seconds() > threshold_seconds

    def to_dict(self) -> dict[str, Any]:
        """Turn into JSON-like values that `from_dict` accepts again."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"schema_version": SEED_TELEMETRY_SCHEMA_VERSION, **values, "captured_at": self.captured_at.isoformat()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SeedTelemetry:
        """Read a snapshot; every field must be there.

        Raises:
            KeyError: If a field is missing.
            ValueError: If a key is unknown or the schema version is another.
        """
        names = [f.name for f in fields(cls)]
        for name in ("schema_version", *names):
            if name not in values:
                raise KeyError(f"SeedTelemetry.{name}")
        unknown = sorted(values.keys() - {"schema_version", *names})
        if unknown:
            raise ValueError(f"SeedTelemetry has no field {', '.join(map(repr, unknown))}; it has {', '.join(names)}")
        if values["schema_version"] != SEED_TELEMETRY_SCHEMA_VERSION:
            found = values["schema_version"]
            raise ValueError(f"SeedTelemetry schema version {found!r} cannot be read; this is version {SEED_TELEMETRY_SCHEMA_VERSION}")
        arguments = {name: values[name] for name in names}
        return cls(**(arguments | {"captured_at": datetime.fromisoformat(values["captured_at"])}))

    @classmethod
    def from_report(cls, report: SeedStateReport, epoch: int, max_epochs: int) -> SeedTelemetry:
        """Snapshot of the seed that `report` describes; the slot id serves as layer id."""
        metrics = report.metrics
        return cls(
            seed_id=report.seed_id,
            blueprint_id=report.blueprint_id,
            layer_id=report.slot_id,
            gradient_norm=metrics.gradient_norm,
            gradient_health=metrics.gradient_health,
            has_vanishing=metrics.has_vanishing,
            has_exploding=metrics.has_exploding,
            accuracy=metrics.current_val_accuracy,
            accuracy_delta=metrics.improvement_since_stage_start,
            epochs_in_stage=report.epochs_in_stage,
            stage=int(report.stage),
            alpha=report.alpha,
            epoch=epoch,
            max_epochs=max_epochs,
        )


class SeedTelemetryRegistry:
    """Snapshots of many seeds, in order of registration, with the groupings that a hierarchy of policies asks for."""

    def __init__(self) -> None:
        self._seeds: dict[str, SeedTelemetry] = {}

    def register(self, seed_id: str, blueprint_id: str, layer_id: str) -> SeedTelemetry:
        """Begin a seed's telemetry.

        Raises:
            ValueError: If the seed is registered already.
        """
        if seed_id in self._seeds:
            raise ValueError(f"seed {seed_id!r} is registered already")
        telemetry = SeedTelemetry(seed_id, blueprint_id, layer_id)
        self._seeds[seed_id] = telemetry
        return telemetry

    def update(self, seed_id: str, **changes: Any) -> None:
        """Set fields of a seed and refresh its time (unless `captured_at` is among them).

        Raises:
            KeyError: If the seed is not registered.
            ValueError: If a name is not a field.
        """
        telemetry = self._seeds[seed_id]
        unknown = sorted(changes.keys() - {f.name for f in fields(SeedTelemetry)})
        if unknown:
            raise ValueError(f"SeedTelemetry has no field {', '.join(map(repr, unknown))}")
        for name, value in {"captured_at": datetime.now(UTC), **changes}.items():
            setattr(telemetry, name, value)

    def get(self, seed_id: str) -> SeedTelemetry | None:
        """Snapshot of a seed; None if it is not registered."""
        return self._seeds.get(seed_id)

    def remove(self, seed_id: str) -> None:
        """Forget a seed.

        Raises:
            KeyError: If the seed is not registered.
        """
        del self._seeds[seed_id]

    def by_blueprint(self, blueprint_id: str) -> list[SeedTelemetry]:
        """Seeds grown from a blueprint."""
        return [seed for seed in self._seeds.values() if seed.blueprint_id == blueprint_id]

    def by_layer(self, layer_id: str) -> list[SeedTelemetry]:
        """Seeds at a layer."""
        return [seed for seed in self._seeds.values() if seed.layer_id == layer_id]

    def by_stage(self, stage: SeedStage) -> list[SeedTelemetry]:
        """Seeds in a stage."""
        return [seed for seed in self._seeds.values() if seed.stage == stage]

    def all(self) -> list[SeedTelemetry]:
        """Every seed."""
        return list(self._seeds.values())

    def aggregate(self, seeds: Iterable[SeedTelemetry]) -> dict[str, float]:
        """Summary of a group: `num_seeds`, and means over the seeds in which a quantity was measured.

        Keys whose quantity no seed measured are absent.
        """
        group = list(seeds)
        columns: dict[str, list[float | None]] = {
            "mean_gradient_norm": [seed.gradient_norm for seed in group],
            "mean_gradient_health": [seed.gradient_health for seed in group],
            "vanishing_frac": [seed.has_vanishing for seed in group],
            "exploding_frac": [seed.has_exploding for seed in group],
            "mean_accuracy": [seed.accuracy for seed in group],
            "mean_accuracy_delta": [seed.accuracy_delta for seed in group],
            "mean_epochs_in_stage": [seed.epochs_in_stage for seed in group],
            "mean_alpha": [seed.alpha for seed in group],
        }
        summary = {"num_seeds": float(len(group))}
        for name, values in columns.items():
            measured = [value for value in values if value is not None]
            if measured:
                summary[name] = sum(measured) / len(measured)
        healths = [seed.gradient_health for seed in group if seed.gradient_health is not None]
        if healths:
            summary["min_gradient_health"] = min(healths)
        return summary
