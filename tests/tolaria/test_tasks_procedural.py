from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from esper.leyline.rng import SeedTree
from esper.tolaria.tasks import SampleCounts, Task
from esper.tolaria.tasks.digits import make_digits8, make_digits16, make_digits_vector
from esper.tolaria.tasks.procedural import make_relation, make_texture, make_where, relation, texture, where
from esper.tolaria.tasks.tokens import MARKOV_STATES, NUM_KEYS, make_markov, make_modadd, make_recall, markov, markov_rule, recall

if TYPE_CHECKING:
    from esper.tolaria.tasks.parts import Sampler

COUNTS = SampleCounts(900, 300, 300)
GENERATED = [make_texture, make_where, make_relation, make_recall, make_markov]
ALL = [*GENERATED, make_modadd, make_digits8, make_digits16, make_digits_vector]


def _rows(x: torch.Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in x}


@pytest.mark.parametrize("task", ALL)
def test_classes_are_balanced_and_complete(task: Task) -> None:
    dataset = task(COUNTS, SeedTree(0))
    counts = torch.bincount(dataset.train_y, minlength=dataset.num_classes)
    assert len(counts) == dataset.num_classes
    mean = COUNTS.train / dataset.num_classes
    assert int(counts.min()) > mean - 5 * mean**0.5 and int(counts.max()) < mean + 5 * mean**0.5


@pytest.mark.parametrize("task", [make_texture, make_where, make_relation, make_recall])
def test_parts_share_no_sample(task: Task) -> None:
    dataset = task(COUNTS, SeedTree(0))
    train, val, test = _rows(dataset.train_x), _rows(dataset.val_x), _rows(dataset.test_x)
    assert not train & val and not train & test and not val & test


@pytest.mark.parametrize("task", [make_digits8, make_digits16, make_digits_vector])
def test_digits_are_dealt_once(task: Task) -> None:
    dataset = task(COUNTS, SeedTree(0))
    total = torch.cat([dataset.train_x, dataset.val_x, dataset.test_x])
    assert len(_rows(total)) >= len(total) - 2, "the collection itself holds almost no equal images"


def test_textures_of_every_class_have_the_same_mean_image() -> None:
    x, y = texture(8000, SeedTree(0).numpy())
    means = np.stack([x[y == c].mean(0) for c in range(8)])
    assert np.abs(means).max() < 6 * x.std() / 1000**0.5


def test_a_linear_probe_on_pooled_linear_features_is_at_chance_for_texture() -> None:
    dataset = make_texture(SampleCounts(4000, 10, 4000), SeedTree(0))
    generator = SeedTree(1).torch()
    kernels = torch.randn(64, 1, 5, 5, generator=generator)

    def pooled(x: torch.Tensor, *, is_rectified: bool) -> torch.Tensor:
        maps = torch.nn.functional.conv2d(x, kernels, padding=2)
        features = (maps.relu() if is_rectified else maps).mean((2, 3))
        return torch.cat([features, torch.ones(len(x), 1)], 1)

    def accuracy(*, is_rectified: bool) -> float:
        targets = torch.nn.functional.one_hot(dataset.train_y, 8).float()
        weights = torch.linalg.lstsq(pooled(dataset.train_x, is_rectified=is_rectified), targets).solution
        guess = (pooled(dataset.test_x, is_rectified=is_rectified) @ weights).argmax(1)
        return float((guess == dataset.test_y).float().mean())

    assert accuracy(is_rectified=False) < 0.2
    assert accuracy(is_rectified=True) > 0.8


def test_where_is_the_place_of_the_brightest_blob() -> None:
    x, y = where(500, SeedTree(0).numpy())
    row, column = np.divmod(x.reshape(500, -1).argmax(1), 16)
    place = np.minimum(np.maximum(row - 2, 0) // 5, 2) * 3 + np.minimum(np.maximum(column - 2, 0) // 5, 2)
    assert (place == y).mean() > 0.97


def test_relation_is_the_direction_from_bright_to_dark() -> None:
    x, y = relation(500, SeedTree(0).numpy())
    flat = x.reshape(500, -1)
    bright, dark = (np.stack(np.divmod(index, 16), 1) for index in (flat.argmax(1), flat.argmin(1)))
    delta = dark - bright
    angle = np.arctan2(delta[:, 0], delta[:, 1])
    assert (np.round(angle / (np.pi / 4)).astype(int) % 8 == y).mean() > 0.97


@pytest.mark.parametrize("sampler", [where, relation])
def test_a_histogram_tells_nothing_about_places_and_relations(sampler: Sampler) -> None:
    x, y = sampler(6000, SeedTree(0).numpy())
    values = np.sort(x.reshape(len(x), -1), axis=1)
    means = np.stack([values[y == c].mean(0) for c in np.unique(y)])
    spread = values.std(0) / (len(y) / len(means)) ** 0.5
    assert (np.abs(means - values.mean(0)) < 6 * spread).all()


def test_recall_answers_with_the_value_behind_the_key() -> None:
    tokens, answer = recall(300, SeedTree(0).numpy())
    for row, value in zip(tokens, answer, strict=True):
        places = np.flatnonzero(row[:-1] == row[-1])
        assert len(places) == 1
        assert row[places[0] + 1] == NUM_KEYS + value


def test_modadd_adds() -> None:
    dataset = make_modadd(COUNTS, SeedTree(0))
    assert torch.equal(dataset.train_x[:, :2].sum(1) % 11, dataset.train_y)


def test_markov_follows_a_rule_that_one_state_alone_does_not_betray() -> None:
    rule = markov_rule(SeedTree(0).numpy())
    tokens, answer = markov(4000, SeedTree(1).numpy(), rule=rule)
    assert 0.8 < (rule[tokens[:, -2], tokens[:, -1]] == answer).mean() < 0.95
    for state in range(MARKOV_STATES):
        shares = np.bincount(answer[tokens[:, -1] == state], minlength=MARKOV_STATES) / (tokens[:, -1] == state).sum()
        assert shares.max() < 0.25


def test_parts_of_an_episode_share_the_rule_and_episodes_do_not() -> None:
    def pairs(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        index = (x[:, -2] * MARKOV_STATES + x[:, -1]) * MARKOV_STATES + y
        return torch.bincount(index, minlength=MARKOV_STATES**3).view(-1, MARKOV_STATES).argmax(1)

    counts = SampleCounts(6000, 6000, 10)
    first, other = (make_markov(counts, SeedTree(seed)) for seed in (0, 1))
    same = (pairs(first.train_x, first.train_y) == pairs(first.val_x, first.val_y)).float().mean()
    different = (pairs(first.train_x, first.train_y) == pairs(other.train_x, other.train_y)).float().mean()
    assert same > 0.95 and different < 0.5
