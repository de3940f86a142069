"""Hosts trained as one report what they report when trained one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.kasmina.config import GrowthConfig
from esper.leyline.actions import BlendStyle, FactoredAction, LifecycleOp
from esper.leyline.alpha import BlendOperator
from esper.leyline.masks import explain_illegal
from esper.leyline.stages import SeedStage
from esper.tolaria import EngineConfig, OneByOne
from tests.tolaria.populations import FAMILIES, OPEN, STANDARD, World, as_one, furthest, play

if TYPE_CHECKING:
    from esper.leyline.host import HostFamily
    from esper.leyline.reports import TrialReport
    from esper.tolaria.data import Augmentation

EXACT = 1e-6
"""Bound in float64 on the difference over 1 + size; what is measured is below it by the float32 sums of losses alone."""
EARLY_EPOCHS = 3
EARLY_POINTS = 2.3
"""Float32: accuracies of the first epochs differ by at most one of 45 samples; seen: not at all."""
LATE_LOSS = 1e-4
"""Float32: after ten epochs of three steps training losses differ by at most this, in nats; seen: 5e-7."""


def grow(**rules: object) -> GrowthConfig:
    return GrowthConfig(**{**OPEN, **rules})


def lifecycle_of(life: list[TrialReport]) -> list[list[tuple[int, SeedStage, SeedStage, str]]]:
    return [[(t.slot_index, t.from_stage, t.to_stage, t.initiator) for t in report.transitions] for report in life]


WORLDS = st.builds(
    World,
    family=st.sampled_from(FAMILIES),
    growth=st.builds(grow, auto_advance=st.booleans(), isolate_blending=st.booleans()),
    engine=st.builds(
        EngineConfig,
        optimizer=st.sampled_from(["adamw", "sgd"]),
        weight_decay=st.sampled_from([0.0, 0.05]),
        max_grad_norm=st.sampled_from([None, 0.5]),
    ),
    sizes=st.tuples(st.sampled_from([64, 65, 70, 90]), st.integers(20, 50), st.integers(20, 50)),
    max_epochs=st.integers(6, 10),
)


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(world=WORLDS, num_members=st.integers(1, 5), seed=st.integers(0, 2**32))
def test_whole_episodes_are_those_of_the_members_own_engines(world: World, num_members: int, seed: int) -> None:
    alone, together = (play(world, trainer, seed=seed, members=range(num_members)) for trainer in (OneByOne(), as_one()))
    gap, where = furthest(alone, together)
    assert gap < EXACT, where
    assert [lifecycle_of(life) for life in alone] == [lifecycle_of(life) for life in together]


@pytest.mark.parametrize("family", FAMILIES)
def test_longer_lives_agree_and_show_what_can_happen(family: HostFamily) -> None:
    growth = grow(isolate_blending=True, auto_advance=True)
    world = World(family, engine=EngineConfig(weight_decay=0.02), growth=growth, max_epochs=14, sizes=(40, 30, 30))
    alone, together = (play(world, trainer, seed=5, members=range(5)) for trainer in (OneByOne(), as_one()))
    gap, where = furthest(alone, together)
    assert gap < EXACT, where
    seen = [t for life in alone for report in life for t in report.transitions]
    assert {t.to_stage for t in seen} >= {SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.HOLDING, SeedStage.FOSSILIZED, SeedStage.PRUNED}
    assert {t.seed.operator for t in seen} == set(BlendOperator)


class OneBlueprint:
    """Grows one blueprint in the first slot, lets it blend in, blends it further, and prunes it slowly in the end."""

    def __init__(self, world: World, member: int) -> None:
        names = STANDARD.names(world.family)
        styles = list(BlendStyle)
        place, style = STANDARD.place(names[member % len(names)]), styles[member % len(styles)]
        self._plan = {
            0: FactoredAction(op=LifecycleOp.GERMINATE, blueprint=place, style=style, alpha_target=1),
            7: FactoredAction(op=LifecycleOp.SET_ALPHA_TARGET, alpha_target=2, alpha_speed=1, style=style),
            11: FactoredAction(op=LifecycleOp.PRUNE, alpha_speed=1),
        }

    def decide(self, report: TrialReport) -> FactoredAction:
        action = self._plan.get(report.epoch, FactoredAction())
        assert explain_illegal(action, report.masks) is None
        return action


@pytest.mark.parametrize("family", FAMILIES)
def test_every_blueprint_agrees_in_every_stage(family: HostFamily) -> None:
    world = World(family, growth=grow(auto_advance=True), max_epochs=15, sizes=(34, 20, 20))
    members = range(max(len(STANDARD.names(family)), len(BlendStyle)))
    alone, together = (
        play(world, trainer, seed=2, members=members, make_player=lambda _, member: OneBlueprint(world, member))
        for trainer in (OneByOne(), as_one())
    )
    gap, where = furthest(alone, together)
    assert gap < EXACT, where
    for life in together:
        stages = {transition.to_stage for report in life for transition in report.transitions}
        assert stages >= {SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.HOLDING, SeedStage.PRUNED}
        withering = [report.slots[0].seed.alpha for report in life[12:14] if report.slots[0].seed is not None]
        assert all(0.0 < alpha < 1.0 for alpha in withering)


@pytest.mark.parametrize("augmentation", ["shift", "crop_flip"])
def test_every_member_sees_the_batches_of_its_own_engine(augmentation: Augmentation) -> None:
    world = World("cnn", augmentation=augmentation, max_epochs=3)
    alone, together = (play(world, trainer, seed=3, members=range(3)) for trainer in (OneByOne(), as_one()))
    plain = play(replace(world, augmentation="none"), as_one(), seed=3, members=range(3))
    assert furthest(alone, together)[0] < EXACT
    assert furthest(together, plain)[0] > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_in_single_precision_only_rounding_differs(family: HostFamily) -> None:
    world = World(family, dtype=torch.float32)
    alone, together = (play(world, trainer, seed=0, members=range(4)) for trainer in (OneByOne(), as_one()))
    assert [lifecycle_of(life) for life in alone] == [lifecycle_of(life) for life in together]
    for a, b in zip(alone, together, strict=True):
        for x, y in zip(a[: EARLY_EPOCHS + 1], b[: EARLY_EPOCHS + 1], strict=True):
            assert abs(x.val_accuracy - y.val_accuracy) < EARLY_POINTS
        assert a[-1].train_loss == pytest.approx(b[-1].train_loss, abs=LATE_LOSS)
