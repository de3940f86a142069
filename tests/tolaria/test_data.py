from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.leyline.rng import SeedTree
from esper.tolaria.data import Augmentation, Dataset, augment, batches


def _dataset(num: int) -> Dataset:
    x, y = torch.arange(num, dtype=torch.float32).view(num, 1), torch.arange(num)
    return Dataset(x, y, x[:1], y[:1], x[:1], y[:1], num_classes=num, kind="vector")


@given(num=st.integers(1, 40), batch_size=st.integers(1, 50))
@settings(max_examples=30, deadline=None)
def test_an_epoch_shows_every_sample_once_with_its_own_label(num: int, batch_size: int) -> None:
    seen = list(batches(_dataset(num), batch_size, SeedTree(0).torch()))
    assert sorted(torch.cat([y for _, y in seen]).tolist()) == list(range(num))
    assert all(torch.equal(x[:, 0].long(), y) for x, y in seen)
    assert [len(y) for _, y in seen[:-1]] == [batch_size] * (len(seen) - 1)


def test_the_order_follows_the_generator() -> None:
    first, again, other = (torch.cat([y for _, y in batches(_dataset(50), 8, SeedTree(seed).torch())]) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_parts_that_do_not_match_are_refused() -> None:
    x, y = torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match="val data: 4 inputs and 3 labels"):
        Dataset(x, y, x, y[:3], x, y, num_classes=1, kind="vector")
    with pytest.raises(ValueError, match="test data: 0 inputs"):
        Dataset(x, y, x, y, x[:0], y[:0], num_classes=1, kind="vector")


def test_moving_keeps_everything_else() -> None:
    moved = _dataset(3).to("meta")
    assert {moved.train_x.device.type, moved.test_y.device.type} == {"meta"}
    assert (moved.num_classes, moved.kind) == (3, "vector")


def test_no_augmentation_is_the_identity() -> None:
    images = torch.randn(5, 3, 8, 8, generator=SeedTree(0).torch())
    assert augment(images, "none", SeedTree(1).torch()) is images


@pytest.mark.parametrize("kind", ["shift", "crop_flip"])
def test_augmented_images_are_windows_of_the_padded_ones(kind: Augmentation) -> None:
    images = torch.randn(40, 3, 8, 8, generator=SeedTree(0).torch())
    augmented = augment(images, kind, SeedTree(1).torch())
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    num_mirrored = 0
    for sample, window in zip(padded, augmented, strict=True):
        candidates = [sample[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
        plain = any(torch.equal(window, candidate) for candidate in candidates)
        mirrored = any(torch.equal(window, candidate.flip(2)) for candidate in candidates)
        assert plain or (kind == "crop_flip" and mirrored)
        num_mirrored += not plain
    assert augmented.shape == images.shape
    assert (num_mirrored > 5) == (kind == "crop_flip")


def test_augmentation_varies_between_samples_and_repeats_with_its_generator() -> None:
    image = torch.randn(1, 1, 16, 16, generator=SeedTree(0).torch()).expand(30, 1, 16, 16)
    first, again = (augment(image, "shift", SeedTree(1).torch()) for _ in range(2))
    assert torch.equal(first, again)
    assert len({sample.numpy().tobytes() for sample in first}) > 10


def test_only_images_are_augmented() -> None:
    with pytest.raises(ValueError, match="is for images"):
        augment(torch.zeros(4, 16, dtype=torch.int64), "shift", SeedTree(0).torch())
