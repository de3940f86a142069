"""Models whose gradients are switched off or whose values are computed again: seeds learn in them, or are refused."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from esper.kasmina.config import GrowthConfig
from esper.kasmina.grad_probe import probe
from esper.kasmina.model import MorphogeneticModel
from esper.kasmina.wrap import wrap
from esper.leyline.host import WrapError
from esper.leyline.layer_ops import BlueprintError
from esper.leyline.rng import SeedTree
from tests.fakes.catalogue import FakeCatalogue
from tests.fakes.growth import EAGER, advance, germinate, randomise
from tests.fakes.users import NUM_CLASSES, Backboned, vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Kind = Literal["plain", "no_grad", "reentrant", "recomputed"]
LABELS = torch.arange(6) % NUM_CLASSES


def growing(kind: Kind, slots: Sequence[str], catalogue: Any = None, *, is_heard: bool = False, **options: Any) -> MorphogeneticModel:
    """A seed behind every slot, that learns unheard or is half blended in."""
    with SeedTree(1).torch_scope():
        host = wrap(Backboned(kind, **options), slots, example=vectors())
    model = MorphogeneticModel(host, catalogue or FakeCatalogue(), GrowthConfig(**EAGER), SeedTree(7)).train()
    for slot in range(len(slots)):
        for action in (germinate(slot, "mlp"), advance(slot)):
            model.apply(action, val_accuracy=20.0)
        if catalogue is None:
            randomise(model, slot)
    if is_heard:
        gradients(model)
        model.observe_gradients()
        for slot in range(len(slots)):
            model.apply(advance(slot), val_accuracy=20.0)
        model.tick(val_accuracy=20.0, contributions={}, solo={})
        model.zero_grad(set_to_none=True)
    return model


def gradients(model: MorphogeneticModel) -> dict[str, Tensor]:
    with SeedTree(5).torch_scope():
        torch.autograd.backward(F.cross_entropy(model(vectors()), LABELS))
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["recomputed", "reentrant"])
@pytest.mark.parametrize("slots", [["body"], ["body.1", "body.4"], ["stem", "body.3"]])
@pytest.mark.parametrize("is_heard", [False, True])
def test_gradients_are_the_same_where_values_are_computed_again(kind: Kind, slots: list[str], is_heard: bool) -> None:
    expected = gradients(growing("plain", slots, dropout=0.3, is_heard=is_heard))
    model = growing(kind, slots, always=False, dropout=0.3, is_heard=is_heard)
    assert len(model.live_slots()) == len(slots) * is_heard
    found = gradients(model)
    assert {name for name in found if name.startswith("slots.")} == {name for name, _ in model.named_parameters() if "slots." in name}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name])


def test_what_is_always_computed_again_is_probed_as_any_other() -> None:
    found, expected = (probe(growing(kind, ["body.1", "body"], is_heard=True), vectors(), LABELS) for kind in ("recomputed", "plain"))
    assert [slot.gradient_norm for slot in found.slots] == pytest.approx([slot.gradient_norm for slot in expected.slots])
    assert [slot.gradient_norm > 0 for slot in found.slots] == [True, True]


def test_seeds_stand_at_their_slots_only_in_passes_of_the_host() -> None:
    model = growing("recomputed", ["body"], is_heard=True)
    user, x = model.host.model, vectors()  # type: ignore[attr-defined]
    expected = user(x)
    loss = F.cross_entropy(model(x), LABELS)
    assert torch.equal(user(x), expected)
    torch.autograd.backward(loss)
    assert torch.equal(user(x), expected)
    before = torch.autograd.grad(expected.sum(), list(user.parameters()))
    for a, b in zip(before, torch.autograd.grad(user(x).sum(), list(user.parameters())), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("slots", [["body"], ["body.1"]])
@pytest.mark.parametrize(
    ("kind", "always"), [("no_grad", True), ("no_grad", False), ("reentrant", True)], ids=["no_grad", "in training", "reentrant"]
)
def test_a_slot_where_gradients_are_off_is_refused(kind: Kind, always: bool, slots: list[str]) -> None:
    with pytest.raises(WrapError, match=rf"no gradient flows .* '{slots[0]}', .*never learn.*torch\.no_grad\(\)"):
        wrap(Backboned(kind, always=always), slots, example=vectors())


def test_automatic_slots_stand_where_seeds_can_learn() -> None:
    plain, recomputed = (wrap(Backboned(kind), "auto", example=vectors()) for kind in ("plain", "recomputed"))
    assert recomputed.slot_modules == plain.slot_modules
    assert {"stem", "body"} < set(plain.slot_modules.values())
    with pytest.raises(WrapError, match="finds no place"):
        wrap(Backboned("no_grad"), "auto", example=vectors())


def test_a_model_that_cannot_be_asked_for_gradients_is_refused_in_plain_words() -> None:
    with pytest.raises(WrapError, match=r"gradients of the Backboned cannot be had in evaluation mode: .*use_reentrant=False"):
        wrap(Backboned("reentrant"), "auto", example=vectors())

    class OnlyForward(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            value = super().forward(x).exp()
            return value.mul_(2.0) if self.training else value

    with pytest.raises(WrapError, match=r"cannot be had in training mode: .*inplace operation"):
        wrap(nn.Sequential(nn.Linear(10, 8), nn.ReLU(), OnlyForward(8, NUM_CLASSES)), ["1"], example=vectors())


class FailsAgain(nn.Linear):
    """A seed that fails whenever it is told to."""

    fails = False

    def forward(self, x: Tensor) -> Tensor:
        if type(self).fails:
            raise ZeroDivisionError("not again")
        return super().forward(x)


class FailsAgainCatalogue(FakeCatalogue):
    def build(self, *_: Any) -> nn.Module:
        return FailsAgain(8, 8)


@pytest.mark.parametrize("copied", [lambda value: value, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_backward_pass_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, copied: Callable[[Any], Any]) -> None:
    model = growing("recomputed", ["body"], FailsAgainCatalogue())
    loss = F.cross_entropy(model(vectors()), LABELS)
    monkeypatch.setattr(FailsAgain, "fails", True)
    with pytest.raises(BlueprintError, match="not again"), model.naming_faults():
        torch.autograd.backward(loss)
    model = copied(model)
    model.prune_all("test")
    model.zero_grad(set_to_none=True)
    expected = {name: gradient for name, gradient in gradients(growing("plain", ["body"])).items() if name.startswith("host.")}
    torch.testing.assert_close(gradients(model), expected)
