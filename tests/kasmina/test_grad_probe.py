from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from esper.kasmina.config import GrowthConfig
from esper.kasmina.grad_probe import probe
from esper.kasmina.hosts import TransformerHost, TransformerHostConfig
from esper.kasmina.model import MorphogeneticModel
from esper.leyline.rng import SeedTree
from tests.fakes.catalogue import FakeCatalogue
from tests.fakes.growth import EAGER, NormedHost, backward, begin_training, fossilize, make_batch, make_model, run_plain

if TYPE_CHECKING:
    from esper.leyline.host import HostFamily


@pytest.mark.parametrize("family", ["cnn", "transformer", "mlp"])
def test_every_slot_and_layer_is_measured_before_training(family: HostFamily) -> None:
    model = make_model(family)
    found = probe(model, *make_batch(family))
    assert len(found.slots) == 3
    assert len(found.layers) == len(model.host.layer_specs())
    assert all(slot.gradient_norm > 0 and slot.activation_std > 0 for slot in found.slots)
    assert all((slot.spatial_std is None) == (family == "mlp") for slot in found.slots)
    for layer in found.layers:
        assert layer.weight_norm is not None
        assert layer.saturation_rate is not None
        assert 0.0 <= layer.saturation_rate <= 1.0


def test_slot_statistics_have_their_stated_values() -> None:
    model = make_model("cnn")
    x, y = make_batch("cnn")
    value = run_plain(model.host, x)[1][0].detach()
    slot = probe(model, x, y).slots[0]
    assert slot.activation_mean == pytest.approx(float(value.mean()), rel=1e-5)
    assert slot.activation_std == pytest.approx(float(value.transpose(0, 1).flatten(1).std(1, correction=0).mean()), rel=1e-5)
    assert slot.spatial_std == pytest.approx(float(value.flatten(2).std(2, correction=0).mean()), rel=1e-5)


def test_the_slot_gradient_predicts_what_a_change_there_does() -> None:
    model = make_model("mlp").eval()
    x, y = make_batch("mlp")
    value = run_plain(model.host, x)[1][0].detach().requires_grad_()
    logits = model.host.run(x, lambda segment, found: value if segment == 0 else found)
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y), value)
    assert probe(model, x, y).slots[0].gradient_norm == pytest.approx(float(gradient.norm()) / gradient.numel() ** 0.5, rel=1e-5)


def test_layer_gradients_are_those_of_the_loss() -> None:
    model = make_model("cnn")
    x, y = make_batch("cnn")
    layers = probe(model, x, y).layers
    backward(model, x, y)
    for spec, layer in zip(model.host.layer_specs(), layers, strict=True):
        parameters = list(model.get_submodule(f"host.{spec.layer_id}").parameters())
        gradient = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        assert layer.gradient_norm == pytest.approx(float(gradient.norm()), rel=1e-4)
        assert layer.gradient_variance == pytest.approx(float(gradient.var(correction=0)), rel=1e-4)
        weights = torch.cat([p.detach().flatten() for p in parameters])
        assert layer.weight_norm == pytest.approx(float(weights.norm()), rel=1e-5)


def test_saturation_is_the_share_of_zeros() -> None:
    model = make_model("cnn")
    x, y = make_batch("cnn")
    value = run_plain(model.host, x)[1][0]
    assert probe(model, x, y).layers[0].saturation_rate == pytest.approx(float((value == 0).float().mean()))


def test_a_probe_leaves_no_trace() -> None:
    model = MorphogeneticModel(NormedHost(), FakeCatalogue(), GrowthConfig(**EAGER), SeedTree(7))
    fossilize(model, 0)
    begin_training(model, 1)
    x, y = make_batch()
    backward(model, x, y)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    with torch.no_grad():
        probe(model, x, y)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert parameter.grad is gradient is None or (gradient is not None and torch.equal(parameter.grad, gradient))  # type: ignore[arg-type]
    assert [module.training for module in model.modules()] == modes


def test_a_silent_seed_does_not_change_the_probe() -> None:
    model = make_model()
    x, y = make_batch()
    before = probe(model, x, y)
    begin_training(model, 0)
    assert probe(model, x, y) == before


def test_every_token_may_have_a_label() -> None:
    host = TransformerHost(TransformerHostConfig(11, 6, 5, readout="every"))
    model = MorphogeneticModel(host, FakeCatalogue(), GrowthConfig(), SeedTree(0))
    x, _ = make_batch("transformer")
    assert all(slot.gradient_norm > 0 for slot in probe(model, x, x % 5).slots)


def test_a_frozen_host_has_no_layer_gradient() -> None:
    model = make_model("mlp")
    model.get_submodule("host").requires_grad_(False)
    found = probe(model, *make_batch("mlp"))
    assert all(layer.gradient_norm is None and layer.weight_norm is not None for layer in found.layers)
