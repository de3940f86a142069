from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.config import GrowthConfig
from esper.kasmina.model import MorphogeneticModel
from esper.kasmina.slot import SeedSlot
from esper.leyline.actions import BlendStyle, FactoredAction, LifecycleOp
from esper.leyline.host import HostFamily, InjectionSpec
from esper.leyline.layer_ops import BlueprintError
from esper.leyline.rng import SeedTree
from tests.fakes.catalogue import FakeCatalogue, Norm
from tests.fakes.growth import (
    EAGER,
    advance,
    backward,
    begin_blending,
    begin_holding,
    begin_training,
    end_epoch,
    germinate,
    make_batch,
    make_host,
    make_model,
    randomise,
)

FAMILIES: tuple[HostFamily, ...] = ("cnn", "transformer", "mlp")


def host_gradients(model: MorphogeneticModel) -> list[Tensor]:
    return [p.grad.clone() for p in model.get_submodule("host").parameters() if p.grad is not None]


def seed_gradients(model: MorphogeneticModel, slot: int) -> list[Tensor]:
    return [p.grad for p in model.slots[slot].parameters() if p.grad is not None]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("slot", [0, 2])
def test_a_training_seed_learns_without_being_heard(family: HostFamily, slot: int) -> None:
    model = make_model(family)
    x, y = make_batch(family)
    alone = backward(model, x, y)
    gradients = host_gradients(model)
    begin_training(model, slot)
    randomise(model, slot)
    logits = backward(model, x, y)
    assert torch.equal(logits, alone)
    assert all(torch.equal(a, b) for a, b in zip(host_gradients(model), gradients, strict=True))
    assert seed_gradients(model, slot)
    assert all(bool(g.any()) for g in seed_gradients(model, slot))
    assert torch.equal(model.eval()(x), alone)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_germinated_seed_computes_nothing(family: HostFamily) -> None:
    model = make_model(family)
    x, y = make_batch(family)
    alone = model(x)
    model.apply(germinate(0, family), val_accuracy=0.0)
    assert torch.equal(backward(model, x, y), alone)
    assert not seed_gradients(model, 0)


def test_the_first_day_of_a_blend_is_not_lost() -> None:
    model = make_model()
    x, y = make_batch()
    alone = model(x)
    begin_blending(model, 1, ticks=0)
    assert torch.equal(backward(model, x, y), alone)
    assert all(bool(g.any()) for g in seed_gradients(model, 1))


def test_a_blend_is_the_stated_mix_from_host_to_seed() -> None:
    model = make_model("mlp", max_seeds=1)
    x, _ = make_batch("mlp")
    alone = model(x)
    begin_blending(model, 2, ticks=0)
    mixes = []
    for _ in range(3):
        end_epoch(model)
        mixes.append(model(x))
    full = mixes[-1]
    assert not torch.allclose(full, alone)
    for alpha, mixed in zip((1 / 3, 2 / 3, 1.0), mixes, strict=True):  # the head is linear, so logits mix as values do
        torch.testing.assert_close(mixed, torch.lerp(alone, full, alpha))


@pytest.mark.parametrize("style", [BlendStyle.LINEAR_MULTIPLY, BlendStyle.GATED_GATE])
def test_other_styles_are_heard_and_learn(style: BlendStyle) -> None:
    model = make_model()
    x, y = make_batch()
    alone = model(x)
    begin_blending(model, 1, style=style)
    assert not torch.equal(backward(model, x, y), alone)
    assert len(seed_gradients(model, 1)) == len(list(model.slots[1].parameters()))


@pytest.mark.parametrize("style", [BlendStyle.LINEAR_ADD, BlendStyle.LINEAR_MULTIPLY, BlendStyle.GATED_GATE])
def test_isolation_ends_with_the_blend(style: BlendStyle) -> None:
    x, y = make_batch()
    blending, holding = {}, {}
    for isolate in (False, True):
        model = make_model(isolate_blending=isolate)
        begin_blending(model, 2, style=style)
        logits = backward(model, x, y)
        blending[isolate] = (logits, host_gradients(model)[0])
        end_epoch(model)
        end_epoch(model)
        model.apply(advance(2), val_accuracy=0.0)
        backward(model, x, y)
        holding[isolate] = host_gradients(model)[0]
    assert torch.equal(blending[True][0], blending[False][0])
    assert not torch.allclose(blending[True][1], blending[False][1])
    assert torch.equal(holding[True], holding[False])


def test_a_withering_seed_is_heard_but_no_longer_learns() -> None:
    model = make_model()
    x, y = make_batch()
    begin_holding(model, 0)
    before = model(x)
    model.apply(FactoredAction(op=LifecycleOp.PRUNE, slot=0, alpha_speed=1), val_accuracy=0.0)
    assert torch.equal(backward(model, x, y), before)
    assert not seed_gradients(model, 0)
    assert not any(p.requires_grad for p in model.slots[0].parameters())
    end_epoch(model)
    assert not torch.equal(model(x), before)


def test_pruning_a_silent_seed_changes_no_output() -> None:
    model = make_model()
    x, _ = make_batch()
    begin_training(model, 1)
    randomise(model, 1)
    before = model(x)
    model.apply(FactoredAction(op=LifecycleOp.PRUNE, slot=1), val_accuracy=0.0)
    assert torch.equal(model(x), before)
    assert model.num_seed_parameters == 0


def test_group_norm_learns_from_a_channels_last_value() -> None:
    """Its backward crashes in torch 2.13 (CPU) on a channels_last input that needs no gradient."""
    model = make_model()
    begin_training(model, 0, blueprint="norm")
    randomise(model, 0)
    h = torch.randn(4, 4, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    slot = model.slots[0]
    slot(h).square().sum().backward()
    assert all(bool(g.any()) for g in seed_gradients(model, 0))


def test_no_two_seeds_share_a_parameter_name() -> None:
    slot = SeedSlot(InjectionSpec("r0c0", 4, 16, segment=0))
    slot.plant("r0c0@1", Norm(4), None)
    first = set(slot.state_dict())
    slot.plant("r0c0@9", Norm(4), None)
    assert not first & set(slot.state_dict())
    slot.clear()
    assert not slot.state_dict()


class Pooling(nn.Module):
    """A value that would broadcast over the image, from the second call on."""

    def __init__(self) -> None:
        super().__init__()
        self.is_first = True

    def forward(self, h: Tensor) -> Tensor:
        value = h if self.is_first else h.mean((2, 3), keepdim=True)
        self.is_first = False
        return value


class PoolingCatalogue(FakeCatalogue):
    def build(self, *_: object) -> nn.Module:
        return Pooling()


def test_a_value_of_another_shape_is_refused_though_it_would_broadcast() -> None:
    model = MorphogeneticModel(make_host("cnn"), PoolingCatalogue(), GrowthConfig(**EAGER), SeedTree(7)).train()
    begin_training(model, 1)
    x, _ = make_batch()
    model(x)
    with pytest.raises(
        BlueprintError, match=r"'conv' in slot r0c1 .* on a value \[6, 6, 4, 4\]: .*shape \[6, 6, 4, 4\].* is \[6, 6, 1, 1\]"
    ):
        model(x)
    assert model.silence("r0c1")
    model(x)
    assert not model.silence("r0c1")
