"""A seed in training is invisible to its host: every blueprint, in every slot of every host family, bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn.functional import cross_entropy

from esper.kasmina import GrowthConfig, MorphogeneticModel
from esper.kasmina.hosts import CNNHost, CNNHostConfig, MLPHost, MLPHostConfig, TransformerHost, TransformerHostConfig
from esper.leyline.actions import FactoredAction, LifecycleOp
from esper.leyline.rng import SeedTree
from esper.leyline.stages import SeedStage
from esper.urza import Catalogue

if TYPE_CHECKING:
    from torch import Tensor, nn

    from esper.leyline.host import HostFamily

CATALOGUE = Catalogue.standard()
CASES = [(family, name) for family in ("cnn", "transformer", "mlp") for name in CATALOGUE.names(family)]
GROWING = GrowthConfig(auto_advance=True, min_training_epochs=1)


def make_host(family: HostFamily) -> tuple[nn.Module, Tensor]:
    generator = torch.Generator().manual_seed(0)
    with SeedTree(1).child(family).torch_scope():
        if family == "cnn":
            return CNNHost(CNNHostConfig(in_channels=1, image_size=8, num_classes=4)), torch.randn(6, 1, 8, 8, generator=generator)
        if family == "transformer":
            tokens = torch.randint(0, 8, (6, 10), generator=generator)
            return TransformerHost(TransformerHostConfig(vocab_size=8, context_length=10, num_classes=4)), tokens
        return MLPHost(MLPHostConfig(in_features=5, num_classes=4)), torch.randn(6, 5, generator=generator)


def logits_and_gradients(model: MorphogeneticModel, x: Tensor) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
    model.train().zero_grad(set_to_none=True)
    logits = model(x)
    cross_entropy(logits, torch.arange(len(x)) % 4).backward()
    host = {name: p.grad.clone() for name, p in model.named_parameters() if name.startswith("host.") and p.grad is not None}
    seeds = [p.grad for name, p in model.named_parameters() if not name.startswith("host.") and p.grad is not None]
    return logits.detach(), host, seeds


@pytest.mark.parametrize(("family", "name"), CASES)
def test_a_training_seed_changes_nothing_in_its_host_and_learns(family: HostFamily, name: str) -> None:
    host, x = make_host(family)
    bare = MorphogeneticModel(host, CATALOGUE, GROWING, SeedTree(2))  # type: ignore[arg-type]
    expected, expected_gradients, _ = logits_and_gradients(bare, x)
    for slot in range(len(bare.specs)):
        model = MorphogeneticModel(make_host(family)[0], CATALOGUE, GROWING, SeedTree(2))  # type: ignore[arg-type]
        model.apply(FactoredAction(op=LifecycleOp.GERMINATE, slot=slot, blueprint=CATALOGUE.place(name)), val_accuracy=0.0)
        seed = model.seed_reports()[slot]
        assert seed is not None
        assert seed.stage is SeedStage.TRAINING
        logits, gradients, seed_gradients = logits_and_gradients(model, x)
        assert torch.equal(logits, expected)
        assert gradients.keys() == expected_gradients.keys()
        assert all(torch.equal(gradients[key], expected_gradients[key]) for key in gradients)
        assert any(gradient.abs().sum() > 0 for gradient in seed_gradients)
