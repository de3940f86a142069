from __future__ import annotations

import copy
import pickle
import threading
from itertools import chain, combinations
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.flop_counter import FlopCounterMode

import esper
from esper.kasmina.config import GrowthConfig
from esper.kasmina.grad_probe import probe
from esper.kasmina.model import MorphogeneticModel
from esper.kasmina.surgery import GrowthTransaction
from esper.kasmina.wrap import WrappedHost, wrap
from esper.leyline.actions import BlendStyle
from esper.leyline.host import WrapError
from esper.leyline.layer_ops import BlueprintError
from esper.leyline.rng import SeedTree
from esper.urza import Catalogue
from tests.fakes.catalogue import FakeCatalogue
from tests.fakes.growth import EAGER, advance, backward, germinate, randomise, run_plain
from tests.fakes.users import NUM_CLASSES, Images, Residual, Tokens, Vectors, images, tokens, vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esper.leyline.host import HostFamily

CATALOGUE = Catalogue.standard()
ALL_OF_TWO = tuple(chain.from_iterable(combinations(range(2), n) for n in range(3)))


def wrapped(family: HostFamily, slots: Sequence[str] | None = None) -> tuple[WrappedHost, Tensor]:
    with SeedTree(1).torch_scope():
        if family == "cnn":
            return wrap(Images(), slots or ["stage1", "stage2"], example=images()), images()
        if family == "transformer":
            return wrap(Tokens(), slots or ["embedding", "encoder.layers.0"], example=tokens()), tokens()
        return wrap(Vectors(), slots or ["2", "4"], example=vectors()), vectors()


def growing(host: WrappedHost, catalogue: Any = None, **config: Any) -> MorphogeneticModel:
    return MorphogeneticModel(host, catalogue or FakeCatalogue(), GrowthConfig(**{**EAGER, **config}), SeedTree(7))


def blending(model: MorphogeneticModel, slot: int, x: Tensor, **options: Any) -> None:
    """A random seed that is half blended in."""
    model.apply(germinate(slot, model.host.family, **options), val_accuracy=20.0)
    model.apply(advance(slot), val_accuracy=20.0)
    randomise(model, slot)
    backward(model, x, torch.zeros(len(x), dtype=torch.long))
    model.observe_gradients()
    model.apply(advance(slot), val_accuracy=20.0)
    model.tick(val_accuracy=20.0, contributions={}, solo={})


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("family", ["cnn", "transformer", "mlp"])
def test_without_seeds_the_model_computes_what_it_did(family: HostFamily) -> None:
    host, x = wrapped(family)
    assert host.family == family
    model = growing(host)
    with torch.no_grad():
        model.eval()
        assert torch.equal(model(x), host.model(x))
        assert torch.equal(host(x), host.model(x))


@pytest.mark.parametrize("family", ["cnn", "transformer", "mlp"])
def test_slots_describe_the_values_they_receive(family: HostFamily) -> None:
    host, x = wrapped(family)
    logits, values = run_plain(host.eval(), x)
    assert logits.shape == (len(x), NUM_CLASSES)
    specs = host.injection_specs()
    assert [spec.slot_id for spec in specs] == ["r0c0", "r0c1"]
    for spec in specs:
        value = values[spec.segment]
        assert value.shape[1 if family == "cnn" else -1] == spec.channels
        assert value[0].numel() == spec.channels * spec.positions


def test_slots_stand_in_execution_order_whatever_the_order_of_names() -> None:
    host = wrap(Images(), ["stage2", "stem", "stage1.0"], example=images())
    assert host.slot_modules == {"r0c0": "stem", "r0c1": "stage1.0", "r0c2": "stage2"}
    assert [spec.channels for spec in host.injection_specs()] == [8, 8, 16]


def test_slots_may_be_given_ids_and_are_offered_row_by_row() -> None:
    host = wrap(Images(), {"stage2": "r0c4", "stage1": "r1c0", "stem": "r0c10"}, example=images())
    assert [spec.slot_id for spec in host.injection_specs()] == ["r0c4", "r0c10", "r1c0"]
    assert host.slot_modules == {"r0c10": "stem", "r1c0": "stage1", "r0c4": "stage2"}
    model = growing(host).eval()
    _, values = model.trace(images())
    assert [value.shape[1] for value in values] == [16, 8, 8]


def test_wrapping_leaves_no_trace() -> None:
    model = Images(dropout=0.3)
    model.stage1.eval()
    before, modes = state(model), [module.training for module in model.modules()]
    ambient = torch.random.get_rng_state()
    wrap(model, "auto", example=images())
    assert same(state(model), before)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), ambient)
    assert all(parameter.grad is None for parameter in model.parameters())


def vgg() -> nn.Module:
    def stage(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]

    return nn.Sequential(*stage(3, 4), *stage(4, 6), *stage(6, 8), nn.Flatten(), nn.Linear(8, NUM_CLASSES))


@pytest.mark.parametrize(
    ("make", "example", "expected"),
    [
        (Images, images, ["stage1", "stage2", "down"]),
        (Tokens, tokens, ["embedding", "encoder.layers.0", "encoder"]),
        (Vectors, vectors, ["0", "2", "4"]),
        (vgg, images, ["2", "5", "8"]),
    ],
)
def test_automatic_slots_stand_behind_blocks_spread_over_the_depth(
    make: Callable[[], nn.Module], example: Callable[[], Tensor], expected: list[str]
) -> None:
    chosen = [wrap(make(), "auto", example=example()).slot_modules for _ in range(2)]
    assert chosen[0] == chosen[1]
    assert set(chosen[0].values()) == set(expected)


def test_automatic_slots_are_as_many_as_wanted_at_most() -> None:
    assert list(wrap(Images(), "auto", example=images(), max_auto_slots=1).slot_modules) == ["r0c0"]
    assert len(wrap(Images(), "auto", example=images(), max_auto_slots=5).slot_modules) == 5
    with pytest.raises(WrapError, match="at least 1"):
        wrap(Images(), "auto", example=images(), max_auto_slots=0)


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


def without_dropout(module: nn.Module) -> nn.Module:
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        if isinstance(part, nn.MultiheadAttention):
            part.dropout = 0.0
    return module


@torch.no_grad()
def difference(model: nn.Module, other: nn.Module, x: Tensor, *, training: bool) -> float:
    """Largest difference of logits; the models' running statistics stay."""
    logits = [without_dropout(copy.deepcopy(module)).train(training)(x) for module in (model, other)]
    return float((logits[0] - logits[1]).abs().max())


@pytest.mark.parametrize("family", ["cnn", "transformer", "mlp"])
@pytest.mark.parametrize("slot", [0, 1])
def test_a_new_seed_changes_nothing_bit_for_bit(family: HostFamily, slot: int) -> None:
    host, x = wrapped(family)
    for name in CATALOGUE.names(family):
        model = growing(copy.deepcopy(host), CATALOGUE)
        for action in (germinate(slot, family)._replace(blueprint=CATALOGUE.place(name)), advance(slot)):
            model.apply(action, val_accuracy=0.0)
            assert [difference(model, host, x, training=training) for training in (False, True)] == [0.0, 0.0], name


@pytest.mark.parametrize(
    ("family", "slots", "is_shared"),
    [
        ("cnn", ["stage1", "stage2.0"], True),
        ("cnn", ["stage1.0.conv1", "stage2"], False),
        ("transformer", ["embedding", "encoder.layers.0"], True),
        ("transformer", ["encoder.layers.0.linear1", "encoder.layers.1.linear2"], False),
        ("mlp", ["2", "4"], True),
    ],
)
def test_all_configurations_equal_one_by_one(family: HostFamily, slots: list[str], is_shared: bool) -> None:
    host, x = wrapped(family, slots)
    assert host.shares_prefixes is is_shared
    model = growing(host)
    blending(model, 0, x)
    blending(model, 1, x, style=BlendStyle.GATED_GATE)
    for order in (ALL_OF_TWO, ((1,), (0, 1), (1,))):
        found = model.forward_configurations(x, order)
        model.eval()
        for configuration, logits in zip(order, found, strict=True):
            expected = host.run(x, lambda segment, value, on=configuration: model.slots[segment](value) if segment in on else value)  # type: ignore[misc]
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert float((found[0] - found[1]).abs().max()) > 0


@pytest.mark.parametrize("is_shared", [True, False])
def test_batch_statistics_rest_in_every_evaluation_and_move_once_a_batch(is_shared: bool) -> None:
    host, x = wrapped("cnn", ["stage1", "stage2"] if is_shared else ["stage1.0.conv1", "stage2"])
    model = growing(host)
    blending(model, 0, x)
    model.train()
    y = torch.arange(len(x)) % NUM_CLASSES
    buffers = {name: buffer.clone() for name, buffer in host.named_buffers()}
    model.forward_configurations(x, ALL_OF_TWO)
    probe(model, x, y)
    with torch.no_grad():
        model.eval()(x)
        model.trace(x)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in host.named_buffers())
    model.train()(x)
    counted = {name for name, _ in host.named_buffers() if name.endswith("num_batches_tracked")}
    assert len(counted) == 4
    assert all(int(dict(host.named_buffers())[name]) == int(buffers[name]) + 1 for name in counted)


def test_a_probe_gives_the_same_answer_whatever_dropout_draws() -> None:
    with SeedTree(1).torch_scope():
        model = growing(wrap(Images(dropout=0.5), ["stage1", "stage2"], example=images()))
    x, y = images(), torch.arange(6) % NUM_CLASSES
    assert probe(model, x, y) == probe(model, x, y)


def test_frozen_parameters_stay_frozen_and_out_of_the_optimizer() -> None:
    user = Images()
    user.stem.requires_grad_(False)
    user.stage1.requires_grad_(False)
    model = growing(wrap(user, ["stage1", "stage2"], example=images()))
    before = state(user.stem[0])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    with GrowthTransaction(model, optimizer):
        model.apply(germinate(0), val_accuracy=0.0)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert not held & {id(p) for p in [*user.stem.parameters(), *user.stage1.parameters()]}
    assert held == {id(p) for p in model.parameters() if p.requires_grad}
    backward(model, images(), torch.zeros(6, dtype=torch.long))
    optimizer.step()
    assert same(state(user.stem[0]), before)
    found = probe(model, images(), torch.zeros(6, dtype=torch.long))
    assert all(slot.gradient_norm > 0 for slot in found.slots), "a slot behind frozen layers has a gradient all the same"
    assert found.layers[0].gradient_norm is None


class Tied(nn.Module):
    """Reads tokens out with the table that embedded them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 12)
        self.inner = nn.Linear(12, 12)
        self.head = nn.Linear(12, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.inner(self.embedding(x))))
        return logits


def test_tied_weights_stay_tied() -> None:
    model = growing(wrap(Tied(), ["embedding", "inner"], example=tokens()))
    optimizer = torch.optim.AdamW(model.parameters())
    with GrowthTransaction(model, optimizer):
        model.apply(germinate(1, "transformer"), val_accuracy=0.0)
    snapshot = model.snapshot()
    x = tokens()
    assert model(x).shape == (6, 6, 11)
    found = probe(model, x, x)
    assert found.layers[0].gradient_norm == pytest.approx(found.layers[-1].gradient_norm)
    torch.autograd.backward(F.cross_entropy(model(x).flatten(0, 1), x.flatten()))
    optimizer.step()
    model.restore(snapshot)
    for twin in (model, copy.deepcopy(model)):
        assert twin.get_submodule("host.model.head").weight is twin.get_submodule("host.model.embedding").weight


def test_a_snapshot_brings_running_statistics_back() -> None:
    host, x = wrapped("cnn")
    model = growing(host)
    snapshot, before = model.snapshot(), state(host)
    model.train()(10 * x + 3)
    assert not same(state(host), before)
    model.restore(snapshot)
    assert same(state(host), before)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_are_whole_and_independent(copied: Callable[[Any], Any]) -> None:
    host, x = wrapped("cnn")
    model = growing(host)
    blending(model, 0, x)
    model.eval()
    before = model(x)
    twin = copied(model)
    assert torch.equal(twin(x), before)
    assert torch.equal(twin.forward_configurations(x, [(0,)])[0], before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert not twin(x).any()
    assert torch.equal(model(x), before)


def test_a_visit_that_fails_leaves_nothing_behind() -> None:
    host, x = wrapped("cnn")
    host.eval()
    calls: list[int] = []

    def fail(segment: int, value: Tensor) -> Tensor:
        calls.append(segment)
        raise ArithmeticError("on purpose")

    expected = host.model(x)
    with pytest.raises(ArithmeticError, match="on purpose"):
        host.run(x, fail)
    assert torch.equal(host.model(x), expected)
    assert torch.equal(run_plain(host, x)[0], expected)
    assert calls == [0]


def test_threads_do_not_visit_one_another() -> None:
    host, x = wrapped("cnn")
    host.eval()
    expected = {factor: host.run(x, lambda _, value, f=factor: value * f) for factor in (0.5, 1.0, 2.0)}  # type: ignore[misc]
    wrong: list[float] = []

    def work(factor: float) -> None:
        for _ in range(20):
            with torch.no_grad():
                if not torch.allclose(host.run(x, lambda _, value: value * factor), expected[factor], rtol=1e-4):
                    wrong.append(factor)

    threads = [threading.Thread(target=work, args=(factor,)) for factor in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class Fickle(nn.Module):
    """Its part's output becomes narrower, or its part is left out, when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.part = FickleLinear(10, 8)
        self.head = nn.Linear(8, NUM_CLASSES)
        self.times = 1

    def forward(self, x: Tensor) -> Tensor:
        value = x[:, :8]
        for _ in range(self.times):
            value = self.part(x)
        logits: Tensor = self.head(F.pad(value, (0, 8 - value.shape[1])))
        return logits


class FickleLinear(nn.Linear):
    width = 8

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(input)[:, : self.width]


def test_a_slot_whose_value_changes_its_shape_is_named_with_both_shapes() -> None:
    user = Fickle()
    model = growing(wrap(user, ["part"], example=vectors()))
    user.part.width = 6
    with pytest.raises(WrapError, match=r"slot r0c0 \(part\).*\[6, 6\].*\[B, 8\] when it was wrapped"):
        model(vectors())


@pytest.mark.parametrize(("times", "message"), [(0, "did not run"), (2, "ran twice")])
def test_a_slot_that_is_passed_by_or_visited_twice_is_named(times: int, message: str) -> None:
    user = Fickle()
    model = growing(wrap(user, ["part"], example=vectors()))
    user.times = times
    with pytest.raises(WrapError, match=rf"r0c0 \(part\).* {message}"):
        model(vectors())


def test_other_image_sizes_flow_through() -> None:
    host, _ = wrapped("cnn")
    model = growing(host)
    blending(model, 0, images())
    assert model(torch.randn(4, 3, 12, 12, generator=SeedTree(0).torch())).shape == (4, NUM_CLASSES)


class Squeezing(nn.Module):
    """Loses the batch axis of a single sample, as `squeeze()` without an axis does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.head = nn.Linear(6, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.conv(x)).mean((2, 3), keepdim=True).squeeze())
        return logits


def test_a_single_sample_is_evaluated_even_where_the_model_does_not_take_it() -> None:
    host = wrap(Squeezing(), ["conv"], example=images())
    model = growing(host)
    blending(model, 0, images())
    x = images()
    together = model.forward_configurations(x, [(0,), ()])
    alone = torch.cat([model.forward_configurations(x[i : i + 1], [(0,), ()]) for i in range(len(x))], dim=1)
    torch.testing.assert_close(alone, together)
    torch.testing.assert_close(model.forward_configurations(x[:1], [()])[0], together[1, :1])


@pytest.mark.parametrize(("make", "example"), [(Squeezing, images), (Vectors, vectors)])
def test_training_on_a_single_sample_is_refused_where_it_cannot_be_right(
    make: Callable[[], nn.Module], example: Callable[[], Tensor]
) -> None:
    host = wrap(make(), ["conv" if make is Squeezing else "2"], example=example())
    assert host.min_train_batch == 2
    with pytest.raises(WrapError, match="cannot be trained on a batch of 1"):
        growing(host).train()(example()[:1])
    assert wrap(Images(), ["stage1"], example=images()).min_train_batch == 1


@pytest.mark.parametrize("family", ["cnn", "transformer", "mlp"])
def test_layers_are_submodules_and_account_for_every_parameter(family: HostFamily) -> None:
    host, x = wrapped(family)
    layers = host.layer_specs()
    for layer in layers:
        assert sum(p.numel() for p in host.get_submodule(layer.layer_id).parameters()) == layer.num_parameters
    assert sum(layer.num_parameters for layer in layers) == sum(p.numel() for p in host.parameters())
    segments = [layer.segment for layer in layers]
    assert segments == sorted(segments)
    assert segments[-1] == 2
    found = probe(growing(host), x, torch.arange(len(x)) % NUM_CLASSES)
    assert all(layer.weight_norm is not None and layer.gradient_norm is not None for layer in found.layers)


def test_layers_tell_their_kind_activation_dropout_and_widths() -> None:
    layers = {spec.layer_id: spec for spec in wrap(Images(dropout=0.25), ["stage1"], example=images()).layer_specs()}
    kinds = {
        name.removeprefix("model."): (s.layer_type, s.activation_type, s.input_channels, s.output_channels) for name, s in layers.items()
    }
    assert kinds["stem.0"] == ("conv2d", None, 3, 8)
    assert kinds["stem.1"] == ("batch_norm", "relu", 8, 8)
    assert kinds["head"] == ("linear", None, 16, NUM_CLASSES)
    read = {spec.layer_id: spec for spec in wrap(Tokens(), ["embedding"], example=tokens()).layer_specs()}
    assert read["model.embedding"].layer_type == "embedding"
    attention = read["model.encoder.layers.0.self_attn"]
    assert (attention.layer_type, attention.dropout_rate, attention.flops) == ("attention", 0.1, 6 * (4 * 12 * 12 + 2 * 6 * 12))
    assert [s.activation_type for s in wrap(Vectors(), ["2"], example=vectors()).layer_specs()] == [None, "tanh", "gelu", None]


def test_costs_are_what_torch_counts() -> None:
    user = Images().eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        user(images(1))
    layers = wrap(user, ["stage1"], example=images()).layer_specs()
    assert sum(s.flops for s in layers if s.layer_type in ("conv2d", "linear")) == counter.get_total_flops() // 2


def test_the_layers_of_a_large_model_are_told_by_blocks() -> None:
    deep = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(*(Residual(4) for _ in range(30))), nn.Flatten(), nn.Linear(256, NUM_CLASSES))
    host = wrap(deep, {"1.3": "r0c0", "1": "r0c1"}, example=images())
    layers = host.layer_specs()
    assert [s.layer_id for s in layers] == ["model.0", *(f"model.1.{i}" for i in range(30)), "model.3"]
    assert sum(s.num_parameters for s in layers) == sum(p.numel() for p in host.parameters())
    assert growing(host).slot_layers() == (4, 30)


def test_a_seed_that_fails_in_a_forward_pass_is_named() -> None:
    class Bad(nn.Module):
        def forward(self, h: Tensor) -> Tensor:
            raise ZeroDivisionError("bad seed")

    class BadCatalogue(FakeCatalogue):
        def build(self, *_: Any) -> nn.Module:
            return Bad()

    host, x = wrapped("cnn")
    model = growing(host, BadCatalogue())
    model.apply(germinate(1), val_accuracy=0.0)
    model.apply(advance(1), val_accuracy=0.0)
    with pytest.raises(BlueprintError, match=r"'conv' in slot r0c1 .*\[6, 16, 4, 4\].*bad seed"):
        model.train()(x)
    model.prune_all("policy")
    assert torch.equal(model.eval()(x), host.model(x))


def test_the_door_leads_to_wrap() -> None:
    assert esper.wrap is wrap
    assert esper.WrapError is WrapError
    with pytest.raises(AttributeError, match="'unwrap'"):
        _ = esper.unwrap
