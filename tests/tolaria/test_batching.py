from __future__ import annotations

import pytest
import torch

from esper.leyline.rng import SeedTree
from esper.tolaria.data import Augmentation, Dataset, augment, batches, take
from esper.tolaria.engine.batching import CACHED_BYTES, join, training_batches
from esper.tolaria.tasks.stored import StandardisedImages, StoredRows

SEEDS = SeedTree(3, ("batching",))


def images(size: int, count: int, member: int, augmentation: Augmentation) -> Dataset:
    x = torch.randn(count, 3, size, size, generator=SEEDS.child("images", member, size).torch())
    y = torch.arange(count) % 10
    return Dataset(x, y, x[:2], y[:2], x[:2], y[:2], num_classes=10, kind="image", augmentation=augmentation)


@pytest.mark.parametrize("augmentation", ["none", "shift", "crop_flip"])
@pytest.mark.parametrize("size", [4, 48])
def test_every_member_gets_the_batch_of_its_own_engine(size: int, augmentation: Augmentation) -> None:
    num_members, count = 4, 20
    datasets = [images(size, count, member, augmentation) for member in range(num_members)]
    is_large = num_members * 12 * 3 * size * size * 4 > CACHED_BYTES
    assert is_large == (size == 48)
    orders = torch.stack([torch.randperm(count, generator=SEEDS.child("order", member).torch()) for member in range(num_members)])
    joined = training_batches(datasets, orders, 12, [SEEDS.child("moves", member).torch() for member in range(num_members)])
    walks = [batches(data, 12, SEEDS.child("order", member).torch()) for member, data in enumerate(datasets)]
    sources = [SEEDS.child("moves", member).torch() for member in range(num_members)]
    for (x, y), *own in zip(joined, *walks, strict=True):
        for member, (own_x, own_y) in enumerate(own):
            assert torch.equal(x[member], augment(own_x, augmentation, sources[member]))
            assert torch.equal(y[member], own_y)


def test_tokens_and_vectors_are_joined_as_they_are() -> None:
    for x in (torch.arange(60).view(10, 6), torch.randn(10, 6)):
        data = Dataset(x, torch.arange(10), x, torch.arange(10), x, torch.arange(10), num_classes=10, kind="vector")
        index = torch.tensor([[3, 1], [0, 9]])
        sources = [SEEDS.child("moves", member).torch() for member in range(2)]
        first, second = training_batches([data, data], index, 1, sources)
        assert torch.equal(torch.cat([first[0], second[0]], dim=1), x[index])
        assert torch.equal(torch.cat([first[1], second[1]], dim=1), index)


def test_large_images_are_joined_with_samples_innermost_in_memory() -> None:
    parts = [torch.randn(64, 3, 48, 48, generator=SEEDS.child("part", i).torch()) for i in range(3)]
    joined = join(parts, 3)
    assert torch.equal(joined, torch.stack(parts))
    assert joined.permute(0, 2, 3, 4, 1).is_contiguous()


def test_samples_of_stored_images_are_taken_without_computing_the_others() -> None:
    pixels = SEEDS.child("pixels").numpy().integers(0, 256, (50, 3, 4, 4)).astype("uint8")
    asked: list[int] = []

    class Counting(StoredRows):
        def __getitem__(self, index: slice | torch.Tensor) -> torch.Tensor:
            taken = super().__getitem__(index)
            asked.append(len(taken))
            return taken

    stored = StandardisedImages(Counting([pixels], torch.arange(50).numpy()), torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1))
    index = torch.tensor([7, 0, 7])
    assert torch.equal(take(stored, index), torch.from_numpy(pixels).float()[index])
    assert asked == [3]
