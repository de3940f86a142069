"""Models and slots that cannot be used are refused, by name and with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from esper.kasmina.wrap import wrap
from esper.leyline.host import WrapError
from tests.fakes.users import NUM_CLASSES, Images, Tokens, images, tokens, vectors

if TYPE_CHECKING:
    from collections.abc import Callable


class Returning(nn.Module):
    """A model whose parts or result are not what a slot or a loss can use."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body = nn.Linear(10, 8)
        self.part = Part(kind)
        self.head = nn.Linear(8, NUM_CLASSES)
        self.spare = nn.Linear(10, 8)
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        value = self.body(x)
        made = self.part(value)
        if self.kind == "ignored":
            return self.head(value)
        if self.kind == "inplace":
            made.mul_(2.0)
        logits = self.head(
            made[0] if isinstance(made, tuple) else made.float() if self.kind == "integers" else made.reshape(len(x), -1)[:, :8]
        )
        return (logits,) if self.kind == "tuple of logits" else {"logits": logits} if self.kind == "dict of logits" else logits


class Part(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        if self.kind == "tuple":
            return x + 1.0, x
        if self.kind == "five axes":
            return x[:, :, None, None, None] + 1.0
        return x.round().long() if self.kind == "integers" else x + 1.0


@pytest.mark.parametrize(
    ("kind", "slot", "message"),
    [
        ("plain", "bod", r"'bod' is no submodule .* did you mean body"),
        ("plain", "zzz", r"'zzz' is no submodule .* it has body, part, head, spare"),
        ("plain", "", r"'' is no submodule"),
        ("plain", "spare", r"'spare' never runs"),
        ("tuple", "part", r"'part' returns a tuple of 2; a slot needs one plain tensor"),
        ("five axes", "part", r"'part' returns a value \[6, 8, 1, 1, 1\]; a slot takes \[B, C, H, W\]"),
        ("integers", "part", r"'part' returns a int64 tensor .* floating-point"),
        ("inplace", "part", r"'part' has its output modified in place"),
        ("ignored", "part", r"no gradient flows .* 'part'"),
        ("tuple of logits", "part", r"returns a tuple of 1 .* it should return logits \[6, classes\]"),
        ("dict of logits", "part", r"returns a dict of 1 .* logits"),
    ],
)
def test_what_cannot_carry_a_slot_is_refused_by_name(kind: str, slot: str, message: str) -> None:
    with pytest.raises(WrapError, match=message):
        wrap(Returning(kind), [slot], example=vectors())


def test_a_submodule_that_runs_twice_is_refused() -> None:
    with pytest.raises(WrapError, match=r"'stage1\.0\.act' runs 2 times .* the block around it"):
        wrap(Images(), ["stage1.0.act"], example=images())


def test_a_module_that_changes_a_slots_value_in_place_is_named() -> None:
    with pytest.raises(WrapError, match=r"'stem\.1' has its output modified in place .*\(stem\.2: ReLU\(inplace=True\)\)"):
        wrap(Images(), ["stem.1"], example=images())
    trained = nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Dropout(0.5, inplace=True), nn.Linear(8, NUM_CLASSES))
    with pytest.raises(WrapError, match=r"'1' has its output modified in place .*\(2: Dropout\(inplace=True\)\)"):
        wrap(trained, ["1"], example=vectors())


def test_slots_of_different_families_are_refused() -> None:
    with pytest.raises(WrapError, match=r"one family.*'stage1' cnn, 'dropout' mlp"):
        wrap(Images(), ["stage1", "dropout"], example=images())


class Transposing(nn.Module):
    """Puts the batch, or the channels, into another axis on the way."""

    def __init__(self, part: nn.Module, axes: tuple[int, int], back: tuple[int, int]) -> None:
        super().__init__()
        self.part = part
        self.embedding = nn.Embedding(11, 12)
        self.head = nn.Linear(12, NUM_CLASSES)
        self.axes, self.back = axes, back

    def forward(self, x: Tensor) -> Tensor:
        value = self.part(self.embedding(x).transpose(*self.axes)).transpose(*self.back)
        logits: Tensor = self.head(value.mean(1))
        return logits


def test_values_with_their_axes_in_another_order_are_refused() -> None:
    with pytest.raises(WrapError, match=r"batch in axis 1"):
        wrap(Transposing(nn.Linear(12, 12), (0, 1), (0, 1)), ["part"], example=tokens(4))
    with pytest.raises(WrapError, match=r"channels are in axis 1"):
        wrap(Transposing(nn.Conv1d(12, 12, 1), (1, 2), (1, 2)), ["part"], example=tokens(4))


def test_models_that_mix_samples_are_refused() -> None:
    with pytest.raises(WrapError, match="other samples of its batch"):
        wrap(Tokens(batch_first=False), "auto", example=tokens())
    unsteady = nn.Sequential(nn.Linear(10, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, NUM_CLASSES))
    with pytest.raises(WrapError, match=r"at 1 depends .*running statistics"):
        wrap(unsteady, ["1"], example=torch.zeros(2, 10))


class Odd(nn.Module):
    """Does something in its forward pass that it should not."""

    def __init__(self, doing: Callable[[Odd, Tensor], Tensor]) -> None:
        super().__init__()
        self.part = nn.Linear(10, 8)
        self.head = nn.Linear(8, NUM_CLASSES)
        self.count: Tensor
        self.register_buffer("count", torch.zeros(()))
        self.doing = doing

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.doing(self, self.part(x)))
        return logits


def _count_up(model: Odd, x: Tensor) -> Tensor:
    model.count = model.count + 1
    return x


def _fail_in_training(model: Odd, x: Tensor) -> Tensor:
    if model.training:
        raise RuntimeError("no training here")
    return x


@pytest.mark.parametrize(
    ("doing", "message"),
    [
        (lambda _, x: F.dropout(x), "random numbers in evaluation mode"),
        (_count_up, "writes to the buffers count"),
        (_fail_in_training, "fails in training mode .* no training here"),
        (lambda _, x: x[:, :4], "fails in evaluation mode"),
    ],
)
def test_models_that_cannot_be_evaluated_or_trained_are_refused(doing: Callable[[Odd, Tensor], Tensor], message: str) -> None:
    model = Odd(doing)
    with pytest.raises(WrapError, match=message):
        wrap(model, ["part"], example=vectors())
    assert float(model.count) == 0.0


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        ("stage1", r"\['stage1'\]"),
        ([], "at least one"),
        (["stage1", "stage1"], "each one once"),
        ({"stage1": "first"}, "'r0c1'"),
        ({"stage1": "r0c0", "stage2": "r0c0"}, "of its own"),
    ],
)
def test_malformed_slots_are_refused(slots: Any, message: str) -> None:
    with pytest.raises(WrapError, match=message):
        wrap(Images(), slots, example=images())


def test_examples_and_models_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(WrapError, match="at least 2 inputs"):
        wrap(Images(), "auto", example=images(1))
    with pytest.raises(WrapError, match="int64 tokens"):
        wrap(Tokens(), "auto", example=tokens().int())
    with pytest.raises(WrapError, match=r"every parameter .* frozen"):
        wrap(Images().requires_grad_(False), "auto", example=images())
    with pytest.raises(WrapError, match="no parameters"):
        wrap(nn.Flatten(), "auto", example=images())
    with pytest.raises(WrapError, match="finds no place"):
        wrap(nn.Sequential(nn.Flatten(), nn.Linear(192, NUM_CLASSES)), "auto", example=images())
