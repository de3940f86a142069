"""Models that do in a forward pass what training or validation could not bear, and examples that tell nothing."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.wrap import wrap
from esper.leyline.host import WrapError
from esper.leyline.rng import SeedTree
from tests.fakes.growth import run_plain
from tests.fakes.users import NUM_CLASSES, Padded, Vectors, padded, vectors

if TYPE_CHECKING:
    from collections.abc import Callable


class Doing(nn.Module):
    """Does something to its input first."""

    def __init__(self, first: Callable[[Doing, Tensor], Tensor]) -> None:
        super().__init__()
        self.first = first
        self.part = nn.Linear(10, 8)
        self.head = nn.Linear(8, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.part(self.first(self, x))))
        return logits


def _clip_in_training(model: Doing, x: Tensor) -> Tensor:
    return x.clamp_(-1.0, 1.0) if model.training else x


def _write_past_autograd(_: Doing, x: Tensor) -> Tensor:
    x.data.abs_()
    return x


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Sequential(nn.ReLU(inplace=True), Vectors()), r"in evaluation mode \(0: ReLU\(inplace=True\)\).* a copy"),
        (lambda: nn.Sequential(nn.Dropout(inplace=True), Vectors()), r"in training mode \(0: Dropout\(inplace=True\)\)"),
        (lambda: Doing(lambda _, x: x.sub_(1.0)), "in evaluation mode, and would so change the data"),
        (lambda: Doing(_write_past_autograd), "in evaluation mode, and would so change the data"),
        (lambda: Doing(_clip_in_training), "in training mode, and would so change the data"),
    ],
)
def test_a_model_that_writes_to_its_input_is_refused_and_the_example_stays(make: Callable[[], nn.Module], message: str) -> None:
    example = vectors()
    with pytest.raises(WrapError, match="modifies its input in place " + message):
        wrap(make(), "auto", example=example)
    assert torch.equal(example, vectors())


def test_an_example_that_is_not_finite_is_refused_with_the_count() -> None:
    example = vectors()
    example[0, :3] = torch.nan
    with pytest.raises(WrapError, match="finite values, but 3 of 60"):
        wrap(Vectors(), "auto", example=example)
    with pytest.raises(WrapError, match="returns NaN for a finite example in evaluation mode"):
        wrap(Doing(lambda _, x: x / 0.0 * 0.0), "auto", example=vectors())


def test_classes_may_be_ruled_out_by_infinite_logits() -> None:
    class Ruling(Vectors):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return logits.index_fill(1, torch.tensor([1]), -torch.inf)

    assert wrap(Ruling(), ["2"], example=vectors()).num_classes == NUM_CLASSES


def test_inference_mode_is_no_place_to_make_or_wrap_a_model_but_an_example_may_come_from_it() -> None:
    with torch.inference_mode():
        example, made = vectors(), Vectors()
        with pytest.raises(WrapError, match="leave the mode first"):
            wrap(Vectors(), "auto", example=vectors())
    with pytest.raises(WrapError, match="leave the mode first"):
        wrap(made, "auto", example=example)
    assert wrap(Vectors(), ["2"], example=example).slot_modules == {"r0c0": "2"}


def test_a_model_whose_widths_are_still_open_takes_those_of_the_example() -> None:
    host = wrap(nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.Linear(8, NUM_CLASSES)), ["1"], example=vectors())
    assert [(spec.input_channels, spec.output_channels) for spec in host.layer_specs()] == [(10, 8), (8, NUM_CLASSES)]


class Skipping(nn.Module):
    """Leaves a layer out of some training passes (layer drop)."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.stem = nn.Linear(10, 8)
        self.dropped = nn.Linear(8, 8)
        self.head = nn.Linear(8, NUM_CLASSES)
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        if not self.training or self.draw() > 0.3:
            x = x + self.dropped(x)
        logits: Tensor = self.head(x)
        return logits


@pytest.mark.parametrize("draw", [lambda: float(torch.rand(())), random.random, np.random.rand], ids=["torch", "random", "numpy"])
def test_a_slot_that_training_sometimes_leaves_out_is_refused_whatever_draws(draw: Callable[[], float]) -> None:
    for _ in range(3):
        with pytest.raises(WrapError, match=r"'dropped' is left out of some training passes \(it ran in \d+ of 16\)"):
            wrap(Skipping(draw), ["dropped"], example=vectors())
    assert set(wrap(Skipping(draw), "auto", example=vectors()).slot_modules.values()) == {"stem"}


def test_a_model_with_padding_is_wrapped_though_its_encoder_nests() -> None:
    x = padded()
    for example in (x, padded((6, 6))):
        for slots in ("auto", ["embedding", "encoder"]):
            with SeedTree(1).torch_scope():
                host = wrap(Padded(), slots, example=example).eval()
            assert "encoder" in host.slot_modules.values()
            with torch.no_grad():
                torch.testing.assert_close(run_plain(host, x)[0], host.model(x))
                assert not torch.allclose(host.run(x, lambda _, value: value + 1.0), host.model(x))
            assert [spec.flops > 0 for spec in host.layer_specs() if spec.layer_type == "attention"] == [True, True]


def test_a_slot_within_an_encoder_that_nests_is_refused_and_stands_where_it_does_not() -> None:
    with pytest.raises(WrapError, match=r"'encoder\.layers\.0' returns a nested float32 tensor of 4.*enable_nested_tensor=False"):
        wrap(Padded(), ["encoder.layers.0"], example=padded())
    host = wrap(Padded(nests=False), ["encoder.layers.0"], example=padded()).eval()
    with torch.no_grad():
        torch.testing.assert_close(run_plain(host, padded())[0], host.model(padded()))


def test_a_value_that_nests_later_is_named() -> None:
    unaligned = padded().flip(1)
    host = wrap(Padded(), ["encoder.layers.0"], example=unaligned).eval()
    with torch.no_grad(), pytest.raises(WrapError, match=r"r0c0 \(encoder\.layers\.0\).* a nested .*enable_nested_tensor=False"):
        run_plain(host, padded())


class Changeable(nn.Module):
    """A forward pass that leaves its mark on nearly everything, and a parameter that is updated as its gradient arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Linear(10, 8)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, NUM_CLASSES)
        self.dropout = nn.Dropout(0.5)
        self.count = 0
        self.mean = torch.zeros(8)
        self.total = torch.zeros(8)
        self.head.weight.register_post_accumulate_grad_hook(self._update)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.part(x))
        if self.training:
            self.count += 1
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0).detach()
            self.total += x.sum(0).detach()
            self.latest = x
            with torch.no_grad():
                self.part.weight.clamp_(-0.1, 0.1)
        logits: Tensor = self.head(self.dropout(x) + random.random() * np.random.rand() * self.training)  # noqa: NPY002
        return logits

    @staticmethod
    @torch.no_grad()
    def _update(parameter: Tensor) -> None:
        parameter -= 1.0


def everything(model: Changeable) -> dict[str, Any]:
    return {
        **{name: tensor.tolist() for name, tensor in model.state_dict().items()},
        **{f"{name}.grad": None if p.grad is None else p.grad.tolist() for name, p in model.named_parameters()},
        "modes": [module.training for module in model.modules()],
        "count": model.count,
        "mean": model.mean.tolist(),
        "total": model.total.tolist(),
        "has_latest": hasattr(model, "latest"),
        "generators": (torch.random.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),  # type: ignore[index]  # noqa: NPY002
    }


@pytest.mark.parametrize("has_gradients", [False, True])
def test_wrapping_leaves_parameters_gradients_buffers_attributes_and_generators_alone(has_gradients: bool) -> None:
    model = Changeable()
    if has_gradients:
        torch.autograd.backward(model(vectors()).sum())
    model.norm.eval()
    parameters, gradients = list(model.parameters()), [p.grad for p in model.parameters()]
    before = everything(model)
    wrap(model, "auto", example=vectors())
    assert everything(model) == before
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert all(p.grad is gradient for p, gradient in zip(parameters, gradients, strict=True))
