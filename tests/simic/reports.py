"""Small trial reports for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from esper.leyline.alpha import AlphaMode, BlendOperator
from esper.leyline.masks import GrowthLimits, SlotView, compute_masks
from esper.leyline.reports import EpochTimings, SeedMetrics, SeedStateReport, SlotReport, TrialReport
from esper.leyline.signals import FastTrainingSignals
from esper.leyline.stages import SeedStage

if TYPE_CHECKING:
    import numpy as np

EMPTY_MASKS = compute_masks([SlotView(SeedStage.DORMANT, 0, AlphaMode.HOLD, False)] * 2, GrowthLimits((0, 1), 2, 2))


def make_seed(slot: int = 0, **values: Any) -> SeedStateReport:
    """A seed in `slot`; keyword arguments of the report or of its metrics."""
    metric_names = SeedMetrics.__dataclass_fields__
    metrics = {name: values.pop(name) for name in list(values) if name in metric_names}
    base_metrics: dict[str, Any] = {
        "accuracy_at_germination": 40.0,
        "accuracy_at_stage_start": 45.0,
        "current_val_accuracy": 50.0,
        "best_val_accuracy": 50.0,
    }
    base: dict[str, Any] = {
        "seed_id": f"seed{slot}",
        "slot_id": f"r0c{slot}",
        "blueprint_id": "conv",
        "blueprint_place": 1,
        "stage": SeedStage.BLENDING,
        "epochs_in_stage": 2,
        "age_epochs": 6,
        "num_parameters": 100,
        "alpha": 0.5,
        "alpha_target": 1.0,
        "alpha_mode": AlphaMode.HOLD,
        "alpha_progress": 1.0,
        "operator": BlendOperator.ADD,
        "tempo_epochs": 5,
        "metrics": SeedMetrics(**(base_metrics | metrics)),
    }
    return SeedStateReport(**(base | values))


def make_report(*seeds: SeedStateReport | None, **values: Any) -> TrialReport:
    """A trial with one slot per seed given (None is an empty slot), at least two slots."""
    padded = [*seeds, *[None] * (2 - len(seeds))]
    base: dict[str, Any] = {
        "env_id": 0,
        "episode_idx": 0,
        "epoch": 8,
        "max_epochs": 12,
        "signals": FastTrainingSignals(epoch=8, val_accuracy=50.0, val_loss=1.0),
        "train_loss": 1.0,
        "train_accuracy": 50.0,
        "val_loss": 1.0,
        "val_accuracy": 50.0,
        "committed_accuracy": 45.0,
        "host_params": 200,
        "seed_params": sum(seed.num_parameters for seed in seeds if seed is not None),
        "fossil_params": sum(s.num_parameters for s in seeds if s is not None and s.stage is SeedStage.FOSSILIZED),
        "learning_rate": 0.01,
        "gradient_norm": None,
        "layers": (),
        "slots": tuple(SlotReport(f"r0c{i}", i, 4, 16, seed, None, None, None, None) for i, seed in enumerate(padded)),
        "masks": EMPTY_MASKS,
        "transitions": (),
        "counterfactuals": None,
        "verdict": None,
        "timings": EpochTimings(1.0, 1.0),
        "done": False,
    }
    return TrialReport(**(base | values))


def random_report(rng: np.random.Generator, **values: Any) -> TrialReport:
    """A report with random accuracies and parameter counts."""
    fossil_params = int(rng.integers(0, 100))
    base: dict[str, Any] = {
        "val_accuracy": float(rng.uniform(0, 100)),
        "committed_accuracy": float(rng.uniform(0, 100)),
        "fossil_params": fossil_params,
        "seed_params": fossil_params + int(rng.integers(0, 300)),
    }
    return make_report(**(base | values))
