"""Hosts made of users' models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from esper.kasmina.config import GrowthConfig
from esper.kasmina.model import MorphogeneticModel
from esper.kasmina.wrap import WrappedHost, wrap
from esper.leyline.rng import SeedTree
from tests.fakes.catalogue import FakeCatalogue
from tests.fakes.growth import EAGER
from tests.fakes.users import Images, Tokens, Vectors, images, tokens, vectors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from esper.leyline.host import HostFamily


def wrapped(family: HostFamily, slots: Sequence[str] | None = None) -> tuple[WrappedHost, Tensor]:
    with SeedTree(1).torch_scope():
        if family == "cnn":
            return wrap(Images(), slots or ["stage1", "stage2"], example=images()), images()
        if family == "transformer":
            return wrap(Tokens(), slots or ["embedding", "encoder.layers.0"], example=tokens()), tokens()
        return wrap(Vectors(), slots or ["2", "4"], example=vectors()), vectors()


def growing(host: WrappedHost, catalogue: Any = None, **config: Any) -> MorphogeneticModel:
    return MorphogeneticModel(host, catalogue or FakeCatalogue(), GrowthConfig(**{**EAGER, **config}), SeedTree(7))
