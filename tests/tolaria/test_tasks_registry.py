from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
import yaml
from torch import nn

from esper.kasmina.config import GrowthConfig
from esper.leyline.load import ConfigError, load
from esper.leyline.rng import SeedTree
from esper.tolaria.config import TaskConfig
from esper.tolaria.tasks import Context, Split, contexts, find_preset, make_episode, parse_context, presets

if TYPE_CHECKING:
    from esper.tolaria.data import Dataset
    from esper.tolaria.tasks import Episode

BUILT_IN = ("smoke", "image-mix", "recall-compose", "digits-mlp")
PARTS = ("train", "val", "test")


def _tensors(dataset: Dataset) -> list[torch.Tensor]:
    return [getattr(dataset, f"{part}_{axis}") for part in PARTS for axis in "xy"]


def _weights(episode: Episode) -> list[nn.Parameter]:
    assert isinstance(episode.host, nn.Module)
    return list(episode.host.parameters())


def _small(preset: str, **settings: object) -> TaskConfig:
    return load(TaskConfig, {"preset": preset, "num_train": 60, "num_val": 40, "num_test": 50, **settings})


@pytest.mark.parametrize("preset", BUILT_IN)
def test_equal_seeds_give_equal_episodes(preset: str) -> None:
    first, again, other = (make_episode(_small(preset), "train", SeedTree(7).child("env", i)) for i in (0, 0, 1))
    assert first.context == again.context
    assert all(torch.equal(a, b) for a, b in zip(_tensors(first.dataset), _tensors(again.dataset), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(_weights(first), _weights(again), strict=True))
    assert not torch.equal(first.dataset.train_y, other.dataset.train_y)


def test_building_an_episode_leaves_the_ambient_generator_alone() -> None:
    before = torch.random.get_rng_state()
    make_episode(_small("smoke"), "train", SeedTree(0))
    assert torch.equal(before, torch.random.get_rng_state())


def test_training_and_evaluation_share_no_randomness() -> None:
    context = parse_context("texture/linear@1")
    train, evaluation = (make_episode(_small("image-mix"), split, SeedTree(3), context) for split in ("train", "eval"))
    assert not torch.equal(train.dataset.train_x, evaluation.dataset.train_x)
    assert not any(torch.equal(a, b) for a, b in zip(_weights(train), _weights(evaluation), strict=True) if a.any())


@pytest.mark.parametrize("preset", BUILT_IN)
def test_every_context_gives_a_host_that_fits_its_data(preset: str) -> None:
    config = _small(preset)
    every: tuple[Context, ...] = contexts(config, "train") + contexts(config, "heldout")
    for context in every:
        episode = make_episode(config, "eval", SeedTree(1), context)
        x = episode.dataset.val_x
        assert episode.host.run(x, lambda _, value: value).shape == (40, episode.dataset.num_classes)
        assert [len(t) for t in _tensors(episode.dataset)] == [60, 60, 40, 40, 50, 50]


@pytest.mark.parametrize("preset", BUILT_IN)
def test_images_and_vectors_are_standardised(preset: str) -> None:
    for context in contexts(_small(preset), "train"):
        dataset = make_episode(_small(preset), "train", SeedTree(1), context).dataset
        if dataset.kind == "tokens":
            assert dataset.train_x.dtype == torch.int64
            assert dataset.vocab_size is not None and 0 <= int(dataset.train_x.min()) <= int(dataset.train_x.max()) < dataset.vocab_size
        else:
            assert dataset.train_x.dtype == torch.float32
            assert abs(float(dataset.train_x.mean())) < 1e-3 and abs(float(dataset.train_x.std()) - 1) < 1e-2


@pytest.mark.parametrize("preset", BUILT_IN)
def test_training_never_shows_what_is_held_out(preset: str) -> None:
    config = TaskConfig(preset=preset)
    train, heldout = contexts(config, "train"), contexts(config, "heldout")
    assert heldout and not set(train) & set(heldout)
    assert contexts(config, "eval") == train
    held_pairs = set(find_preset(config).heldout_pairs)
    assert not held_pairs & {(c.task, c.host) for c in train}
    seeds = SeedTree(0)
    drawn = {make_episode(_small(preset), "train", seeds.child(i)).context for i in range(60)}
    assert drawn <= set(train) and len(drawn) >= len(train) // 2


def test_held_out_pairs_combine_parts_that_training_knows() -> None:
    preset = find_preset(TaskConfig(preset="image-mix"))
    tasks, hosts = {t for t, _ in preset.train_pairs}, {h for _, h in preset.train_pairs}
    assert all(task in tasks and host in hosts for task, host in preset.heldout_pairs)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_contexts_can_be_restricted(split: Split) -> None:
    config = _small("image-mix", contexts=["texture/wide@0.75", "texture/atten"])
    names = {"train": "texture/wide@0.75", "heldout": "texture/atten@1"}
    assert [c.name for c in contexts(config, split)] == [names[split]]
    assert make_episode(config, split, SeedTree(5)).context.name == names[split]


def test_restrictions_that_leave_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="leaves nothing to heldout"):
        contexts(_small("image-mix", contexts=["texture/wide"]), "heldout")
    with pytest.raises(ConfigError, match=r"texture/mlp@1.*texture/linear@0.75"):
        contexts(_small("image-mix", contexts=["texture/mlp"]), "train")


@pytest.mark.parametrize("name", ["texture", "/linear", "texture/", "texture/linear@wide", "texture/linear@0", "texture/linear@inf"])
def test_malformed_contexts_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="task/host@width"):
        parse_context(name)


def test_context_names_round_trip() -> None:
    assert parse_context("where/blind@0.75") == Context("where", "blind", 0.75)
    assert all(parse_context(c.name) == c for preset in presets() for c in preset.train_contexts + preset.heldout_contexts)


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'imagemix' is unknown; known: smoke, image-mix, recall-compose"):
        find_preset(TaskConfig(preset="imagemix"))
    with pytest.raises(ConfigError, match=r"unknown task; known: texture, where"):
        make_episode(_small("smoke"), "train", SeedTree(0), Context("textures", "linear", 1.0))
    with pytest.raises(ConfigError, match=r"image data has the hosts plain, wide"):
        make_episode(_small("smoke"), "train", SeedTree(0), Context("digits8", "mlp", 1.0))


def test_sizes_of_the_config_replace_those_of_the_preset() -> None:
    preset = find_preset(TaskConfig(preset="smoke", num_val=77, max_epochs=3))
    original = next(p for p in presets() if p.name == "smoke")
    assert (preset.counts.train, preset.counts.val, preset.max_epochs) == (original.counts.train, 77, 3)


def test_more_digits_than_there_are_is_an_error() -> None:
    with pytest.raises(ConfigError, match="1797 images"):
        make_episode(load(TaskConfig, {"preset": "smoke", "num_train": 1500}), "train", SeedTree(0))


def test_growth_overrides_are_settings_of_growth() -> None:
    for preset in presets():
        growth = load(GrowthConfig, preset.growth)
        assert growth.auto_advance and growth.max_fossils == 2


def test_width_scales_the_channels() -> None:
    narrow, wide = (make_episode(_small("image-mix"), "train", SeedTree(0), Context("texture", "wide", w)).host for w in (0.75, 1.25))
    assert [s.channels for s in narrow.injection_specs()] == [6, 9, 12]
    assert [s.channels for s in wide.injection_specs()] == [10, 15, 20]


def test_every_preset_has_a_config_file_that_loads() -> None:
    folder = Path(__file__).parents[2] / "configs" / "task"
    files = {path.stem: yaml.safe_load(path.read_text()) for path in folder.glob("*.yaml")}
    assert set(files) == {preset.name for preset in presets()}
    for name, values in files.items():
        assert values.keys() == {"task"}
        assert find_preset(load(TaskConfig, values["task"])).name == name
