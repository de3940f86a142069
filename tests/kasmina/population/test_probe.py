"""Slots and layers of many members, measured at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from esper.kasmina.config import GrowthConfig
from esper.kasmina.grad_probe import probe
from esper.kasmina.population.model import Population
from esper.kasmina.population.probe import probe_population
from tests.tolaria.populations import FAMILIES, OPEN, World, furthest, grown

if TYPE_CHECKING:
    from esper.leyline.host import HostFamily


def measured(family: HostFamily, seed: int, *, dtype: torch.dtype) -> tuple[Population, torch.Tensor, torch.Tensor]:
    trials = grown(World(family, growth=GrowthConfig(**OPEN, auto_advance=True), sizes=(40, 20, 20), dtype=dtype), seed, 4)
    data = [trial.engine.dataset for trial in trials]
    x, y = torch.stack([own.train_x[:11] for own in data]), torch.stack([own.train_y[:11] for own in data])
    return Population([trial.model for trial in trials]), x, y


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_figures_are_those_of_each_model(family: HostFamily, seed: int) -> None:
    population, x, y = measured(family, seed, dtype=torch.float64)
    weights = population.storage.flat.clone()
    ours = probe_population(population, x, y)
    assert torch.equal(population.storage.flat, weights)
    for model, own, labels, figures in zip(population.models, x, y, ours, strict=True):
        gap, where = furthest(probe(model, own, labels), figures)
        assert gap < 1e-6, where


@pytest.mark.parametrize("family", FAMILIES)
def test_figures_are_the_same_bits_in_any_company(family: HostFamily) -> None:
    population, x, y = measured(family, 1, dtype=torch.float32)
    together = probe_population(population, x, y)
    for member, model in enumerate(population.models):
        (alone,) = probe_population(Population([model]), x[member : member + 1], y[member : member + 1])
        assert alone == together[member]
