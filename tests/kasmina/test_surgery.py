from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from esper.kasmina.config import GrowthConfig
from esper.kasmina.model import MorphogeneticModel
from esper.kasmina.surgery import GrowthError, GrowthTransaction
from esper.leyline.actions import BlendStyle, FactoredAction, LifecycleOp
from esper.leyline.layer_ops import BlueprintError
from esper.leyline.rng import SeedTree
from tests.fakes.catalogue import FakeCatalogue
from tests.fakes.growth import (
    EAGER,
    advance,
    backward,
    begin_holding,
    begin_training,
    end_epoch,
    germinate,
    make_batch,
    make_host,
    make_model,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

OPTIMIZERS: dict[str, Callable[[Iterable[Tensor]], Optimizer]] = {
    "sgd": lambda parameters: SGD(parameters, lr=0.1, momentum=0.9),
    "adam": lambda parameters: Adam(parameters, lr=0.01),
    "adamw": lambda parameters: AdamW(parameters, lr=0.01, fused=True),
}


@pytest.fixture(params=OPTIMIZERS)
def make_optimizer(request: pytest.FixtureRequest) -> Callable[[Iterable[Tensor]], Optimizer]:
    return OPTIMIZERS[request.param]


def train(model: MorphogeneticModel, optimizer: Optimizer) -> None:
    backward(model, *make_batch(model.host.family))
    optimizer.step()


def state_by_name(model: nn.Module, optimizer: Optimizer) -> dict[str, dict[str, Any]]:
    copies = {}
    for name, parameter in model.named_parameters():
        if parameter in optimizer.state:
            copies[name] = {k: v.clone() if isinstance(v, Tensor) else v for k, v in optimizer.state[parameter].items()}
    return copies


def equal_states(a: dict[str, dict[str, Any]], b: dict[str, dict[str, Any]]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(torch.as_tensor(a[n][k]), torch.as_tensor(b[n][k])) for n in a for k in a[n])


def held(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def grow(model: MorphogeneticModel, optimizer: Optimizer, slot: int = 1) -> None:
    for action in (germinate(slot, model.host.family), advance(slot)):
        with GrowthTransaction(model, optimizer):
            model.apply(action, val_accuracy=0.0)


def test_a_new_seed_really_learns_and_the_host_keeps_its_moments(make_optimizer: Callable[[Iterable[Tensor]], Optimizer]) -> None:
    model = make_model()
    optimizer = make_optimizer(model.parameters())
    train(model, optimizer)
    moments = state_by_name(model, optimizer)
    optimizer.param_groups[0]["lr"] = 0.003
    grow(model, optimizer)
    assert equal_states(state_by_name(model, optimizer), moments)
    assert [group["lr"] for group in optimizer.param_groups] == [0.003]
    before = [p.clone() for p in model.slots[1].parameters()]
    train(model, optimizer)
    assert before
    assert all(not torch.equal(p, old) for p, old in zip(model.slots[1].parameters(), before, strict=True))


def test_growth_does_not_disturb_the_hosts_training(make_optimizer: Callable[[Iterable[Tensor]], Optimizer]) -> None:
    plain, grown = make_model(), make_model()
    plain_optimizer, optimizer = make_optimizer(plain.parameters()), make_optimizer(grown.parameters())
    for step in range(4):
        train(plain, plain_optimizer)
        train(grown, optimizer)
        if step == 1:
            grow(grown, optimizer)
    hosts = (plain.get_submodule("host").parameters(), grown.get_submodule("host").parameters())
    assert all(torch.equal(a, b) for a, b in zip(*hosts, strict=True))


def test_a_pruned_seed_leaves_with_its_state(make_optimizer: Callable[[Iterable[Tensor]], Optimizer]) -> None:
    model = make_model()
    optimizer = make_optimizer(model.parameters())
    grow(model, optimizer)
    train(model, optimizer)
    with GrowthTransaction(model, optimizer):
        model.apply(FactoredAction(op=LifecycleOp.PRUNE, slot=1), val_accuracy=0.0)
    alive = set(model.parameters())
    assert set(held(optimizer)) == alive
    assert set(optimizer.state) == alive


def test_a_withering_seed_leaves_the_optimizer_and_stands_still(make_optimizer: Callable[[Iterable[Tensor]], Optimizer]) -> None:
    model = make_model()
    begin_holding(model, 0)
    optimizer = make_optimizer(model.parameters())
    train(model, optimizer)
    with GrowthTransaction(model, optimizer):
        model.apply(FactoredAction(op=LifecycleOp.PRUNE, slot=0, alpha_speed=3), val_accuracy=0.0)
    frozen = list(model.slots[0].parameters())
    before = [p.clone() for p in frozen]
    train(model, optimizer)
    assert frozen
    assert not set(frozen) & set(held(optimizer))
    assert not set(frozen) & set(optimizer.state)
    assert all(torch.equal(p, old) for p, old in zip(frozen, before, strict=True))


def test_a_new_gate_is_trained() -> None:
    model = make_model()
    begin_holding(model, 0)
    optimizer = AdamW(model.parameters())
    with GrowthTransaction(model, optimizer):
        model.apply(FactoredAction(op=LifecycleOp.SET_ALPHA_TARGET, slot=0, style=BlendStyle.GATED_GATE), val_accuracy=0.0)
    assert set(held(optimizer)) == set(model.parameters())


def test_a_replaced_tensor_inherits_the_state_of_its_name() -> None:
    model = make_model("mlp")
    optimizer = Adam(model.parameters())
    train(model, optimizer)
    moments = state_by_name(model, optimizer)
    classifier = model.get_submodule("host.classifier")
    with GrowthTransaction(model, optimizer):
        classifier.weight = nn.Parameter(torch.zeros(5, 8))
        classifier.bias = nn.Parameter(torch.zeros(6))
    kept = state_by_name(model, optimizer)
    assert set(held(optimizer)) == set(model.parameters())
    assert torch.equal(kept["host.classifier.weight"]["exp_avg"], moments["host.classifier.weight"]["exp_avg"])
    assert "host.classifier.bias" not in kept


def test_a_failed_change_leaves_no_trace() -> None:
    model = make_model()
    begin_training(model, 0)
    optimizer = AdamW(model.parameters())
    train(model, optimizer)
    state, reports, moments = model.state_dict(), model.seed_reports(), state_by_name(model, optimizer)
    state = {name: tensor.clone() for name, tensor in state.items()}
    parameters, groups = list(model.parameters()), held(optimizer)
    with pytest.raises(RuntimeError, match="on purpose"), GrowthTransaction(model, optimizer):
        model.apply(germinate(2), val_accuracy=80.0)
        model.prune_all("governor")
        end_epoch(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
        raise RuntimeError("on purpose")
    assert list(map(id, model.parameters())) == list(map(id, parameters))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert model.seed_reports() == reports
    assert list(map(id, held(optimizer))) == list(map(id, groups))
    assert equal_states(state_by_name(model, optimizer), moments)
    train(model, optimizer)
    model.apply(germinate(2), val_accuracy=80.0)


def test_a_seed_that_cannot_be_built_leaves_no_trace() -> None:
    class Broken(FakeCatalogue):
        def build(self, *_: Any) -> nn.Module:
            raise OSError("no such blueprint file")

    model = MorphogeneticModel(make_host("cnn"), Broken(), GrowthConfig(**EAGER), SeedTree(0))
    optimizer = AdamW(model.parameters())
    with pytest.raises(BlueprintError, match=r"'conv' in slot r0c0 .*no such blueprint file"), GrowthTransaction(model, optimizer):
        model.apply(germinate(0), val_accuracy=0.0)
    assert model.seed_reports() == (None, None, None)
    assert len(held(optimizer)) == len(list(model.parameters()))


@pytest.mark.parametrize("fault", ["missing", "repeated"])
def test_a_parameter_outside_the_optimizer_is_found(fault: str) -> None:
    model = make_model("mlp")
    parameters = list(model.parameters())
    optimizer = SGD(parameters[1:], lr=0.1) if fault == "missing" else SGD(parameters, lr=0.1)
    if fault == "repeated":
        optimizer.param_groups.append({**optimizer.param_groups[0], "params": parameters[:1]})
    with pytest.raises(GrowthError, match=r"layers\.0\.linear\.weight") as caught, GrowthTransaction(model, optimizer):
        model.apply(germinate(0, "mlp"), val_accuracy=0.0)
    assert getattr(caught.value, fault)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert model.seed_reports() == (None, None, None)


def test_parameters_of_others_and_other_groups_stay_where_they_are() -> None:
    model = make_model("mlp")
    foreign = nn.Parameter(torch.ones(3))
    host = list(model.parameters())
    groups: list[dict[str, Any]] = [{"params": [foreign], "lr": 0.5}, {"params": host[:2]}, {"params": host[2:]}]
    optimizer = AdamW(groups, lr=0.1)
    with GrowthTransaction(model, optimizer, group=1):
        model.apply(germinate(0, "mlp"), val_accuracy=0.0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.1, 0.1]
    assert optimizer.param_groups[0]["params"] == [foreign]
    assert len(optimizer.param_groups[1]["params"]) == 2 + len(list(model.slots[0].parameters()))


def test_named_groups_keep_names_and_parameters_together() -> None:
    model = make_model("mlp")
    optimizer = AdamW(model.named_parameters())
    with GrowthTransaction(model, optimizer):
        model.apply(germinate(0, "mlp"), val_accuracy=0.0)
    group = optimizer.param_groups[0]
    assert dict(zip(group["param_names"], group["params"], strict=True)) == dict(model.named_parameters())


def test_a_failed_change_that_keeps_numbers_leaves_no_trace_either() -> None:
    model = make_model()
    begin_holding(model, 0)
    optimizer = AdamW(model.parameters())
    train(model, optimizer)
    numbers, reports = {name: tensor.clone() for name, tensor in model.state_dict().items()}, model.seed_reports()
    trained = [p for p in model.parameters() if p.requires_grad]
    with pytest.raises(RuntimeError, match="on purpose"), GrowthTransaction(model, optimizer, keeps_numbers=True):
        model.apply(FactoredAction(op=LifecycleOp.PRUNE, slot=0, alpha_speed=3), val_accuracy=0.0)
        assert not any(p.requires_grad for p in model.slots[0].parameters())
        model.apply(germinate(2), val_accuracy=80.0)
        end_epoch(model)
        raise RuntimeError("on purpose")
    assert model.seed_reports() == reports
    assert [p for p in model.parameters() if p.requires_grad] == trained
    assert {name: tensor.tolist() for name, tensor in model.state_dict().items()} == {n: t.tolist() for n, t in numbers.items()}
    assert set(held(optimizer)) == set(trained)


@pytest.mark.parametrize("change", ["apply", "tick", "prune_all"])
def test_growth_writes_no_number_that_is_there(change: str) -> None:
    model = make_model()
    begin_holding(model, 0)
    begin_training(model, 1)
    there = [*model.parameters(), *model.buffers()]
    versions, numbers = [tensor._version for tensor in there], [tensor.clone() for tensor in there]
    if change == "apply":
        model.apply(FactoredAction(op=LifecycleOp.PRUNE, slot=0, alpha_speed=3), val_accuracy=0.0)
    elif change == "tick":
        end_epoch(model)
    else:
        model.prune_all("governor")
    assert [tensor._version for tensor in there] == versions
    assert all(torch.equal(tensor, old) for tensor, old in zip(there, numbers, strict=True))
