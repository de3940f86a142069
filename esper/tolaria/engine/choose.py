"""Which engine trains: asked of the settings, and where they leave it open, of what was measured."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from esper.leyline.host import HostFamily
from esper.tolaria.engine.base import EngineConfig, OneByOne, Trainer
from esper.tolaria.engine.together import Together

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.tolaria.engine.base import Engine

TABLE = "measured.json"
"""Written by `python -m benchmarks.bench_population --write`."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Hosts of one shape, trained one by one and as one."""

    family: HostFamily
    host: str
    macs: int
    """Multiply-accumulates of the host for one sample."""
    num_members: int
    speedup: float
    """CPU seconds of an epoch and its evaluation one by one, over those as one."""


def make_trainer(config: EngineConfig) -> Trainer:
    """The trainer that the settings ask for."""
    if config.kind == "sequential":
        return OneByOne()
    if config.kind == "population":
        return Together(lambda _: True, insists=True)
    table = read_table()
    return Together(lambda members: is_faster_together(members, table))


def read_table() -> tuple[Measurement, ...]:
    """What was measured on a CPU, as shipped."""
    rows = json.loads(resources.files("esper.tolaria.engine").joinpath(TABLE).read_text())
    return tuple(Measurement(**row) for row in rows["measurements"])


def nearest(table: Sequence[Measurement], family: HostFamily, macs: int, num_members: int) -> Measurement:
    """The measurement that is closest in host size and in number of members, both on a logarithmic scale."""
    own = [row for row in table if row.family == family]
    return min(own, key=lambda row: abs(math.log(row.macs / macs)) + abs(math.log(row.num_members / num_members)))


def is_faster_together(members: Sequence[Engine], table: Sequence[Measurement]) -> bool:
    """Whether hosts that are alike train faster as one: by the nearest measurement on a CPU, and always on a GPU.

    A GPU waits for launches while small hosts run one by one; there is no measurement of it yet.
    """
    if members[0].dataset.train_x.device.type != "cpu":
        return len(members) > 1
    host = members[0].model.host
    macs = max(sum(layer.flops for layer in host.layer_specs()), 1)
    return nearest(table, host.family, macs, len(members)).speedup > 1.0
