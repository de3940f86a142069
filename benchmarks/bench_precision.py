"""Whether bf16 and channels_last leave final accuracies what they are in fp32: hosts paired by seed (P4).

python -m benchmarks.bench_precision --seeds 40 --json benchmarks/results/precision.json
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import Figure, figure, run_benchmark
from benchmarks.workloads import SEEDS
from esper.kasmina.config import GrowthConfig
from esper.kasmina.model import MorphogeneticModel
from esper.tolaria.engine.base import EngineConfig, TrainingPlan
from esper.tolaria.engine.layouts import cpu_instructions
from esper.tolaria.engine.sequential import SequentialEngine
from esper.tolaria.tasks.base import Context, SampleCounts
from esper.tolaria.tasks.hosts import build_host
from esper.tolaria.tasks.procedural import make_texture
from esper.urza.catalogue import Catalogue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.leyline.rng import SeedTree
    from esper.tolaria.data import Dataset

CONTEXT = Context("texture32", "plain", 1.0)
CONTRASTS = {
    "channels_last fp32": EngineConfig(memory_format="channels_last", precision="fp32", compile="off"),
    "channels_last bf16": EngineConfig(memory_format="channels_last", precision="bf16", compile="off"),
}
REFERENCE = EngineConfig(memory_format="contiguous", precision="fp32", compile="off")
MARGIN_POINTS = 1.0
"""Largest difference of mean accuracy, either way, that still counts as none."""
NUM_RESAMPLES = 20_000
NOISE = 1.2
"""Standard deviation; an image without noise has 1. It keeps accuracies away from 100 %."""


@dataclass(frozen=True, slots=True)
class Paired:
    """Differences of pairs, in points."""

    mean: float
    low: float
    high: float
    """95 % interval of the mean."""

    @property
    def is_equal(self) -> bool:
        """Whether the whole interval lies within the margin: equality is shown, not merely no difference."""
        return self.low > -MARGIN_POINTS and self.high < MARGIN_POINTS


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Read the command line, measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--num-train", type=int, default=512)
    parser.add_argument("--num-test", type=int, default=512)
    parser.add_argument("--layouts", nargs="+", choices=list(CONTRASTS), default=list(CONTRASTS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    plan = TrainingPlan(arguments.epochs, batch_size=32, learning_rate=0.01)
    counts = SampleCounts(arguments.num_train, arguments.num_test, arguments.num_test)
    return run_benchmark(lambda: measure_accuracies(plan, counts, num_seeds=arguments.seeds, layouts=arguments.layouts), arguments.json)


def measure_accuracies(plan: TrainingPlan, counts: SampleCounts, *, num_seeds: int, layouts: Sequence[str]) -> dict[str, Figure]:
    """Final test accuracies of layouts beside contiguous fp32, from the same weights on the same data in the same order."""
    configs = {"reference": REFERENCE} | {name: CONTRASTS[name] for name in layouts}
    found: dict[str, list[float]] = {name: [] for name in configs}
    for i in range(num_seeds):
        seeds = SEEDS.child("pair", i)
        dataset = textures(counts, seeds.child("data"))
        for name, config in configs.items():
            found[name].append(final_accuracy(config, plan, dataset, seeds))
    return {
        f"P4_accuracy {name}": figure(
            f"final accuracy of the plain host on 32×32 images, {name}",
            "percent of the test samples",
            values=found[name],
            reference="the same, contiguous fp32",
            reference_values=found["reference"],
            **tell(paired([a - b for a, b in zip(found[name], found["reference"], strict=True)])),
            instructions=cpu_instructions(),
            epochs=plan.max_epochs,
            num_train=counts.train,
            noise=NOISE,
        )
        for name in layouts
    }


def textures(counts: SampleCounts, seeds: SeedTree) -> Dataset:
    """The built-in textures in the shape of CIFAR: laid out 2×2 in three channels, each pixel with noise of its own."""
    small, generator = make_texture(counts, seeds), seeds.child("noise").torch()

    def enlarged(x: Tensor) -> Tensor:
        tiled = x.repeat(1, 3, 2, 2)
        return tiled + NOISE * torch.randn(tiled.shape, generator=generator)

    return replace(small, train_x=enlarged(small.train_x), val_x=enlarged(small.val_x), test_x=enlarged(small.test_x))


def final_accuracy(config: EngineConfig, plan: TrainingPlan, dataset: Dataset, seeds: SeedTree) -> float:
    """Percent after training a fresh host; evaluated in the layout that it was trained in."""
    with seeds.child("host").torch_scope():
        host = build_host(CONTEXT, dataset)
    model = MorphogeneticModel(host, Catalogue.standard(), GrowthConfig(), seeds.child("growth"))
    engine = SequentialEngine(model, dataset, config, plan=plan, seeds=seeds.child("training"))
    for epoch in range(plan.max_epochs):
        engine.train_epoch(epoch)
    return engine.evaluate("test", [()]).accuracies[0]


def paired(differences: Sequence[float]) -> Paired:
    """Mean of the differences and its 95 % bootstrap interval.

    Raises:
        ValueError: If there are fewer than two pairs.
    """
    if len(differences) < 2:
        raise ValueError(f"{len(differences)} pairs; an interval needs at least 2")
    values = np.asarray(differences)
    drawn = SEEDS.child("bootstrap").numpy().integers(len(values), size=(NUM_RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(1), (0.025, 0.975))
    return Paired(float(values.mean()), float(low), float(high))


def tell(difference: Paired) -> dict[str, Any]:
    """The comparison as plain data."""
    return {
        "difference_points": difference.mean,
        "interval_95_points": [difference.low, difference.high],
        "margin_points": MARGIN_POINTS,
        "is_statistically_equal": difference.is_equal,
    }


if __name__ == "__main__":
    main()
