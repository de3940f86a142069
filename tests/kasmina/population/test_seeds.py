"""Seeds of one cell in every stage and style at once: each is treated, to the bit, as it would be alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from esper.kasmina.config import GrowthConfig
from esper.kasmina.model import MorphogeneticModel
from esper.kasmina.population.cells import find_cells
from esper.kasmina.population.model import Population
from esper.leyline.actions import BlendStyle, FactoredAction, LifecycleOp
from esper.leyline.rng import SeedTree
from tests.fakes.growth import EAGER, backward, end_epoch, make_batch, make_host, randomise
from tests.kasmina.population.members import BLUEPRINTS
from tests.tolaria.populations import STANDARD

if TYPE_CHECKING:
    from esper.leyline.host import HostFamily

STYLES = (BlendStyle.LINEAR_ADD, BlendStyle.LINEAR_MULTIPLY, BlendStyle.GATED_GATE)
TRAINING, BLENDING, HOLDING = -1, 2, 3
"""Epochs of blending; none at all for a seed that only trains."""


def member(family: HostFamily, name: str, style: BlendStyle, epochs: int) -> MorphogeneticModel:
    """A model with one seed, its weights random, after so many epochs of blending."""
    model = MorphogeneticModel(make_host(family), STANDARD, GrowthConfig(**EAGER, isolate_blending=True), SeedTree(7))
    action = FactoredAction(op=LifecycleOp.GERMINATE, slot=1, blueprint=STANDARD.place(name), style=style)
    step = FactoredAction(op=LifecycleOp.ADVANCE, slot=1)
    model.apply(action, val_accuracy=20.0)
    model.apply(step, val_accuracy=20.0)
    randomise(model, 1)
    if epochs > 0:
        backward(model, *make_batch(family))
        model.observe_gradients()
        model.apply(step, val_accuracy=20.0)
        for _ in range(epochs):
            end_epoch(model)
    if epochs == HOLDING:
        model.apply(step, val_accuracy=20.0)
    return model


def run(models: list[MorphogeneticModel], family: HostFamily) -> tuple[torch.Tensor, list[list[torch.Tensor]]]:
    """Logits of every model on one batch, and its parameters' gradients."""
    population = Population(models)
    x, y = make_batch(family, batch=7)
    logits = population.forward(population.arrange(torch.stack([x] * len(models))))
    loss = torch.stack([F.cross_entropy(own, y) for own in logits]).sum()
    population.storage.hand_out(torch.autograd.grad(loss, population.storage.leaf)[0])
    return logits.detach(), [[p.grad.clone() for p in model.parameters() if p.grad is not None] for model in models]


@pytest.mark.parametrize(("family", "name"), BLUEPRINTS)
def test_mixed_stages_and_styles_are_the_same_bits_as_alone(family: HostFamily, name: str) -> None:
    models = [member(family, name, style, epochs) for epochs in (TRAINING, 1, BLENDING, HOLDING) for style in STYLES]
    assert len(find_cells(models)[1]) == 2
    logits, gradients = run(models, family)
    for index, model in enumerate(models):
        own_logits, own_gradients = run([model], family)
        assert torch.equal(own_logits[0], logits[index])
        assert len(own_gradients[0]) == len(gradients[index])
        assert all(torch.equal(a, b) for a, b in zip(own_gradients[0], gradients[index], strict=True))


@pytest.mark.parametrize("family", ["cnn", "transformer", "mlp"])
def test_mixed_stages_and_styles_are_the_models_own(family: HostFamily) -> None:
    models = [member(family, "lora", style, epochs).double() for epochs in (TRAINING, BLENDING, HOLDING) for style in STYLES]
    x, _ = make_batch(family, batch=5)
    x = x.double() if x.is_floating_point() else x
    population = Population(models)
    logits = population.forward(population.arrange(torch.stack([x] * len(models))))
    for model, own in zip(models, logits, strict=True):
        torch.testing.assert_close(own, model(x), rtol=1e-9, atol=1e-9)
