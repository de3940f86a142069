from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.config import GrowthConfig
from esper.kasmina.hosts import MLPHost
from esper.kasmina.model import MorphogeneticModel
from esper.kasmina.wrap import wrap
from esper.leyline.actions import FactoredAction, LifecycleOp
from esper.leyline.load import ConfigError, load
from esper.leyline.rng import SeedTree
from esper.leyline.schemas import PanicReason
from esper.leyline.stages import SeedStage
from esper.tolaria import EngineConfig, EpisodeRequest, GovernorConfig, SequentialEngine, TaskConfig, TolariaGovernor, TrainingPlan, Trial
from esper.tolaria.data import Dataset
from esper.tolaria.tasks import contexts, find_preset, make_episode
from tests.fakes.users import vectors
from tests.tolaria.trials import CATALOGUE, act, are_equal, reports_agree, weights

if TYPE_CHECKING:
    from pathlib import Path

    from esper.tolaria.tasks import Episode

USERS = "tests.fakes.users"
EAGER: dict[str, Any] = {
    "min_training_epochs": 1,
    "min_gradient_health": 0.0,
    "min_prune_age_epochs": 1,
    "min_holding_epochs": 0,
    "max_developing": 3,
    "tempos": (0,),
}


def custom(factory: str | None, **settings: Any) -> TaskConfig:
    return load(TaskConfig, {"preset": "custom", "factory": factory, **settings})


def episode_of(factory: str | None, seed: int = 0, **settings: Any) -> Episode:
    return make_episode(custom(factory, **settings), "train", SeedTree(seed))


def make_trial(factory: str, *, max_epochs: int = 12, seed: int = 0) -> Trial:
    config, seeds = custom(factory, max_epochs=max_epochs, batch_size=24), SeedTree(seed)
    preset, episode = find_preset(config), make_episode(config, "train", seeds)
    model = MorphogeneticModel(episode.host, CATALOGUE, GrowthConfig(**EAGER), seeds.child("growth"))
    plan = TrainingPlan(preset.max_epochs, preset.batch_size, preset.learning_rate)
    engine = SequentialEngine(model, episode.dataset, EngineConfig(), plan=plan, seeds=seeds.child("training"))
    request = EpisodeRequest(0, 0, "train", seeds)
    return Trial(
        request, episode.context, engine, TolariaGovernor(GovernorConfig(), episode.dataset.num_classes), max_epochs=preset.max_epochs
    )


@pytest.mark.parametrize(
    "factory",
    [
        f"{USERS}:make_images",
        f"{USERS}:make_tokens",
        f"{USERS}:make_vectors",
        pytest.param(f"{USERS}:make_residual_network", marks=pytest.mark.slow),
    ],
)
def test_a_users_model_lives_through_every_stage(factory: str) -> None:
    trial = make_trial(factory)
    first = trial.reset()
    stages = {t.to_stage for t in first.transitions}
    before = weights(trial.model.get_submodule("host"))
    report = trial.step(act(LifecycleOp.GERMINATE, 0))
    stages |= {t.to_stage for t in report.transitions}
    while not report.masks.op[0, LifecycleOp.FOSSILIZE]:
        may_advance = report.masks.op[0, LifecycleOp.ADVANCE] and report.masks.slot[0, LifecycleOp.ADVANCE, 0]
        report = trial.step(act(LifecycleOp.ADVANCE, 0) if may_advance else FactoredAction())
        stages |= {t.to_stage for t in report.transitions}
    report = trial.step(act(LifecycleOp.FOSSILIZE, 0))
    stages |= {t.to_stage for t in report.transitions}
    grown = {SeedStage.GERMINATED, SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.HOLDING, SeedStage.FOSSILIZED}
    assert grown <= stages
    assert not are_equal(weights(trial.model.get_submodule("host")), before)
    assert all(layer.weight_norm is not None and layer.gradient_norm is not None for layer in report.layers)
    healthy = weights(trial.model)
    with torch.no_grad():
        next(trial.model.get_submodule("host").parameters()).fill_(math.nan)
    report = trial.step(FactoredAction())
    assert report.done
    assert report.verdict is not None and report.verdict.panic is PanicReason.NAN
    assert report.num_fossils == 1
    assert report.test_accuracy is not None and report.seed_params > 0
    assert are_equal(weights(trial.model), healthy), "weights and running statistics are those of the last healthy epoch"


@pytest.mark.parametrize("factory", [f"{USERS}:make_images", f"{USERS}:make_tokens"])
def test_equal_seeds_give_equal_runs_dropout_and_all(factory: str) -> None:
    trials = [make_trial(factory, max_epochs=4, seed=seed) for seed in (0, 0, 1)]
    reports = []
    for trial in trials:
        trial.reset()
        for action in (act(LifecycleOp.GERMINATE, 1), act(LifecycleOp.ADVANCE, 1), FactoredAction(), FactoredAction()):
            trial.step(action)
        reports.append(trial.report)
    assert reports_agree(reports[0], reports[1])
    assert are_equal(weights(trials[0].model), weights(trials[1].model))
    assert not are_equal(weights(trials[0].model), weights(trials[2].model))


def test_an_engine_moves_running_statistics_once_a_batch_and_only_in_training() -> None:
    trial = make_trial(f"{USERS}:make_images")
    untrained = weights(trial.model)
    trial.reset()
    assert are_equal(weights(trial.model), untrained), "measuring the untrained host changes nothing"
    trial.step(FactoredAction())
    counted = {name: int(value) for name, value in trial.model.state_dict().items() if name.endswith("num_batches_tracked")}
    assert set(counted.values()) == {2}, "48 samples in batches of 24, though validation and probe ran too"


def test_episodes_follow_the_seed_alone() -> None:
    ambient = torch.random.get_rng_state()
    first, again, other = (episode_of(f"{USERS}:make_images", seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), ambient)
    assert are_equal(_state(first), _state(again)) and not are_equal(_state(first), _state(other))
    assert torch.equal(first.dataset.train_x, again.dataset.train_x) and not torch.equal(first.dataset.train_x, other.dataset.train_x)
    evaluation = make_episode(custom(f"{USERS}:make_images"), "eval", SeedTree(0))
    assert not are_equal(_state(first), _state(evaluation))


def test_the_context_is_named_and_nothing_is_held_out() -> None:
    config = custom(f"{USERS}:make_images")
    assert [context.name for context in contexts(config, "train")] == ["custom/factory@1"]
    with pytest.raises(ConfigError, match=r"no held-out contexts.*evaluation\.split=eval"):
        contexts(config, "heldout")


def test_sizes_of_the_config_shorten_the_data() -> None:
    dataset = episode_of(f"{USERS}:make_images", num_train=30, num_test=7).dataset
    assert [len(dataset.train_y), len(dataset.val_y), len(dataset.test_y)] == [30, 20, 7]
    whole = episode_of(f"{USERS}:make_images").dataset
    assert torch.equal(dataset.train_x, whole.train_x[:30])
    with pytest.raises(ConfigError, match=r"task\.num_val=21, but .* made 20 val samples"):
        episode_of(f"{USERS}:make_images", num_val=21)


def test_batch_size_and_learning_rate_of_the_config_replace_those_of_any_preset() -> None:
    preset = find_preset(TaskConfig(preset="smoke", batch_size=7, learning_rate=0.5))
    assert (preset.batch_size, preset.learning_rate) == (7, 0.5)
    assert find_preset(TaskConfig(preset="smoke")).batch_size == 32


def test_a_last_batch_too_small_for_the_model_is_refused_before_training() -> None:
    with pytest.raises(ConfigError, match=r"33 training samples in batches of 16 leave a last batch of 1.*Vectors.*task\.batch_size"):
        episode_of(f"{USERS}:make_vectors", batch_size=16)
    assert len(episode_of(f"{USERS}:make_vectors", batch_size=11).dataset.train_x) == 33
    assert len(episode_of(f"{USERS}:make_images", num_train=33, batch_size=16).dataset.train_x) == 33


SCRIPT = """
import dataclasses
import torch
import esper
from esper.kasmina.hosts import MLPHost, MLPHostConfig

@dataclasses.dataclass
class Sizes:
    inputs: int = 4

not_a_function = 3

def data(seed, *, classes=3, low=0, dtype=torch.int64):
    x = torch.randn(9, Sizes().inputs, generator=torch.Generator().manual_seed(seed))
    y = (torch.arange(9) % 3 + low).to(dtype)
    return esper.Dataset(x, y, x, y, x, y, num_classes=classes, kind="vector")

def host(classes=3, inputs=4):
    return MLPHost(MLPHostConfig(in_features=inputs, num_classes=classes, widths=(6, 6)))

def make(seed): return host(), data(seed)
def make_nothing(seed): return None
def make_bare(seed): return torch.nn.Linear(4, 3), data(seed)
def make_arrays(seed): return host(), (1, 2)
def make_wide(seed): return host(classes=5), data(seed)
def make_narrow(seed): return host(inputs=3), data(seed)
def make_negative(seed): return host(), data(seed, low=-1)
def make_high(seed): return host(), data(seed, low=1)
def make_floats(seed): return host(), data(seed, dtype=torch.float32)
def make_per_token(seed):
    d = data(seed)
    return host(), dataclasses.replace(d, val_y=d.val_y[:, None].repeat(1, 2))
def make_badly(seed): return esper.wrap(torch.nn.Linear(4, 3), ["body"], example=torch.randn(2, 4)), data(seed)
def make_alone(): return make(0)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(SCRIPT))
    return path


def test_a_factory_may_be_a_file_and_its_host_one_of_ours(script: Path) -> None:
    episode = episode_of(f"{script}:make")
    assert isinstance(episode.host, MLPHost)
    assert are_equal(_state(episode), _state(episode_of(f"{script}:make")))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("make_nothing", r"returned a NoneType; it should return \(host, dataset\)"),
        ("make_bare", r"returned a Linear as host; .*esper\.wrap"),
        ("make_arrays", r"returned a tuple as data; .*esper\.Dataset"),
        ("make_wide", r"the host has 5 logits and the data set 3 classes"),
        ("make_narrow", r"does not take inputs \[2, 4\]"),
        ("make_negative", r"train_y has classes -1…1; .*0…2"),
        ("make_high", r"train_y has classes 1…3; .*0…2"),
        ("make_floats", r"train_y is torch\.float32; classes should be torch\.int64"),
        ("make_per_token", r"logits \[2, 3\] for classes \[2, 2\]"),
        ("make_badly", r"'body' is no submodule"),
        ("make_alone", r"should take one argument, the seed"),
        ("not_a_function", r"not_a_function is of type int; it should be a function"),
        ("mak", r"has no 'mak'; its functions: data, host, make, "),
    ],
)
def test_what_a_factory_makes_is_checked(script: Path, what: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        episode_of(f"{script}:{what}")


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (None, r"needs task\.factory"),
        ("tests.fakes.users", "not of the form"),
        ("tests.fakes.strangers:make", r"cannot be imported: No module named .*PYTHONPATH.*On Ray every worker"),
        ("nowhere/mine.py:make", r"there is no file .*nowhere/mine\.py.*On Ray"),
    ],
)
def test_a_factory_that_cannot_be_had_is_refused(factory: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        episode_of(factory)


def test_a_file_that_cannot_be_imported_is_refused_each_time(tmp_path: Path) -> None:
    path = tmp_path / "needy.py"
    path.write_text("import no_such_package\n")
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"no_such_package.*what it needs must be installed"):
            episode_of(f"{path}:make")


def test_our_own_error_reaches_the_user_of_a_trial_with_its_slot() -> None:
    """A shape that changes while the host trains is told as it is where the forward pass is made."""

    class Shrinking(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002
            return super().forward(input)[:, : 8 if not self.training or torch.is_grad_enabled() is False else 4]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part, self.head = Shrinking(10, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            value = self.part(x)
            logits: Tensor = self.head(nn.functional.pad(value, (0, 8 - value.shape[1])))
            return logits

    x, y = vectors(20), torch.arange(20) % 5
    dataset = Dataset(x, y, x, y, x, y, num_classes=5, kind="vector")
    model = MorphogeneticModel(wrap(Net(), ["part"], example=x), CATALOGUE, GrowthConfig(), SeedTree(0))
    engine = SequentialEngine(model, dataset, EngineConfig(), plan=TrainingPlan(2, 8, 0.01), seeds=SeedTree(0))
    engine.evaluate("val", [()])
    with pytest.raises(ValueError, match=r"slot r0c0 \(part\)"):
        engine.train_epoch(0)


def _state(episode: Episode) -> dict[str, Tensor]:
    assert isinstance(episode.host, nn.Module)
    return weights(episode.host)
