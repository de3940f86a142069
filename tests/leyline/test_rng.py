"""Randomness as a tree: stable, independent, and contained."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from esper.leyline.rng import SeedTree

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize(
    ("tree", "golden"),
    [
        (SeedTree(0), 7_210_762_507_766_007_076),
        (SeedTree(0).child("env", 3, "episode", 7), 8_483_869_287_271_990_670),
        (SeedTree(1, ("a",)), 2_461_651_067_226_055_738),
    ],
)
def test_integers_are_the_same_on_every_machine_and_in_every_version(tree: SeedTree, golden: int) -> None:
    assert tree.integer() == golden


def test_descending_step_by_step_equals_descending_at_once(seed_tree: SeedTree) -> None:
    assert seed_tree.child("env").child(3).child("x") == seed_tree.child("env", 3, "x")


def test_different_paths_differ(seed_tree: SeedTree) -> None:
    paths: list[tuple[int | str, ...]] = [
        (),
        (1,),
        ("1",),
        (1, 1),
        (11,),
        ("1/int:1",),
        ("a", "b"),
        ("a/b",),
        ("ab",),
        ("b", "a"),
        ("a/str:b",),
        ("a', 'b",),
    ]
    assert len({seed_tree.child(*path).integer() for path in paths}) == len(paths)
    assert SeedTree(1).integer() != SeedTree(2).integer()


def test_an_index_from_numpy_is_the_same_key(seed_tree: SeedTree) -> None:
    assert seed_tree.child("env", int(np.int64(3))).integer() == seed_tree.child("env", np.int64(3)).integer()  # type: ignore[arg-type]


def test_many_siblings_do_not_collide_and_look_uniform(seed_tree: SeedTree) -> None:
    integers = [seed_tree.child("env", i).integer() for i in range(2000)]
    assert len(set(integers)) == 2000
    assert np.mean([i / 2**63 for i in integers]) == pytest.approx(0.5, abs=0.03)


def test_siblings_are_uncorrelated(seed_tree: SeedTree) -> None:
    a, b = (seed_tree.child("env", i).numpy().standard_normal(5000) for i in range(2))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.05


def test_generators_start_afresh_each_time(seed_tree: SeedTree) -> None:
    node = seed_tree.child("noise")
    assert np.array_equal(node.numpy().random(4), node.numpy().random(4))
    assert torch.equal(torch.rand(4, generator=node.torch()), torch.rand(4, generator=node.torch()))


def test_scope_decides_initialisation_and_leaves_no_trace(seed_tree: SeedTree) -> None:
    outside = torch.random.get_rng_state()
    numpy_and_python = (np.random.get_state()[1].tolist(), random.getstate())  # type: ignore[index]  # noqa: NPY002
    layers = []
    for _ in range(2):
        with seed_tree.child("init").torch_scope():
            layers.append(torch.nn.Linear(3, 3))
    assert torch.equal(layers[0].weight, layers[1].weight)
    assert torch.equal(torch.random.get_rng_state(), outside)
    assert numpy_and_python == (np.random.get_state()[1].tolist(), random.getstate())  # type: ignore[index]  # noqa: NPY002


def test_scope_restores_the_outer_state_after_an_error(seed_tree: SeedTree) -> None:
    outside = torch.random.get_rng_state()
    with pytest.raises(ZeroDivisionError), seed_tree.torch_scope():
        torch.rand(1)
        raise ZeroDivisionError
    assert torch.equal(torch.random.get_rng_state(), outside)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.Generator]:
    """Generators in the place of those of two GPUs; seeding all GPUs, or those of other makers, fails."""
    generators = [torch.Generator().manual_seed(index) for index in range(2)]
    current = [0]

    @contextmanager
    def on(device: torch.device) -> Iterator[None]:
        current.append(device.index)
        yield
        current.pop()

    def refuse(seed: int) -> None:
        raise AssertionError(f"every GPU was seeded with {seed}")

    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: generators[device.index].get_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: generators[device.index].set_state(state))
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: generators[current[-1]].manual_seed(seed))
    monkeypatch.setattr(torch.cuda, "device", on)
    for backend in (torch.cuda, torch.xpu):
        monkeypatch.setattr(backend, "manual_seed_all", refuse)
    monkeypatch.setattr(torch.mps, "manual_seed", refuse)
    return generators


def test_scope_leaves_gpus_alone_that_it_is_not_told_of(seed_tree: SeedTree, gpus: list[torch.Generator]) -> None:
    before = [generator.get_state() for generator in gpus]
    with seed_tree.torch_scope(), seed_tree.torch_scope([torch.device("cpu")]):
        assert all(torch.equal(generator.get_state(), state) for generator, state in zip(gpus, before, strict=True))


def test_scope_decides_what_a_named_gpu_draws_and_leaves_no_trace(seed_tree: SeedTree, gpus: list[torch.Generator]) -> None:
    before = [generator.get_state() for generator in gpus]
    drawn = []
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), seed_tree.torch_scope([torch.device("cuda", 1)]):
            assert torch.equal(gpus[0].get_state(), before[0])
            drawn.append(torch.rand(3, generator=gpus[1]))
            raise ZeroDivisionError
        assert all(torch.equal(generator.get_state(), state) for generator, state in zip(gpus, before, strict=True))
    assert torch.equal(*drawn)
    with seed_tree.child("other").torch_scope([torch.device("cuda", 1)]):
        assert not torch.equal(torch.rand(3, generator=gpus[1]), drawn[0])
