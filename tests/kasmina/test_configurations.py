from __future__ import annotations

from itertools import chain, combinations
from typing import TYPE_CHECKING, cast

import pytest
import torch
from torch import Tensor

from esper.kasmina.config import GrowthConfig
from esper.kasmina.hosts import CNNHost, CNNHostConfig
from esper.kasmina.model import MorphogeneticModel
from esper.leyline.actions import BlendStyle
from esper.leyline.rng import SeedTree
from tests.fakes.catalogue import FakeCatalogue
from tests.fakes.growth import EAGER, NormedHost, begin_blending, begin_training, fossilize, make_batch, make_host, make_model, run_plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper.leyline.host import HostFamily

ALL = tuple(chain.from_iterable(combinations(range(3), n) for n in range(4)))


class UnsharedHost(CNNHost):
    """A host that wants as many samples behind every slot as at its input."""

    shares_prefixes = False

    def run(self, x: Tensor, visit: Callable[[int, Tensor], Tensor]) -> Tensor:
        def checked(segment: int, value: Tensor) -> Tensor:
            visited = visit(segment, value)
            assert len(visited) == len(value) == len(x)
            return visited

        return super().run(x, checked)


def grown(family: HostFamily = "cnn", model: MorphogeneticModel | None = None) -> MorphogeneticModel:
    model = model or make_model(family)
    fossilize(model, 0)
    begin_blending(model, 1, ticks=2, style=BlendStyle.LINEAR_MULTIPLY)
    begin_blending(model, 2, style=BlendStyle.GATED_GATE)
    return model.eval()


def one_by_one(model: MorphogeneticModel, x: Tensor, slots: tuple[int, ...]) -> Tensor:
    """The network with the other slots' modules left out, written down plainly."""

    def visit(segment: int, value: Tensor) -> Tensor:
        return cast("Tensor", model.slots[segment](value)) if segment in slots else value

    return model.host.run(x, visit)


@pytest.mark.parametrize("family", ["cnn", "transformer", "mlp"])
def test_all_configurations_equal_one_by_one(family: HostFamily) -> None:
    model = grown(family)
    x, _ = make_batch(family)
    logits = model.forward_configurations(x, ALL)
    assert logits.shape[:2] == (len(ALL), len(x))
    for configuration, found in zip(ALL, logits, strict=True):
        torch.testing.assert_close(found, one_by_one(model, x, configuration))
    torch.testing.assert_close(logits[-1], model(x))


@pytest.mark.parametrize("order", [ALL, ALL[::-1], ((1,), (0, 1), (1,), (), (0, 1)), ((0, 2), (0,)), ((), ()), ((2,),)])
def test_order_and_repetition_do_not_matter(order: tuple[tuple[int, ...], ...]) -> None:
    model = grown()
    x, _ = make_batch()
    for configuration, found in zip(order, model.forward_configurations(x, [frozenset(c) for c in order]), strict=True):
        torch.testing.assert_close(found, one_by_one(model, x, configuration))


def test_a_host_whose_prefixes_cannot_be_shared_gives_the_same_answers() -> None:
    host = UnsharedHost(CNNHostConfig(image_size=8, num_classes=5))
    model = grown(model=MorphogeneticModel(host, FakeCatalogue(), GrowthConfig(**EAGER), SeedTree(7)))
    x, _ = make_batch()
    for order in (ALL, ((1,), (0, 1), (1,), ()), ((0, 1, 2),)):
        for configuration, found in zip(order, model.forward_configurations(x, order), strict=True):
            torch.testing.assert_close(found, one_by_one(model, x, configuration))


def test_seeds_that_are_not_heard_change_nothing() -> None:
    model = make_model()
    begin_training(model, 0)
    x, _ = make_batch()
    logits = model.forward_configurations(x, [(0,), (), (0, 1, 2)])
    assert all(torch.equal(found, model.eval()(x)) for found in logits)


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_mutated(training: bool) -> None:
    model = MorphogeneticModel(NormedHost(), FakeCatalogue(), GrowthConfig(**EAGER), SeedTree(7))
    fossilize(model, 0)
    model.train(training)
    model.get_submodule("host.classifier").eval()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    reports = model.seed_reports()
    x, _ = make_batch()
    in_passing = model.forward_configurations(x, ALL)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.seed_reports() == reports
    torch.testing.assert_close(in_passing[-1], model.eval()(x))


def test_configurations_must_exist() -> None:
    model = make_model()
    x, _ = make_batch()
    with pytest.raises(ValueError, match="at least one"):
        model.forward_configurations(x, [])
    with pytest.raises(IndexError, match=r"\[3\]"):
        model.forward_configurations(x, [(0, 3)])


def test_trace_hands_out_the_value_behind_every_slot() -> None:
    model = grown()
    x, _ = make_batch()
    logits, values = model.trace(x)
    assert torch.equal(logits, model(x))
    assert [value.shape[1] for value in values] == [spec.channels for spec in model.specs]
    follow = dict(enumerate(values))
    assert torch.equal(model.host.run(x, lambda segment, _: follow[segment]), logits)
    assert torch.equal(make_model().trace(x)[1][0], run_plain(make_host("cnn"), x)[1][0])
