"""How many samples an engine evaluates at once: few of what is wide, as ever of what Esper brings itself."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.config import GrowthConfig
from esper.kasmina.model import MorphogeneticModel
from esper.kasmina.wrap import wrap
from esper.leyline.rng import SeedTree
from esper.tolaria import EngineConfig, SequentialEngine, TaskConfig, TrainingPlan
from esper.tolaria.data import Dataset
from esper.tolaria.engine.sequential import MOST_EVALUATED_ROWS, widest_output
from esper.tolaria.tasks import Context, contexts, find_preset, make_episode
from esper.tolaria.tasks.hosts import build_host
from tests.tolaria.trials import CATALOGUE

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper.leyline.host import HostProtocol
    from esper.tolaria.engine.base import Evaluation

STEM = 8 * 8 * 8
"""Numbers of a sample behind the stem; what its layer's parameters and cost tell is a tenth less, for the biases."""
NUM_VAL = 300
BATCH_SIZE = 16


class Stemmed(nn.Module):
    """Images [B, 1, 8, 8] → logits; the widest value is behind the stem, where no slot is. Notes how many samples it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.body = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(8, 4, 1), nn.ReLU())
        self.head = nn.Linear(16, 3)
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        logits: Tensor = self.head(self.body(self.stem(x)).flatten(1))
        return logits


def engine_of(host: HostProtocol, dataset: Dataset, batch_size: int = BATCH_SIZE) -> SequentialEngine:
    model = MorphogeneticModel(host, CATALOGUE, GrowthConfig(), SeedTree(7))
    return SequentialEngine(model, dataset, EngineConfig(), plan=TrainingPlan(4, batch_size, 0.01), seeds=SeedTree(9))


def evaluated(num_configurations: int = 1) -> tuple[list[int], Evaluation]:
    """How many samples a stemmed model was given at once, and what came of it."""
    generator = SeedTree(3).torch()
    x, y = torch.randn(NUM_VAL, 1, 8, 8, generator=generator), torch.randint(3, (NUM_VAL,), generator=generator)
    with SeedTree(1).torch_scope():
        user = Stemmed()
    engine = engine_of(wrap(user, ["body"], example=x[:4]), Dataset(x, y, x, y, x, y, num_classes=3, kind="image"))
    user.sizes.clear()
    return user.sizes, engine.evaluate("val", [()] * num_configurations)


def sizes_in(evaluate: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Samples of every pass."""
    sizes: list[int] = []
    plain = MorphogeneticModel.forward_configurations

    def noting(model: MorphogeneticModel, x: Tensor, configurations: list[tuple[int, ...]]) -> Tensor:
        sizes.append(len(x))
        return plain(model, x, configurations)

    with monkeypatch.context() as patch:
        patch.setattr(MorphogeneticModel, "forward_configurations", noting)
        evaluate()
    return sizes


def test_a_wide_model_is_evaluated_on_fewer_samples_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, expected = evaluated()
    assert whole == [NUM_VAL]
    monkeypatch.setattr("esper.tolaria.engine.sequential.MOST_EVALUATED_NUMBERS", 150 * STEM)
    sizes, evaluation = evaluated()
    assert sizes == [128, 128, 44], "the stem allows about 150 samples, of which a pass takes a multiple of 64"
    assert evaluation.accuracies == pytest.approx(expected.accuracies)
    assert evaluation.losses == pytest.approx(expected.losses, rel=1e-5)


def test_configurations_share_what_a_pass_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esper.tolaria.engine.sequential.MOST_EVALUATED_NUMBERS", 150 * STEM)
    sizes, evaluation = evaluated(num_configurations=5)
    assert max(sizes) * 5 <= 150 * 10 / 9
    assert sum(sizes) == NUM_VAL
    assert len(set(evaluation.losses)) == 1


def test_a_pass_has_no_fewer_rows_than_a_training_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esper.tolaria.engine.sequential.MOST_EVALUATED_NUMBERS", 1)
    sizes, _ = evaluated()
    assert max(sizes) == BATCH_SIZE
    assert max(evaluated(num_configurations=40)[0]) == 1


def test_a_layer_tells_how_wide_its_output_is() -> None:
    with SeedTree(1).torch_scope():
        host = wrap(Stemmed(), ["body"], example=torch.randn(4, 1, 8, 8, generator=SeedTree(2).torch()))
    assert widest_output(host.layer_specs()) == STEM * 9 // 10
    assert widest_output([]) == 0


@pytest.mark.parametrize("preset", ["smoke", "image-mix", "recall-compose", "digits-mlp"])
def test_hosts_of_built_in_tasks_are_evaluated_as_many_at_once_as_ever(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TaskConfig(preset=preset, num_train=64, num_val=1100, num_test=40)
    batch_size = find_preset(config).batch_size
    for context in {context.host: context for context in contexts(config, "heldout")}.values():
        episode = make_episode(config, "heldout", SeedTree(0), context)
        engine = engine_of(episode.host, episode.dataset, batch_size)
        assert sizes_in(partial(engine.evaluate, "val", [(), ()]), monkeypatch) == [MOST_EVALUATED_ROWS // 2, 76]


def test_so_are_images_of_cifars_size(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.zeros(MOST_EVALUATED_ROWS + 1, 3, 32, 32), torch.zeros(MOST_EVALUATED_ROWS + 1, dtype=torch.int64)
    dataset = Dataset(x[:64], y[:64], x, y, x[:1], y[:1], num_classes=10, kind="image")
    for name in ("plain", "impaired"):
        engine = engine_of(build_host(Context("cifar10", name, 1.25), dataset), dataset)
        assert sizes_in(partial(engine.evaluate, "val", [()]), monkeypatch) == [MOST_EVALUATED_ROWS, 1]


def test_images_of_a_photographs_size_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.zeros(1, 3, 224, 224).expand(70, -1, -1, -1), torch.zeros(70, dtype=torch.int64)
    with SeedTree(1).torch_scope():
        stem = nn.Conv2d(3, 64, 3, stride=2, padding=1)
        user = nn.Sequential(stem, nn.AdaptiveAvgPool2d(7), nn.Conv2d(64, 8, 1), nn.Flatten(), nn.Linear(392, 10))
        host = wrap(user, ["2"], example=torch.randn(2, 3, 224, 224))
    engine = engine_of(host, Dataset(x, y, x, y, x, y, num_classes=10, kind="image"))
    assert sizes_in(partial(engine.evaluate, "val", [()]), monkeypatch) == [64, 6], "a value of the stem may hold 256 MiB"
