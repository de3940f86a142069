from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from esper.kasmina.blend import BlendGate
from esper.kasmina.config import GrowthConfig
from esper.kasmina.lifecycle import IllegalActionError
from esper.kasmina.model import MorphogeneticModel
from esper.leyline.actions import BlendStyle, FactoredAction, LifecycleOp
from esper.leyline.rng import SeedTree
from esper.leyline.stages import SeedStage
from tests.fakes.catalogue import FakeCatalogue
from tests.fakes.growth import (
    EAGER,
    advance,
    backward,
    begin_blending,
    begin_holding,
    begin_training,
    end_epoch,
    fossilize,
    germinate,
    make_batch,
    make_host,
    make_model,
    randomise,
    run_plain,
)

if TYPE_CHECKING:
    from esper.leyline.host import HostFamily


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("family", ["cnn", "transformer", "mlp"])
def test_a_model_without_seeds_is_its_host(family: HostFamily) -> None:
    model = make_model(family)
    x, _ = make_batch(family)
    assert torch.equal(model(x), run_plain(model.host, x)[0])


def test_refused_actions_leave_the_model_alone() -> None:
    model = make_model()
    begin_training(model, 0)
    before, reports = weights(model), model.seed_reports()
    with pytest.raises(IllegalActionError):
        model.apply(FactoredAction(op=LifecycleOp.FOSSILIZE, slot=0), val_accuracy=9.0)
    assert same(weights(model), before)
    assert model.seed_reports() == reports


def test_reports_masks_and_counts_follow_a_life() -> None:
    model = make_model(max_seeds=2)
    assert model.seed_reports() == (None, None, None)
    host = model.num_host_parameters
    fossilize(model, 1)
    begin_training(model, 0, style=BlendStyle.GATED_GATE)
    fossil, training = model.seed_reports()[1], model.seed_reports()[0]
    assert fossil is not None
    assert training is not None
    assert (fossil.stage, training.stage) == (SeedStage.FOSSILIZED, SeedStage.TRAINING)
    assert model.live_slots() == model.fossil_slots() == (1,)
    assert model.num_host_parameters == host
    assert model.num_fossil_parameters == fossil.num_parameters
    gate = sum(p.numel() for p in BlendGate(4, "cnn").parameters())
    assert model.num_seed_parameters == fossil.num_parameters + training.num_parameters + gate
    assert not model.masks().op[0, LifecycleOp.GERMINATE]


def test_a_live_seed_is_one_that_is_heard() -> None:
    model = make_model()
    begin_blending(model, 2, ticks=0)
    assert model.live_slots() == ()
    end_epoch(model)
    assert model.live_slots() == (2,)


def test_equal_trees_grow_equal_seeds_and_others_do_not() -> None:
    def grown(root: int, epoch: int) -> dict[str, torch.Tensor]:
        model = MorphogeneticModel(make_host("mlp"), FakeCatalogue(), GrowthConfig(**EAGER), SeedTree(root))
        for _ in range(epoch):
            end_epoch(model)
        begin_training(model, 1)
        return {str(i): p.clone() for i, p in enumerate(model.slots[1].parameters())}

    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = grown(1, 2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert same(first, grown(1, 2))
    assert not same(first, grown(2, 2))
    assert not same(first, grown(1, 3))


def test_a_change_of_style_keeps_the_seed() -> None:
    model = make_model()
    begin_holding(model, 0)
    before = weights(model.slots[0])
    to_gate = FactoredAction(op=LifecycleOp.SET_ALPHA_TARGET, slot=0, style=BlendStyle.GATED_GATE)
    model.apply(to_gate, val_accuracy=0.0)
    gated = weights(model.slots[0])
    assert len(gated) == len(before) + 4
    assert same({name: gated[name] for name in before}, before)
    model.apply(to_gate._replace(style=BlendStyle.LINEAR_ADD), val_accuracy=0.0)
    assert same(weights(model.slots[0]), before)


def test_new_seeds_follow_the_hosts_type_and_mode() -> None:
    model = make_model("mlp").double().eval()
    begin_training(model, 0)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert not any(module.training for module in model.modules())


def test_gradients_are_observed_per_seed() -> None:
    model = make_model()
    begin_training(model, 0)
    model.observe_gradients()
    assert _metrics(model, 0).gradient_norm is None
    backward(model, *make_batch())
    model.observe_gradients()
    metrics = _metrics(model, 0)
    gradients = [p.grad.flatten() for p in model.slots[0].parameters() if p.grad is not None]
    assert metrics.gradient_norm == pytest.approx(float(torch.cat(gradients).norm()))
    assert metrics.gradient_health == 1.0
    assert metrics.gradient_ratio is not None


def test_snapshot_and_restore_bring_back_host_and_fossils() -> None:
    model = make_model()
    fossilize(model, 0)
    snapshot = model.snapshot()
    saved = weights(model)
    begin_blending(model, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    tensors = list(model.get_submodule("host").parameters())
    moved = model.prune_all("governor")
    model.restore(snapshot)
    assert [(t.slot_index, t.to_stage, t.initiator) for t in moved] == [(1, SeedStage.PRUNED, "governor")]
    assert same(weights(model), saved)
    assert all(a is b for a, b in zip(model.get_submodule("host").parameters(), tensors, strict=True))


def test_a_snapshot_does_not_change_with_the_model() -> None:
    model = make_model()
    snapshot = model.snapshot()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert not torch.equal(snapshot.host["classifier.bias"], model.state_dict()["host.classifier.bias"])


def test_a_fossil_younger_than_the_snapshot_keeps_its_weights() -> None:
    model = make_model()
    snapshot = model.snapshot()
    fossilize(model, 0)
    before = weights(model.slots[0])
    model.restore(snapshot)
    assert same(weights(model.slots[0]), before)


def test_a_snapshot_takes_in_new_fossils_as_they_are_and_leaves_what_it_holds() -> None:
    model = make_model()
    fossilize(model, 0)
    snapshot = model.snapshot()
    fossilize(model, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    both = model.with_fossils(snapshot)
    old, new = snapshot.fossils.keys(), both.fossils.keys() - snapshot.fossils.keys()
    assert both.host is snapshot.host
    assert all(both.fossils[seed_id] is snapshot.fossils[seed_id] for seed_id in old)
    assert [same(dict(both.fossils[seed_id]), weights(model.slots[1])) for seed_id in new] == [True]
    assert model.with_fossils(both).fossils.keys() == both.fossils.keys()


def test_a_snapshot_that_does_not_fit_is_refused_before_anything_is_written() -> None:
    model, other = make_model("mlp"), make_model("cnn")
    before = weights(model)
    with pytest.raises(ValueError, match="does not fit"):
        model.restore(other.snapshot())
    grown = make_model("mlp")
    fossilize(grown, 0)
    with pytest.raises(ValueError, match="r0c0"):
        model.restore(grown.snapshot())
    assert same(weights(model), before)


def test_a_grown_model_can_be_copied() -> None:
    model = make_model()
    begin_blending(model, 0)
    x, _ = make_batch()
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x), model(x))
    randomise(twin, 0)
    with torch.no_grad():
        for parameter in twin.slots[0].parameters():
            parameter.add_(1.0)
    assert not torch.equal(twin(x), model(x))
    twin.apply(germinate(1), val_accuracy=0.0)
    twin.apply(advance(1), val_accuracy=0.0)
    assert model.seed_reports()[1] is None


def test_slots_know_the_layer_before_them() -> None:
    assert make_model("cnn").slot_layers() == (0, 1, 2)
    assert make_model("transformer").slot_layers() == (0, 3, 6)


def test_a_host_must_be_a_module() -> None:
    class NoModule:
        pass

    with pytest.raises(TypeError, match="NoModule"):
        MorphogeneticModel(NoModule(), FakeCatalogue(), GrowthConfig(), SeedTree(0))  # type: ignore[arg-type]


def _metrics(model: MorphogeneticModel, slot: int):  # type: ignore[no-untyped-def]
    report = model.seed_reports()[slot]
    assert report is not None
    return report.metrics
