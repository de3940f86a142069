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

import esper
from esper.kasmina.grad_probe import probe
from esper.kasmina.surgery import GrowthTransaction
from esper.kasmina.wrap import wrap
from esper.leyline.actions import BlendStyle
from esper.leyline.host import WrapError
from esper.leyline.layer_ops import BlueprintError
from esper.leyline.rng import SeedTree
from esper.urza import Catalogue
from tests.fakes.catalogue import FakeCatalogue
from tests.fakes.growth import advance, backward, germinate, randomise, run_plain
from tests.fakes.users import NUM_CLASSES, Images, Tokens, Vectors, images, tokens, vectors
from tests.kasmina.wrapping.hosts import growing, wrapped

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper.kasmina.model import MorphogeneticModel
    from esper.leyline.host import HostFamily

CATALOGUE = Catalogue.standard()
ALL_OF_TWO = tuple(chain.from_iterable(combinations(range(2), n) for n in range(3)))


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
