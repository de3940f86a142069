"""Images 16×16 with one channel, drawn by rules that say what a network must be able to compute.

Every generator is vectorised over samples and takes the number of samples and a NumPy generator.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from esper.tolaria.data import Dataset
from esper.tolaria.tasks.parts import Sampler, Samples, draw_parts, standardised

if TYPE_CHECKING:
    from esper.leyline.rng import SeedTree
    from esper.tolaria.tasks.base import SampleCounts

IMAGE_SIZE = 16
NUM_TEXTURES = 8
NUM_PLACES = 9
NUM_DIRECTIONS = 8
_PLACES_PER_SIDE = 3
_DIRECTIONS = np.array([(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)])
"""[8, 2] row and column steps."""
_BLOB_SIZE = 5
"""Pixels along a side of a blob, and from one place to the next."""
_CONTRAST = 3.0
"""Height of a blob over noise of 0.3."""


def texture(count: int, rng: np.random.Generator) -> Samples:
    """Class = orientation of a grating, one of eight; its phase is random and noise lies on it.

    Every class has the same mean image, so a linear network under global average pooling is at chance;
    one nonlinearity behind a 3×3 convolution tells the classes apart.
    """
    label = rng.integers(NUM_TEXTURES, size=count)
    angle = (label + rng.uniform(-0.2, 0.2, count)) * (np.pi / NUM_TEXTURES)
    frequency = rng.uniform(1.4, 1.9, count)
    row, column = np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE]
    along = np.cos(angle)[:, None, None] * column + np.sin(angle)[:, None, None] * row
    phase = rng.uniform(0, 2 * np.pi, count)[:, None, None]
    wave = np.sin(frequency[:, None, None] * along + phase)
    return _image(wave + 0.6 * rng.standard_normal(wave.shape)), label


def where(count: int, rng: np.random.Generator) -> Samples:
    """Class = in which of 3×3 places the bright blob is; a dark blob fills another place.

    A network must tell bright from dark and keep the place until the pooling: small receptive fields
    under global average pooling see the same marks in every class.
    """
    label = rng.integers(NUM_PLACES, size=count)
    other = label + rng.integers(1, NUM_PLACES, count)
    canvas = _noise(count, rng)
    for contrast, place in ((_CONTRAST, label), (-_CONTRAST, other)):
        cell = np.stack([place % NUM_PLACES // _PLACES_PER_SIDE, place % _PLACES_PER_SIDE], 1)
        _stamp(canvas, contrast, cell * _BLOB_SIZE + rng.integers(0, 2, (count, 2)))
    return _image(canvas), label


def relation(count: int, rng: np.random.Generator) -> Samples:
    """Class = direction from the bright blob to the dark one, one of eight; where the pair lies is random.

    A network needs two detectors and a receptive field that spans both marks.
    """
    label = rng.integers(NUM_DIRECTIONS, size=count)
    step = _DIRECTIONS[label] * rng.integers(5, 8, (count, 1))
    lowest = np.maximum(0, -step)
    highest = IMAGE_SIZE - _BLOB_SIZE - np.maximum(0, step)
    corner = rng.integers(lowest, highest + 1)
    canvas = _noise(count, rng)
    _stamp(canvas, _CONTRAST, corner)
    _stamp(canvas, -_CONTRAST, corner + step)
    return _image(canvas), label


def make_procedural(counts: SampleCounts, seeds: SeedTree, *, sampler: Sampler, num_classes: int) -> Dataset:
    """Images of one rule; training, validation and test data come from three separate nodes of the tree."""
    images, (train_y, val_y, test_y) = draw_parts(counts, seeds, sampler)
    train_x, val_x, test_x = standardised(images)
    return Dataset(train_x, train_y, val_x, val_y, test_x, test_y, num_classes=num_classes, kind="image")


make_texture = partial(make_procedural, sampler=texture, num_classes=NUM_TEXTURES)
make_where = partial(make_procedural, sampler=where, num_classes=NUM_PLACES)
make_relation = partial(make_procedural, sampler=relation, num_classes=NUM_DIRECTIONS)


def _noise(count: int, rng: np.random.Generator) -> np.ndarray:
    return 0.3 * rng.standard_normal((count, IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)


def _stamp(canvas: np.ndarray, contrast: float, corner: np.ndarray) -> None:
    """Add one blob to each image [N, H, W] with its upper left pixel at `corner` [N, 2]."""
    offset = np.arange(_BLOB_SIZE)
    profile = np.exp(-((offset - _BLOB_SIZE // 2) ** 2) / 3.0)
    rows = corner[:, 0, None, None] + offset[None, :, None]
    columns = corner[:, 1, None, None] + offset[None, None, :]
    canvas[np.arange(len(canvas))[:, None, None], rows, columns] += contrast * np.outer(profile, profile)


def _image(values: np.ndarray) -> np.ndarray:
    return values[:, None].astype(np.float32)
