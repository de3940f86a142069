"""Which seeds run together."""

from __future__ import annotations

from esper.kasmina.population.cells import find_cells, own_parameters, runs_of_manners
from esper.leyline.actions import BlendStyle, FactoredAction, LifecycleOp
from esper.leyline.alpha import BlendOperator
from tests.fakes.growth import begin_blending, begin_holding, begin_training, fossilize, germinate, make_model


def test_seeds_of_one_blueprint_are_one_cell_whatever_their_stage() -> None:
    models = [make_model("cnn", isolate_blending=True) for _ in range(5)]
    fossilize(models[0], 1)
    begin_blending(models[1], 1)
    begin_training(models[2], 1)
    begin_blending(models[3], 1, style=BlendStyle.LINEAR_MULTIPLY)
    begin_training(models[4], 1, blueprint="norm")
    first, second, third = find_cells(models)
    assert (first, third) == ((), ())
    assert [(cell.blueprint_id, set(cell.members)) for cell in second] == [("conv", {0, 1, 2, 3}), ("norm", {4})]
    conv = second[0]
    assert conv.places == tuple(models[member].seed_slots[1] for member in conv.members)
    runs = runs_of_manners(conv.places)
    assert sum(count for _, count in runs) == 4
    assert len({manner for manner, _ in runs}) == len(runs) == 4


def test_a_seed_that_does_not_compute_is_in_no_cell() -> None:
    models = [make_model() for _ in range(2)]
    models[0].apply(germinate(0), val_accuracy=20.0)
    assert find_cells(models) == ((), (), ())


def test_gates_run_with_gates() -> None:
    models = [make_model() for _ in range(3)]
    begin_blending(models[0], 0, style=BlendStyle.GATED_GATE)
    begin_blending(models[1], 0)
    begin_training(models[2], 0, style=BlendStyle.GATED_GATE)
    cells = find_cells(models)[0]
    assert {frozenset(cell.members): len(cell.modules) for cell in cells} == {frozenset({0}): 2, frozenset({1, 2}): 1}
    gated = next(cell for cell in cells if cell.members == (0,))
    assert [manner.operator for manner, _ in runs_of_manners(gated.places)] == [BlendOperator.GATE]
    assert len(gated.parameters[0]) == sum(len(list(module.parameters())) for module in gated.modules)


def test_a_seed_that_is_blended_out_learns_no_more() -> None:
    models = [make_model() for _ in range(2)]
    for model in models:
        begin_holding(model, 0)
    models[1].apply(FactoredAction(op=LifecycleOp.PRUNE, slot=0, alpha_speed=3), val_accuracy=20.0)
    cells = find_cells(models)[0]
    assert {cell.members: cell.learns for cell in cells} == {(0,): True, (1,): False}
    assert all(len(cell.parameters[0]) == 2 for cell in cells)


def test_what_a_blueprint_has_frozen_stays_with_its_module() -> None:
    model = make_model()
    begin_training(model, 0)
    (module,) = find_cells([model])[0][0].modules
    next(module.parameters()).requires_grad_(False)
    (cell,) = find_cells([model])[0]
    assert [name for name, _ in own_parameters(module, cell)] == ["conv.bias"]
    assert len(cell.parameters[0]) == 1
