"""What trains on a GPU trains as on the CPU. The same tests run with the CPU in the GPU's place, where there is none."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import pytest
import torch

from esper.cli.main import main
from esper.leyline.schemas import PanicReason
from esper.tolaria import EngineConfig, OneByOne
from tests.distributed.runs import TINY
from tests.tolaria.populations import FAMILIES, World, as_one, play
from tests.tolaria.test_population_blueprints import Fancy, lives, world_with

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from esper.leyline.host import HostFamily
    from esper.leyline.reports import StageTransition, TrialReport
    from esper.tolaria import Trial
    from esper.tolaria.engine.base import Trainer

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
TRAINERS: dict[str, Callable[[], Trainer]] = {"sequential": OneByOne, "population": as_one}
LOSS = 1e-4
"""Bound on how far losses lie apart in float64, in nats: the optimizers' rate is a float32 on a GPU, and sums are added up otherwise."""
SIZES = (170, 45, 31)


def losses(lives: list[list[TrialReport]]) -> list[float]:
    reports = list(chain.from_iterable(lives))
    return [report.val_loss for report in reports] + [report.train_loss for report in reports if report.train_loss is not None]


def moves(lives: list[list[TrialReport]]) -> list[list[StageTransition]]:
    return [[replace(t, seed=None) for report in life for t in report.transitions] for life in lives]  # type: ignore[arg-type]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("engine", TRAINERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_whole_episodes_are_those_of_the_cpu(family: HostFamily, engine: str, device: str) -> None:
    world = World(family, engine=EngineConfig(max_grad_norm=1.0), max_epochs=6)
    expected = play(world, OneByOne(), seed=3, members=range(3))
    found = play(replace(world, device=device), TRAINERS[engine](), seed=3, members=range(3))
    assert losses(found) == pytest.approx(losses(expected), abs=LOSS)
    assert moves(found) == moves(expected)


@pytest.mark.parametrize("device", DEVICES)
def test_dropout_draws_for_each_member_what_its_own_engine_draws(device: str) -> None:
    world = world_with("cnn", Fancy, device=device)
    alone, again, together = lives(world, OneByOne()), lives(world, OneByOne()), lives(world, as_one())
    assert losses(again) == pytest.approx(losses(alone), abs=1e-9)
    assert losses(together) == pytest.approx(losses(alone), abs=LOSS)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("engine", TRAINERS)
def test_a_broken_host_returns_to_its_last_weights_where_it_is_trained(engine: str, device: str) -> None:
    world = World(max_epochs=5, device=device)
    healthy: dict[str, torch.Tensor] = {}

    def break_one(trials: dict[int, Trial], epoch: int) -> None:
        host = trials[1].model.get_submodule("host")
        if epoch == 3:
            healthy.update({name: tensor.clone() for name, tensor in host.named_parameters()})
            with torch.no_grad():
                next(host.parameters()).fill_(torch.nan)
        if epoch > 3:
            assert all(torch.equal(tensor, healthy[name]) for name, tensor in host.named_parameters())
            assert all(tensor.device.type == device for tensor in host.parameters())

    plain = play(world, TRAINERS[engine](), seed=2, members=range(3))
    found = play(world, TRAINERS[engine](), seed=2, members=range(3), meddle=break_one)
    verdict = found[1][-1].verdict
    assert verdict is not None
    assert verdict.panic is PanicReason.NAN
    assert len(found[1]) == 5
    assert losses([found[0], found[2]]) == pytest.approx(losses([plain[0], plain[2]]), abs=LOSS)


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("family", FAMILIES)
def test_graphs_train_as_single_launches_do(family: HostFamily, optimizer: str) -> None:
    engine = EngineConfig(optimizer=optimizer, max_grad_norm=1.0, hold_frac=0.1)  # type: ignore[arg-type]
    world = World(family, engine=engine, device="cuda", max_epochs=6, sizes=SIZES)
    plain = play(world, as_one(), seed=3, members=range(4))
    found = play(replace(world, engine=replace(engine, cuda_graphs=True)), as_one(), seed=3, members=range(4))
    assert losses(found) == pytest.approx(losses(plain), abs=LOSS)
    assert moves(found) == moves(plain)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("engine", TRAINERS)
def test_training_leaves_the_precision_of_others_alone(engine: str, device: str) -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    play(World(engine=EngineConfig(tf32=not before[0]), device=device, max_epochs=1), TRAINERS[engine](), seed=0, members=range(2))
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


@pytest.mark.parametrize("device", DEVICES)
def test_a_round_is_learned_from_where_the_policy_is(device: str, tmp_path: Path) -> None:
    shares = [f"cluster.{part}_gpus={1.0 if device == 'cuda' else 0.0}" for part in ("learner", "env")]
    root = tmp_path / "run"
    assert main(["train", "--local", "--run-dir", str(root), *TINY, "rollout.rounds=1", *shares]) == 0
    manifest = next(iter(root.glob("checkpoints/round-*/manifest.json")))
    assert json.loads(manifest.read_text(encoding="utf-8"))
