"""Many choices of slots for many members in one pass."""

from __future__ import annotations

from functools import cache
from itertools import chain, combinations
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.kasmina.config import GrowthConfig
from esper.kasmina.population.model import Population
from tests.tolaria.populations import FAMILIES, OPEN, World, grown

if TYPE_CHECKING:
    from esper.kasmina.model import MorphogeneticModel
    from esper.leyline.host import HostFamily

MEMBERS = 4


@cache
def grown_models(family: HostFamily, seed: int, *, dtype: torch.dtype = torch.float64) -> tuple[list[MorphogeneticModel], torch.Tensor]:
    """Models with seeds in different stages, and a batch of inputs for each."""
    world = World(family, growth=GrowthConfig(**OPEN, auto_advance=True), sizes=(40, 20, 20), dtype=dtype)
    trials = grown(world, seed, MEMBERS)
    return [trial.model for trial in trials], torch.stack([trial.engine.dataset.val_x[:9] for trial in trials])


def subsets(num_slots: int) -> list[tuple[int, ...]]:
    return list(chain.from_iterable(combinations(range(num_slots), size) for size in range(num_slots + 1)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_configuration_is_the_members_own(family: HostFamily, seed: int) -> None:
    models, x = grown_models(family, seed)
    everything = subsets(len(models[0].specs))
    configurations: list[list[tuple[int, ...]]] = [everything, everything[::-1], everything[:3], [()]]
    population = Population(models)
    logits, rows = population.evaluate(population.arrange(x), configurations)
    for model, own, chosen, places in zip(models, x, configurations, rows, strict=True):
        with torch.no_grad():
            expected = model.forward_configurations(own, chosen)
        torch.testing.assert_close(logits[places], expected, rtol=1e-9, atol=1e-9)
    assert any(len(model.live_slots()) > 1 for model in models)


def test_configurations_that_agree_share_a_row() -> None:
    models, x = grown_models("cnn", 1)
    population = Population(models)
    heard = [len(model.live_slots()) for model in models]
    everything = subsets(len(models[0].specs))
    logits, rows = population.evaluate(population.arrange(x), [everything * 2] * MEMBERS)
    assert [len(set(places)) for places in rows] == [2**count for count in heard]
    assert len(logits) == sum(2**count for count in heard)
    assert sorted(set(chain.from_iterable(rows))) == list(range(len(logits)))


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_a_members_logits_are_the_same_bits_whatever_the_others_ask(data: st.DataObject) -> None:
    models, x = grown_models("mlp", 2, dtype=torch.float32)
    everything = subsets(len(models[0].specs))
    asked = [data.draw(st.lists(st.sampled_from(everything), min_size=1, max_size=4)) for _ in models]
    population = Population(models)
    logits, rows = population.evaluate(population.arrange(x), asked)
    for member, (chosen, places) in enumerate(zip(asked, rows, strict=True)):
        others: list[list[tuple[int, ...]]] = [chosen if other == member else [()] for other in range(MEMBERS)]
        alone, own_rows = population.evaluate(population.arrange(x), others)
        assert torch.equal(logits[places], alone[own_rows[member]])


@pytest.mark.parametrize(
    ("wrong", "kind", "message"), [((0, 3), IndexError, r"slots \[3\] do not exist; the host has 3"), (None, ValueError, "one")]
)
def test_configurations_are_refused_as_a_single_model_refuses_them(
    wrong: tuple[int, ...] | None, kind: type[Exception], message: str
) -> None:
    models, x = grown_models("cnn", 1)
    population = Population(models)
    own: list[tuple[int, ...]] = [] if wrong is None else [(), wrong]
    with pytest.raises(kind, match=message):
        population.evaluate(population.arrange(x), [[()], own, [()], [()]])
    with pytest.raises(kind, match=message):
        models[1].forward_configurations(x[1], own)
