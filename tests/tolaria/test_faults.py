"""A seed that fails ends its own trial, as a loss that is not finite does, and changes nobody else's."""

from __future__ import annotations

import math
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.lifecycle import IllegalActionError
from esper.leyline.actions import FactoredAction, LifecycleOp
from esper.leyline.layer_ops import BlueprintError
from esper.leyline.schemas import PanicReason
from esper.leyline.stages import SeedStage
from esper.tolaria import EngineConfig, OneByOne, TrialBatch
from esper.tolaria.engine.population import PopulationEngine
from tests.tolaria.faulty import FAULTS, PLACE, SAID, Fault, Formula, Grower, seeds_of, set_fault, world_with
from tests.tolaria.populations import World, as_one, furthest, play
from tests.tolaria.trials import are_equal, weights

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esper.leyline.host import HostFamily
    from esper.leyline.reports import TrialReport
    from esper.tolaria import Trial
    from esper.tolaria.engine.base import Trainer

MEMBERS = 4
LAST = MEMBERS - 1
"""Plants a blueprint that never fails."""
EPOCH = 5
"""In which seeds are heard, and faults are set."""
TRAINERS: dict[str, Callable[[], Trainer]] = {"alone": OneByOne, "together": as_one}


def player(world: World, _: int, member: int) -> Grower:
    return Grower(PLACE if member < LAST else world.catalogue.place("norm"))


def lives(world: World, trainer: str, faults: dict[int, Fault] | None = None, *, epoch: int = EPOCH) -> list[list[TrialReport]]:
    """Every member's reports, if seeds of some fail from an epoch on."""

    def meddle(trials: dict[int, Trial], now: int) -> None:
        for member, fault in (faults or {}).items():
            if now == epoch:
                set_fault(trials[member], fault)

    return play(world, TRAINERS[trainer](), seed=5, members=range(MEMBERS), make_player=partial(player, world), meddle=meddle)


@cache
def undisturbed(family: HostFamily, trainer: str) -> list[list[TrialReport]]:
    return lives(world_with(family), trainer)


def assert_equal_but(culprits: Sequence[int], found: list[list[TrialReport]], expected: list[list[TrialReport]]) -> None:
    for member, (life, healthy) in enumerate(zip(found, expected, strict=True)):
        if member not in culprits:
            gap, where = furthest(life, healthy)
            assert gap == 0.0, (member, where)


def assert_rolled_back(report: TrialReport, said: str, *, had_seeds: bool = True) -> None:
    assert report.verdict is not None
    assert (report.verdict.panic, report.done) == (PanicReason.BLUEPRINT, True)
    assert report.verdict.failure is not None
    assert said in report.verdict.failure
    assert "'mine' in slot " in report.verdict.failure
    assert {t.to_stage for t in report.transitions if t.initiator == "governor"} == ({SeedStage.PRUNED} if had_seeds else set())
    assert report.seed_params == 0
    assert math.isfinite(report.val_loss)
    assert report.test_accuracy is not None


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_seed_that_fails_ends_its_own_trial_alone(trainer: str, fault: Fault) -> None:
    found = lives(world_with("mlp"), trainer, {1: fault})
    assert_equal_but([1], found, undisturbed("mlp", trainer))
    assert_rolled_back(found[1][-1], SAID[fault])
    assert len(found[1]) == EPOCH + 2


@pytest.mark.parametrize("fault", ["rest", "shape"])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_so_it_is_with_images(trainer: str, fault: Fault) -> None:
    found = lives(world_with("cnn"), trainer, {2: fault})
    assert_equal_but([2], found, undisturbed("cnn", trainer))
    assert_rolled_back(found[2][-1], SAID[fault])


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("faults", [{0: "first", 2: "rest"}, {0: "backward", 1: "first", 2: "evaluate"}])
def test_several_may_fail_in_one_epoch(trainer: str, faults: dict[int, Fault]) -> None:
    found = lives(world_with("mlp"), trainer, faults)
    assert_equal_but(list(faults), found, undisturbed("mlp", trainer))
    for member, fault in faults.items():
        assert_rolled_back(found[member][-1], SAID[fault])


@pytest.mark.parametrize("fault", FAULTS)
def test_the_engines_agree_on_the_trial_that_ended(fault: Fault) -> None:
    world = world_with("mlp", dtype=torch.float64)
    alone, together = (lives(world, trainer, {1: fault}) for trainer in TRAINERS)
    gap, where = furthest([life[:-1] for life in alone], [life[:-1] for life in together])
    assert gap < 1e-6, where
    own, ours = alone[1][-1], together[1][-1]
    for name in ("val_loss", "val_accuracy", "test_accuracy", "learning_rate", "layers", "slots", "signals", "transitions", "train_loss"):
        gap, where = furthest(getattr(own, name), getattr(ours, name))
        assert gap < 1e-6, (name, where)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_seed_that_fails_before_it_is_heard_does_so_too(trainer: str) -> None:
    found = lives(world_with("mlp"), trainer, {1: "first"}, epoch=1)
    assert_equal_but([1], found, undisturbed("mlp", trainer))
    assert_rolled_back(found[1][-1], SAID["first"])


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_blueprint_that_cannot_be_built_ends_its_trial_alone(trainer: str) -> None:
    def break_down(channels: int) -> nn.Module:
        raise OSError(f"no such file for {channels} channels")

    worlds = [world_with("mlp", build) for build in (break_down, lambda channels: nn.Identity())]
    others = [worlds[0].catalogue.place("norm")] * MEMBERS
    broken, healthy = (
        play(world, TRAINERS[trainer](), seed=5, members=range(MEMBERS), make_player=lambda _, m, own=own: Grower(own[m]))  # type: ignore[misc]
        for world, own in ((worlds[0], [others[0], PLACE, *others[2:]]), (worlds[1], others))
    )
    assert_equal_but([1], broken, healthy)
    assert_rolled_back(broken[1][-1], "being built: OSError('no such file", had_seeds=False)
    assert len(broken[1]) == 2


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("fault", ["evaluate", "probe"])
def test_a_permanent_seed_that_fails_is_silenced(trainer: str, fault: Fault) -> None:
    world = world_with("mlp", max_epochs=14)
    batch = TrialBatch(world.make, TRAINERS[trainer]())
    reports = batch.start(world.requests(5, 2))
    players = [Grower(keeps=True), Grower(world.catalogue.place("norm"))]
    while not reports[0].num_fossils:
        reports = batch.step([player.decide(report) for player, report in zip(players, reports, strict=True)])
    set_fault(batch.trials[0], fault)
    last, other = batch.step([FactoredAction()] * 2)
    assert last.verdict is not None
    assert (last.verdict.panic, last.done, other.done) == (PanicReason.BLUEPRINT, True, False)
    assert "is silent since" in str(last.verdict.failure)
    assert last.num_fossils >= 1
    (host_alone,) = batch.trials[0].engine.evaluate("test", ((),)).accuracies
    assert last.test_accuracy == pytest.approx(host_alone)


def test_a_formula_that_fails_at_once_ends_the_trials_that_grew_it() -> None:
    world = world_with("mlp", lambda channels: Formula(channels, 32))
    found = lives(world, "together")
    healthy = lives(world_with("mlp", lambda channels: Formula(channels, -1)), "together")
    assert_equal_but(range(LAST), found, healthy)
    for life in found[:LAST]:
        assert_rolled_back(life[-1], "no formula for this")


def test_a_formula_that_fails_later_is_everybodys_fault_and_ends_the_batch() -> None:
    world = world_with("mlp", lambda channels: Formula(channels, 6))
    batch = TrialBatch(world.make, as_one())
    reports = batch.start(world.requests(5, 3))
    with pytest.raises(BlueprintError, match=r"'mine' in slot r0c0 failed while running on values \[3, 6, \d+\]") as caught:
        for _ in range(4):
            reports = batch.step([Grower().decide(report) for report in reports])
    assert caught.value.members == ()
    assert caught.value.__notes__ == ["\n".join(trial.whereabouts for trial in batch.trials)]
    with pytest.raises(RuntimeError, match=r"start\(\) others: BlueprintError"):
        batch.step([FactoredAction()] * 3)
    assert batch.start(world.requests(5, 2))[0].epoch == 0


def state_of(trial: Trial) -> dict[str, Any]:
    """Everything that training moves, by name."""
    optimizer = trial.engine.optimizer.state
    moments = {(name, key): value for name, p in trial.model.named_parameters() for key, value in optimizer.get(p, {}).items()}
    calls = {("calls", i): seed.calls for i, seed in enumerate(seeds_of(trial))}
    state: dict[Any, Any] = {**weights(trial.model), **moments, **calls}
    return {key: value.clone() if isinstance(value, Tensor) else value for key, value in state.items()}


def assert_equal_states(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value) if isinstance(value, Tensor) else found[key] == value, key


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("fault", ["first", "rest", "backward", "shape"])
def test_a_population_in_which_a_seed_fails_is_as_it_was(fault: Fault, optimizer: str) -> None:
    world = world_with("mlp", engine=EngineConfig(optimizer=optimizer, weight_decay=0.1))  # type: ignore[arg-type]
    batches = []
    for _ in range(2):
        batch = TrialBatch(world.make, as_one())
        reports = batch.start(world.requests(5, 3))
        for _ in range(4):
            reports = batch.step([Grower().decide(report) for report in reports])
        batches.append(batch)
    broken, healthy = (PopulationEngine([trial.engine for trial in batch.trials]) for batch in batches)
    before = [state_of(trial) for trial in batches[0].trials]
    set_fault(batches[0].trials[1], fault)
    with pytest.raises(BlueprintError) as caught:
        broken.train_epoch(4)
    assert caught.value.members == (1,)
    for trial, state in zip(batches[0].trials, before, strict=True):
        assert_equal_states(state_of(trial), state)
    set_fault(batches[0].trials[1], None)
    assert furthest(broken.train_epoch(4), healthy.train_epoch(4))[0] == 0.0
    for trial, twin in zip(*(batch.trials for batch in batches), strict=True):
        assert_equal_states(state_of(trial), state_of(twin))


def test_an_error_that_is_not_a_seeds_is_raised_and_says_whose_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("mlp", dtype=torch.float32, sizes=(40, 20, 20))
    batch = TrialBatch(world.make, OneByOne())
    batch.start(world.requests(5, 3))

    def fail(epoch: int, **_: Any) -> None:
        raise FloatingPointError(f"epoch {epoch}")

    monkeypatch.setattr(batch.trials[1].engine, "train_epoch", fail)
    with pytest.raises(FloatingPointError, match="epoch 0") as caught:
        batch.step([FactoredAction()] * 3)
    assert caught.value.__notes__ == [batch.trials[1].whereabouts]
    with pytest.raises(RuntimeError, match="FloatingPointError"):
        batch.step([FactoredAction()] * 3)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_an_illegal_action_is_refused_before_anybody_moves(trainer: str) -> None:
    world = world_with("mlp", max_epochs=3)
    batch, twin = (TrialBatch(world.make, TRAINERS[trainer]()) for _ in range(2))
    for each in (batch, twin):
        each.start(world.requests(5, 3))
    before = [weights(trial.model) for trial in batch.trials]
    germinate = FactoredAction(op=LifecycleOp.GERMINATE, blueprint=PLACE)
    for wrong in (germinate._replace(slot=99), FactoredAction(op=LifecycleOp.PRUNE)):
        with pytest.raises(IllegalActionError) as caught:
            batch.step([germinate, FactoredAction(), wrong])
        assert caught.value.__notes__ == [batch.trials[2].whereabouts]
    assert all(are_equal(own, weights(trial.model)) for own, trial in zip(before, batch.trials, strict=True))
    actions = [germinate, FactoredAction(), germinate]
    assert furthest(batch.step(actions), twin.step(actions))[0] == 0.0


class Attention(nn.Module):
    """Names its layers as people do; one of them is called `value`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))
        nn.init.zeros_(self.value.weight)

    def forward(self, h: Tensor) -> Tensor:
        scores = torch.softmax(self.query(h) @ self.key(h).transpose(-1, -2), -1)
        result: Tensor = h + scores @ self.value(h)
        return result


def test_a_layer_that_is_called_value_is_no_formula() -> None:
    world = world_with("transformer", Attention, dtype=torch.float64)
    alone, together = (lives(world, trainer) for trainer in TRAINERS)
    gap, where = furthest(alone, together)
    assert gap < 1e-6, where
    assert all(life[-1].slots[0].seed is not None and life[-1].slots[0].seed.alpha == 1.0 for life in together)


@torch.no_grad()
def break_seeds(trials: dict[int, Trial], epoch: int) -> None:
    if epoch == EPOCH:
        for parameter in trials[1].model.slots.parameters():
            parameter.fill_(math.nan)


@pytest.mark.parametrize("limit", [None, 0.5])
@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("is_heard", [False, True])
def test_broken_numbers_in_a_seed_reach_only_a_host_that_hears_it(trainer: str, limit: float | None, is_heard: bool) -> None:
    rules = {} if is_heard else {"min_training_epochs": 50}
    world = world_with("mlp", rules=rules, engine=EngineConfig(max_grad_norm=limit))
    options: dict[str, Any] = {"seed": 5, "members": range(3), "make_player": partial(player, world)}
    healthy = play(world, TRAINERS[trainer](), **options)
    broken = play(world, TRAINERS[trainer](), meddle=break_seeds, **options)
    assert_equal_but([1], broken, healthy)
    if is_heard:
        last = broken[1][EPOCH + 1]
        assert last.verdict is not None
        assert (last.verdict.panic, last.done) == (PanicReason.NAN, True)
        return
    for own, ours in zip(healthy[1], broken[1], strict=True):
        assert (ours.train_loss, ours.val_loss, ours.layers) == (own.train_loss, own.val_loss, own.layers)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_seed_that_is_not_heard_does_not_scale_its_hosts_gradient(trainer: str) -> None:
    """However large its own is: each of them is clipped by itself."""
    found = []
    for gain in (1.0, 100.0):

        def amplify(trials: dict[int, Trial], epoch: int, gain: float = gain) -> None:
            for seed in seeds_of(trials[1]) if epoch == EPOCH else ():
                seed.gain = gain

        world = world_with("mlp", rules={"min_training_epochs": 50}, engine=EngineConfig(max_grad_norm=0.05, optimizer="sgd"))
        found.append(play(world, TRAINERS[trainer](), seed=5, members=range(2), make_player=partial(player, world), meddle=amplify))
    for own, ours in zip(found[0][1], found[1][1], strict=True):
        assert (ours.train_loss, ours.val_loss, ours.layers) == (own.train_loss, own.val_loss, own.layers)
    norms = [life[1][EPOCH + 1].gradient_norm for life in found]
    assert norms[0] is not None
    assert norms[1] is not None
    assert norms[1] > 2.0 * norms[0] > 0.0
