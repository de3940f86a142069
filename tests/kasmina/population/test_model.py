"""Grown models that run as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from esper.kasmina.config import GrowthConfig
from esper.kasmina.model import MorphogeneticModel
from esper.kasmina.population.model import Population, find_obstacle
from esper.leyline.rng import SeedTree
from tests.fakes.catalogue import FakeCatalogue
from tests.fakes.growth import NormedHost, begin_blending, begin_training, end_epoch, make_batch, make_model
from tests.tolaria.populations import FAMILIES, OPEN, World, grown

if TYPE_CHECKING:
    from torch import Tensor

    from esper.leyline.host import HostFamily
    from esper.tolaria import Trial

MEMBERS = 4


def grown_trials(family: HostFamily, seed: int) -> list[Trial]:
    return grown(World(family, growth=GrowthConfig(**OPEN, isolate_blending=True), sizes=(40, 20, 20)), seed, MEMBERS, epochs=7)


def batch_of(trials: list[Trial]) -> tuple[Tensor, Tensor]:
    data = [trial.engine.dataset for trial in trials]
    return torch.stack([own.train_x[:12] for own in data]), torch.stack([own.train_y[:12] for own in data])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_logits_and_gradients_in_training_are_the_members_own(family: HostFamily, seed: int) -> None:
    trials = grown_trials(family, seed)
    x, y = batch_of(trials)
    expected = []
    for trial, own, labels in zip(trials, x, y, strict=True):
        trial.model.train()
        trial.model.zero_grad(set_to_none=True)
        logits = trial.model(own)
        torch.autograd.backward(F.cross_entropy(logits, labels))
        gradients = [None if p.grad is None else p.grad.clone() for p in trial.model.parameters()]
        expected.append((logits.detach(), gradients))
    population = Population([trial.model for trial in trials])
    logits = population.forward(population.arrange(x))
    loss = torch.stack([F.cross_entropy(own, labels) for own, labels in zip(logits, y, strict=True)]).sum()
    population.storage.hand_out(torch.autograd.grad(loss, population.storage.leaf)[0])
    for trial, own, (theirs, gradients) in zip(trials, logits, expected, strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-9, atol=1e-9)
        for parameter, gradient in zip(trial.model.parameters(), gradients, strict=True):
            if gradient is None:
                assert parameter.grad is None or not parameter.grad.any()
            else:
                torch.testing.assert_close(parameter.grad, gradient, rtol=1e-8, atol=1e-10)
    assert any(trial.model.live_slots() for trial in trials)


def test_it_lasts_until_a_member_changes() -> None:
    models = [make_model() for _ in range(3)]
    population = Population(models)
    assert population.is_current(models)
    assert not population.is_current(models[:2])
    assert not population.is_current(models[::-1])
    begin_training(models[1], 0)
    assert not population.is_current(models)
    population = Population(models)
    begin_blending(models[2], 0)
    assert not population.is_current(models)
    population = Population(models)
    end_epoch(models[2])
    assert population.is_current(models)
    Population(models[:1])
    assert not population.is_current(models)


def test_alpha_may_rise_while_it_lasts() -> None:
    models = [make_model() for _ in range(2)]
    for model in models:
        begin_blending(model, 0)
    population = Population(models)
    x = torch.stack([make_batch()[0]] * 2)
    for _ in range(2):
        end_epoch(models[1])
        logits = population.forward(population.arrange(x))
        for model, own in zip(models, logits, strict=True):
            torch.testing.assert_close(own, model(x[0]), rtol=1e-4, atol=1e-5)
    assert models[0].seed_slots[0].alpha < models[1].seed_slots[0].alpha
    assert population.is_current(models)


def test_hosts_that_compute_in_their_own_way_are_refused() -> None:
    normed = MorphogeneticModel(NormedHost(), FakeCatalogue(), GrowthConfig(), SeedTree(0))
    frozen = make_model()
    next(frozen.get_submodule("host").parameters()).requires_grad_(False)
    assert find_obstacle(make_model()) is None
    for model, reason in ((normed, "a NormedHost has no stacked twin"), (frozen, "parts of a CNNHost are frozen")):
        assert find_obstacle(model) == reason
        with pytest.raises(ValueError, match=f"cannot run as one: {reason}"):
            Population([make_model(), model])


def test_layer_columns_are_the_layers_parameters() -> None:
    model = make_model("transformer")
    host = model.get_submodule("host")
    parameters = list(host.parameters())
    columns = Population([model]).layer_columns()
    for spec, own in zip(model.host.layer_specs(), columns, strict=True):
        theirs = list(host.get_submodule(spec.layer_id).parameters())
        assert [id(parameters[i]) for i in own] == [id(parameter) for parameter in theirs]
