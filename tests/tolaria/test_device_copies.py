"""Data of trials on another device; `meta` stands for it, which holds no values but has copies of its own."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from esper.distributed.build import make_trial
from esper.distributed.config import config_from
from esper.leyline.rng import SeedTree
from esper.tolaria import EpisodeRequest
from esper.tolaria.data import Dataset
from esper.tolaria.device_copies import DeviceCopies
from esper.tolaria.tasks.stored import StoredRows, standardised_rows
from esper.urza import Catalogue
from tests.fakes.users import image_data, make_images

if TYPE_CHECKING:
    import pytest

    from esper.kasmina.wrap import WrappedHost

PARTS = ("train_x", "train_y", "val_x", "val_y", "test_x", "test_y")
KEPT = image_data(0)


def make_with_kept_data(seed: int) -> tuple[WrappedHost, Dataset]:
    """A factory that keeps its data."""
    host, _ = make_images(seed)
    return host, KEPT


def shared(one: Dataset, other: Dataset) -> list[bool]:
    return [getattr(one, part) is getattr(other, part) for part in PARTS]


def first_samples(dataset: Dataset, num: int) -> Dataset:
    return replace(dataset, train_x=dataset.train_x[:num], train_y=dataset.train_y[:num])


def test_a_data_set_that_several_hold_is_copied_once_per_device() -> None:
    copies, dataset = DeviceCopies(), image_data(1)
    one, other = (copies.bring(dataset, "meta") for _ in range(2))
    assert shared(one, other) == [True] * 6
    assert one.train_x.device.type == "meta" and one.train_x.shape == dataset.train_x.shape
    assert shared(copies.bring(dataset, "cpu"), dataset) == [True] * 6
    assert shared(DeviceCopies().bring(dataset, "meta"), one) == [False] * 6


def test_equal_parts_of_a_data_set_are_one_copy_and_others_are_not() -> None:
    copies, dataset = DeviceCopies(), image_data(1)
    one, other, less = (copies.bring(first_samples(dataset, num), "meta") for num in (40, 40, 39))
    assert shared(one, other) == [True] * 6
    assert shared(one, less) == [False, False, True, True, True, True]
    assert (len(one.train_x), len(less.train_x)) == (40, 39)


def test_data_of_equal_shape_or_value_are_not_mistaken_for_each_other() -> None:
    copies = DeviceCopies()
    one, other = (copies.bring(image_data(1), "meta") for _ in range(2))
    assert shared(one, other) == [False] * 6


def test_a_tensor_that_was_written_to_is_copied_anew() -> None:
    copies, dataset = DeviceCopies(), image_data(1)
    before = copies.bring(dataset, "meta")
    dataset.train_x.mul_(2.0)
    assert shared(before, copies.bring(dataset, "meta")) == [False] + [True] * 5


def test_a_copy_is_let_go_with_the_last_who_holds_it() -> None:
    copies, dataset = DeviceCopies(), image_data(1)
    one, other = (copies.bring(dataset, "meta") for _ in range(2))
    alive = weakref.ref(one.train_x)
    del one
    gc.collect()
    assert alive() is other.train_x
    del other
    gc.collect()
    assert alive() is None
    source = weakref.ref(dataset.train_x)
    del dataset
    gc.collect()
    assert source() is None, "nor is what was copied kept"


def test_stored_images_and_tensors_of_inference_mode_are_shared_too() -> None:
    pixels = SeedTree(0).numpy().integers(0, 256, (6, 1, 4, 4), dtype=np.uint8)
    (images,) = standardised_rows([StoredRows([pixels], np.arange(6))])
    with torch.inference_mode():
        labels = torch.zeros(6, dtype=torch.int64)
    dataset = Dataset(images, labels, images, labels, images, labels, num_classes=2, kind="image")
    copies = DeviceCopies()
    one, other = (copies.bring(dataset, "meta") for _ in range(2))
    assert shared(one, other) == [True] * 6
    assert one.train_x is one.val_x


def test_trials_of_a_factory_that_keeps_its_data_read_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    num_copies = 0
    plain = torch.Tensor.to

    def counting(tensor: torch.Tensor, *args: object) -> torch.Tensor:
        nonlocal num_copies
        num_copies += tensor.shape == KEPT.train_x.shape and str(args[0]) == "meta"
        return plain(tensor, *args)  # type: ignore[call-overload, no-any-return]

    config = config_from({"task": {"preset": "custom", "factory": f"{__name__}:make_with_kept_data", "batch_size": 16}})
    catalogue, copies = Catalogue.standard(), DeviceCopies()
    monkeypatch.setattr(torch.Tensor, "to", counting)
    requests = [EpisodeRequest(i, 0, "train", SeedTree(0).child("env", i)) for i in range(3)]
    trials = [make_trial(config, catalogue, request, device="meta", copies=copies) for request in requests]
    datasets = [trial.engine.dataset for trial in trials]
    assert num_copies == 1
    assert all(shared(datasets[0], dataset) == [True] * 6 for dataset in datasets)
    assert len({id(trial.model.host) for trial in trials}) == 3
