from __future__ import annotations

import pytest
import torch

from esper.leyline.layer_ops import is_stackable
from esper.leyline.rng import SeedTree
from esper.urza import Blueprint, Catalogue
from esper.urza.catalogue import STANDARD
from esper.urza.plain import PLAIN

SEEDS = SeedTree(0, ("urza", "plain"))


@pytest.mark.parametrize("blueprint", STANDARD, ids=lambda blueprint: f"{blueprint.family}-{blueprint.name}")
def test_every_blueprint_states_its_formula_once(blueprint: Blueprint) -> None:
    with SEEDS.child(blueprint.name).torch_scope():
        module = Catalogue.standard().build(blueprint.name, blueprint.family, 4, 6)
        h = torch.randn({"cnn": (2, 4, 3, 2), "transformer": (2, 6, 4), "mlp": (2, 4)}[blueprint.family])
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter))
    value = module(h)
    assert is_stackable(module)
    assert torch.equal(value, module.value(PLAIN, module, h))
    assert not torch.equal(value, h)


def test_coordinates_run_over_the_image() -> None:
    placed = PLAIN.with_coordinates(torch.zeros(2, 1, 3, 2))
    assert placed.shape == (2, 3, 3, 2)
    assert placed[1, 1].tolist() == [[-1.0, 1.0]] * 3
    assert placed[1, 2].tolist() == [[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]]


def test_what_is_pooled_spreads_over_the_image_again() -> None:
    h = torch.randn(2, 3, 4, 5, generator=SEEDS.child("pool").torch())
    assert PLAIN.pool(h).shape == (2, 3)
    torch.testing.assert_close(PLAIN.pool(PLAIN.spread(PLAIN.pool(h)) * torch.ones_like(h)), PLAIN.pool(h))


def test_attention_at_the_first_position_is_its_own_value() -> None:
    packed = torch.randn(2, 5, 18, generator=SEEDS.child("attend").torch())
    mixed = PLAIN.attend(packed, 2)
    assert mixed.shape == (2, 5, 6)
    torch.testing.assert_close(mixed[:, 0], packed[:, 0, 12:])
