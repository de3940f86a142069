"""Handwritten digits that come with scikit-learn: 1,797 real images, 8×8 as they are or enlarged to 16×16."""

from __future__ import annotations

from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch.nn import functional

from esper.leyline.load import ConfigError
from esper.tolaria.data import DataKind, Dataset
from esper.tolaria.tasks.parts import standardised

if TYPE_CHECKING:
    from esper.leyline.rng import SeedTree
    from esper.tolaria.tasks.base import SampleCounts

Form = Literal["8x8", "16x16", "vector"]
NUM_DIGITS = 10
_ENLARGED = 16


def make_digits(counts: SampleCounts, seeds: SeedTree, *, form: Form) -> Dataset:
    """Deal the digits into training, validation and test data by a random permutation.

    A network must recognise strokes and how they meet; with `16x16` the images are enlarged bilinearly.

    Raises:
        ConfigError: If more samples are asked for than there are.
    """
    images, labels = _digits(form)
    total = counts.train + counts.val + counts.test
    if total > len(labels):
        raise ConfigError(f"digits has {len(labels)} images, but num_train + num_val + num_test = {total}; ask for fewer")
    order = seeds.child("deal").numpy().permutation(len(labels))[:total]
    rows = np.split(order, [counts.train, counts.train + counts.val])
    train_x, val_x, test_x = standardised([images[index] for index in rows])
    train_y, val_y, test_y = (torch.from_numpy(labels[index]) for index in rows)
    if form == "vector":
        train_x, val_x, test_x = train_x.flatten(1), val_x.flatten(1), test_x.flatten(1)
    kind: DataKind = "vector" if form == "vector" else "image"
    return Dataset(train_x, train_y, val_x, val_y, test_x, test_y, num_classes=NUM_DIGITS, kind=kind)


make_digits8 = partial(make_digits, form="8x8")
make_digits16 = partial(make_digits, form="16x16")
make_digits_vector = partial(make_digits, form="vector")


@cache
def _digits(form: Form) -> tuple[np.ndarray, np.ndarray]:
    """All images [1797, 1, side, side] and their digits; read once, never written to."""
    rows = np.loadtxt(_bundled_file(), delimiter=",", dtype=np.int64)
    images = torch.from_numpy(rows[:, :-1].reshape(-1, 1, 8, 8).astype(np.float32))
    if form == "16x16":
        images = functional.interpolate(images, size=(_ENLARGED, _ENLARGED), mode="bilinear", align_corners=False)
    return images.numpy(), rows[:, -1].copy()


def _bundled_file() -> Path:
    """The file that scikit-learn's own loader reads; importing the library for it would take a second and 50 MB a process."""
    found = find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise ConfigError("the digits come with scikit-learn, which is not installed: pip install scikit-learn")
    return Path(found.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
