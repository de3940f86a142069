"""Images that are computed when asked for, beside the same images computed at once."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from esper.kasmina.config import GrowthConfig
from esper.kasmina.hosts import CNNHost, CNNHostConfig
from esper.kasmina.model import MorphogeneticModel
from esper.leyline.rng import SeedTree
from esper.tolaria import EngineConfig, SequentialEngine, TrainingPlan
from esper.tolaria.data import Dataset, augment, batches
from esper.tolaria.engine.population import PopulationEngine
from esper.tolaria.tasks.parts import standardised
from esper.tolaria.tasks.stored import StandardisedImages, StoredRows, standardised_rows
from tests.tolaria.trials import CATALOGUE, are_equal

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

RNG = np.random.default_rng(0)
FILES = [RNG.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8) for count in (30, 1, 50)]
WHOLE = np.concatenate(FILES)
ROWS = RNG.permutation(len(WHOLE))
PARTS = (ROWS[:40], ROWS[40:60], ROWS[60:])


@pytest.fixture
def images() -> Tensor:
    return standardised_rows([StoredRows(FILES, rows) for rows in PARTS])[0]


@pytest.fixture
def plain() -> Tensor:
    return standardised([WHOLE[rows] for rows in PARTS])[0]


def test_rows_of_several_arrays_come_in_the_order_asked_for() -> None:
    stored = StoredRows(FILES, ROWS)
    assert stored.shape == (81, 3, 8, 8)
    assert torch.equal(stored[:], torch.from_numpy(WHOLE[ROWS]))
    index = torch.tensor([80, 3, 3, -1, 40])
    assert torch.equal(stored[index], torch.from_numpy(WHOLE[ROWS[index.numpy()]]))
    assert stored[5:5].shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    "index",
    [
        *(0, -1, slice(None), slice(3, 9), slice(30, 99), slice(None, None, 3), slice(4, 4)),
        *([5, 5, 2], None, ..., (slice(None), 0, 0, 0), (torch.tensor([1, 2]), torch.tensor([0, 2]))),
        *(torch.tensor([7, 0, 39, 7]), torch.tensor([1, -1], dtype=torch.int32), torch.tensor([], dtype=torch.int64), torch.tensor(4)),
        *(torch.tensor([[1, 2], [3, 4]]), torch.arange(40) % 3 == 0),
    ],
    ids=str,
)
def test_samples_are_those_of_a_plain_tensor_to_the_last_bit(images: Tensor, plain: Tensor, index: Any) -> None:
    assert type(images[index]) is torch.Tensor
    assert torch.equal(images[index], plain[index])


def test_a_sample_that_is_not_there_is_an_error(images: Tensor) -> None:
    for index in (40, -41, torch.tensor([40])):
        with pytest.raises(IndexError):
            images[index]


def test_the_whole_looks_like_the_plain_tensor(images: Tensor, plain: Tensor) -> None:
    assert isinstance(images, torch.Tensor) and images.shape == plain.shape and len(images) == 40
    assert images.dtype == torch.float32 and images.device == plain.device and images.is_floating_point()
    assert repr(images) == "StandardisedImages(shape=[40, 3, 8, 8], device='cpu')"


@pytest.mark.parametrize(
    "use",
    [
        lambda x: x.mean((0, 2, 3)),
        lambda x: x.flatten(1),
        lambda x: torch.cat([x, x]),
        lambda x: torch.stack([x, x], dim=1),
        lambda x: 2 * x + x,
        lambda x: x.index_select(0, torch.tensor([3, 1])),
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.to(torch.float64),
        lambda x: torch.nn.functional.conv2d(x, torch.ones(2, 3, 3, 3)),
        lambda x: torch.zeros_like(x).add_(x),
        lambda x: torch.stack(list(x)),
        lambda x: torch.from_numpy(x.numpy()),
        lambda x: torch.tensor(x.tolist()),
        lambda x: x.clone(),
        lambda x: pickle.loads(pickle.dumps(x)),
        lambda x: copy.deepcopy(x)[:],
        lambda x: saved_and_loaded(x),
    ],
)
def test_whatever_else_is_done_gives_what_a_plain_tensor_gives(images: Tensor, plain: Tensor, use: Callable[[Tensor], Tensor]) -> None:
    assert torch.equal(use(images), use(plain))


def saved_and_loaded(x: Tensor) -> Tensor:
    buffer = io.BytesIO()
    torch.save(x, buffer)
    buffer.seek(0)
    loaded: Tensor = torch.load(buffer, weights_only=True)
    return loaded


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.add_(1),
        lambda x: x.zero_(),
        lambda x: x.__setitem__(0, 1.0),
        lambda x: torch.add(x[:], 1, out=x),
        lambda x: x.copy_(torch.zeros(40, 3, 8, 8)),
    ],
)
def test_stored_images_cannot_be_written_to(images: Tensor, plain: Tensor, write: Callable[[Tensor], object]) -> None:
    with pytest.raises(TypeError, match="read-only"):
        write(images)
    assert torch.equal(images[:], plain)


def test_samples_may_be_written_to(images: Tensor, plain: Tensor) -> None:
    images[:10].zero_()
    images[torch.arange(5)].zero_()
    assert torch.equal(images[:], plain)


def test_what_engines_do_imports_nothing_of_torch() -> None:
    """Operators of torch on a tensor class of one's own import its symbolic shapes: two seconds and tens of MB a process."""
    command = [sys.executable, "-c", ENGINE_USE]
    assert subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip() == "False False"


ENGINE_USE = """
import sys
import numpy as np, torch
from esper.tolaria.tasks.stored import StoredRows, standardised_rows
x = standardised_rows([StoredRows([np.ones((9, 3, 4, 4), np.uint8)], np.arange(9))])[0]
x[torch.arange(4)], x[2:5], x[0], len(x), x.shape, x.device, x.dtype, x.to("cpu"), x.to("meta")
print("sympy" in sys.modules, "torch._dynamo" in sys.modules)
"""


def test_moved_images_stay_as_they_are_stored(images: Tensor) -> None:
    assert images.to("cpu") is images
    moved = images.to("meta")
    assert isinstance(moved, StandardisedImages)
    assert moved.device.type == moved[:3].device.type == "meta" and moved.shape == images.shape


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_images_on_a_gpu_are_those_of_the_cpu(images: Tensor, plain: Tensor) -> None:
    before = torch.cuda.memory_allocated()
    moved = images.to("cuda")
    assert isinstance(moved, StandardisedImages)
    assert torch.cuda.memory_allocated() - before < plain.nbytes / 2
    index = torch.tensor([3, 1, 39], device="cuda")
    assert torch.allclose(moved[index].cpu(), plain[[3, 1, 39]], rtol=1e-6) and torch.allclose(moved[2:5].cpu(), plain[2:5], rtol=1e-6)
    assert torch.allclose(moved.to("cpu")[:], plain, rtol=1e-6)


def datasets() -> tuple[Dataset, Dataset]:
    """Stored and plain."""
    labels = [torch.from_numpy(rows % 5) for rows in PARTS]
    pairs = []
    for train_x, val_x, test_x in (standardised_rows([StoredRows(FILES, rows) for rows in PARTS]), standardised([WHOLE[r] for r in PARTS])):
        pairs.append(Dataset(train_x, labels[0], val_x, labels[1], test_x, labels[2], 5, "image", augmentation="crop_flip"))
    return pairs[0], pairs[1]


def make_engine(dataset: Dataset, seed: int) -> SequentialEngine:
    seeds = SeedTree(seed)
    with seeds.child("host").torch_scope():
        host = CNNHost(CNNHostConfig(in_channels=3, image_size=8, num_classes=5))
    model = MorphogeneticModel(host, CATALOGUE, GrowthConfig(), seeds.child("growth"))
    return SequentialEngine(model, dataset, EngineConfig(), plan=TrainingPlan(4, batch_size=16, learning_rate=0.01), seeds=seeds)


def test_batches_and_their_augmentation_are_the_same() -> None:
    walks = [batches(dataset, 16, torch.Generator().manual_seed(1)) for dataset in datasets()]
    for (x, y), (plain_x, plain_y) in zip(*walks, strict=True):
        assert torch.equal(x, plain_x) and torch.equal(y, plain_y)
        varied, plain_varied = (augment(each, "crop_flip", torch.Generator().manual_seed(2)) for each in (x, plain_x))
        assert torch.equal(varied, plain_varied)


def test_the_sequential_engine_trains_the_same() -> None:
    stored, plain = (make_engine(dataset, seed=1) for dataset in datasets())
    for epoch in range(2):
        assert replace(stored.train_epoch(epoch), wall_sec=0.0) == replace(plain.train_epoch(epoch), wall_sec=0.0)
        for split in ("val", "test"):
            pair = [engine.evaluate(split, [(), (0,)]) for engine in (stored, plain)]
            assert replace(pair[0], wall_sec=0.0) == replace(pair[1], wall_sec=0.0)
    assert are_equal(stored.model.state_dict(), plain.model.state_dict())
    assert stored.probe().layers[0].gradient_norm == plain.probe().layers[0].gradient_norm


def test_the_population_engine_trains_the_same() -> None:
    stored, plain = (PopulationEngine([make_engine(dataset, seed) for seed in (1, 2)]) for dataset in datasets())
    assert [replace(r, wall_sec=0.0) for r in stored.train_epoch(0)] == [replace(r, wall_sec=0.0) for r in plain.train_epoch(0)]
    results = [engine.evaluate("val", [[()], [()]]) for engine in (stored, plain)]
    assert [one.losses for one in results[0]] == [one.losses for one in results[1]]
    assert [m.layers[0].gradient_norm for m in stored.probe()] == [m.layers[0].gradient_norm for m in plain.probe()]
