"""Steps that are recorded once and repeated train hosts as steps that are taken one by one."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from esper.kasmina.config import GrowthConfig
from esper.leyline.actions import FULL_ALPHA_TARGET, TEMPO_EPOCHS, FactoredAction, LifecycleOp
from esper.leyline.load import ConfigError
from esper.leyline.stages import SeedStage
from esper.tolaria import EngineConfig
from esper.tolaria.engine.population import PopulationEngine
from esper.tolaria.engine.together import Together
from tests.tolaria.populations import FAMILIES, OPEN, STANDARD, Scripted, World, as_one, furthest, play
from tests.tolaria.tape import TapeRecorder

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from esper.leyline.host import HostFamily
    from esper.leyline.reports import TrialReport
    from tests.tolaria.populations import Player

EXACT = 1e-6
"""Bound in float64 on the difference over 1 + size."""
SIZES = (250, 30, 30)
"""Samples for seven full batches of 32 and a rest, so that most steps are recorded ones."""
PATIENT = {**OPEN, "min_training_epochs": 2, "min_holding_epochs": 2, "max_developing": 1}
"""Rules under which seeds move in between epochs without a change of who computes how."""


def recorded(recorder: TapeRecorder) -> Together:
    """A trainer whose populations share a recorder."""
    return Together(insists=True, make_engine=partial(PopulationEngine, make_recorder=lambda device: recorder))


def play_recorded(
    world: World, recorder: TapeRecorder, *, seed: int, num_members: int, make_player: Callable[[int, int], Player] = Scripted
) -> list[list[TrialReport]]:
    world = replace(world, engine=replace(world.engine, cuda_graphs=True))
    return play(world, recorded(recorder), seed=seed, members=range(num_members), make_player=make_player)


WORLDS = st.builds(
    World,
    family=st.sampled_from(FAMILIES),
    growth=st.builds(lambda **rules: GrowthConfig(**{**PATIENT, **rules}), auto_advance=st.booleans(), isolate_blending=st.booleans()),
    engine=st.builds(
        EngineConfig,
        optimizer=st.sampled_from(["adamw", "sgd"]),
        weight_decay=st.sampled_from([0.0, 0.05]),
        max_grad_norm=st.sampled_from([None, 0.5]),
        hold_frac=st.just(0.1),
    ),
    sizes=st.just(SIZES),
    max_epochs=st.integers(5, 8),
)


@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(world=WORLDS, num_members=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_whole_episodes_are_those_of_steps_taken_one_by_one(world: World, num_members: int, seed: int) -> None:
    recorder = TapeRecorder()
    plain = play(world, as_one(), seed=seed, members=range(num_members))
    gap, where = furthest(plain, play_recorded(world, recorder, seed=seed, num_members=num_members))
    assert gap < EXACT, where
    assert recorder.num_replayed > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_long_life_shows_what_can_happen_and_records_less_than_it_repeats(family: HostFamily) -> None:
    growth = GrowthConfig(**{**OPEN, "isolate_blending": True, "auto_advance": True})
    world = World(family, growth=growth, max_epochs=14, sizes=(170, 30, 30))
    recorder = TapeRecorder()
    plain, repeated = play(world, as_one(), seed=5, members=range(5)), play_recorded(world, recorder, seed=5, num_members=5)
    gap, where = furthest(plain, repeated)
    assert gap < EXACT, where
    seen = {t.to_stage for report in chain.from_iterable(repeated) for t in report.transitions}
    assert seen >= {SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.HOLDING, SeedStage.FOSSILIZED, SeedStage.PRUNED}
    assert 0 < recorder.num_recorded < recorder.num_replayed


def is_rate(tensor: Tensor) -> bool:
    return tensor.ndim == 0 and tensor.dtype is torch.float64


def is_alpha(tensor: Tensor) -> bool:
    """One number per member, along the members alone."""
    return tensor.ndim > 2 and tensor.numel() == len(tensor) and not tensor.requires_grad


class Slow:
    """Plants one seed, which blends in slowly."""

    def __init__(self, seed: int, member: int) -> None:
        self._has_planted = False

    def decide(self, report: TrialReport) -> FactoredAction:
        if self._has_planted:
            return FactoredAction()
        self._has_planted = True
        return FactoredAction(
            op=LifecycleOp.GERMINATE, blueprint=STANDARD.place("norm"), tempo=len(TEMPO_EPOCHS) - 1, alpha_target=FULL_ALPHA_TARGET
        )


@pytest.mark.parametrize("frozen", [None, is_rate, is_alpha])
def test_numbers_that_are_out_of_date_would_be_noticed(frozen: Callable[[Tensor], bool] | None) -> None:
    growth, engine = GrowthConfig(**{**PATIENT, "auto_advance": True}), EngineConfig(hold_frac=0.1)
    world = World(growth=growth, engine=engine, max_epochs=9, sizes=SIZES)
    recorder = TapeRecorder() if frozen is None else TapeRecorder(frozen)
    plain = play(world, as_one(), seed=5, members=range(2), make_player=Slow)
    repeated = play_recorded(world, recorder, seed=5, num_members=2, make_player=Slow)
    gap, _ = furthest(plain, repeated)
    assert gap < EXACT if frozen is None else gap > 100 * EXACT
    assert (recorder.num_frozen > 0) == (frozen is not None)


def test_the_cpu_has_no_graphs() -> None:
    world = World(engine=EngineConfig(cuda_graphs=True))
    with pytest.raises(ConfigError, match=r"cuda_graphs=true: hosts are trained on cpu.*cluster\.env_gpus"):
        play(world, as_one(), seed=0, members=range(2))


def test_timed_epochs_are_taken_step_by_step() -> None:
    world = World(engine=EngineConfig(cuda_graphs=True), sizes=SIZES)
    recorder = TapeRecorder()
    engine = PopulationEngine(world.engines(0, 2), make_recorder=lambda device: recorder)
    engine.train_epoch(0, is_timed=True)
    assert recorder.num_warm == recorder.num_recorded == 0
    engine.train_epoch(1)
    assert (recorder.num_warm, recorder.num_recorded) == (2, 1)
    engine.train_epoch(2)
    assert (recorder.num_warm, recorder.num_recorded) == (2, 1)
