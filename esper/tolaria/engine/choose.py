"""Which engine trains: asked of the settings, and where they leave it open, of what was measured."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from esper.leyline.host import HostFamily
from esper.tolaria.engine.base import EngineConfig, OneByOne, Trainer
from esper.tolaria.engine.together import Together

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.tolaria.engine.base import Engine

TABLE = "measured.json"
"""Written by `python -m benchmarks.bench_population --write`."""
RULE = (
    "Of the measured hosts of the family, take the nearest in multiply-accumulates and in size of values, both on a logarithmic scale. "
    "Hosts that are alike run as one, at most as many at once as gained the most there. They run one by one where as many, or the "
    "next fewer that were measured, did not gain. A gain counts as the smaller of those without seeds and with one in every slot."
)
"""What `choose` does, for people."""


@dataclass(frozen=True, slots=True)
class HostSize:
    """What a measurement is looked up by."""

    family: HostFamily
    macs: int
    """Multiply-accumulates of the host for one sample."""
    values: int
    """Numbers in the widest value of one training batch."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Hosts of one shape, trained for an epoch and validated one by one and as one."""

    family: HostFamily
    host: str
    macs: int
    values: int
    num_members: int
    one_by_one_ms: float
    """CPU of all members, without seeds."""
    as_one_ms: float
    grown_one_by_one_ms: float
    """With a seed of one kind or another in every slot, and all counterfactual configurations in the validation."""
    grown_as_one_ms: float

    @property
    def speedup(self) -> float:
        """CPU one by one over CPU as one, without seeds."""
        return self.one_by_one_ms / self.as_one_ms

    @property
    def grown_speedup(self) -> float:
        """The same with a seed in every slot."""
        return self.grown_one_by_one_ms / self.grown_as_one_ms

    @property
    def gain(self) -> float:
        """The smaller of both."""
        return min(self.speedup, self.grown_speedup)


@dataclass(frozen=True, slots=True)
class Choice:
    """How to run hosts that are alike."""

    runs_as_one: bool
    at_most: int
    """How many at once; 1 where they run one by one."""
    measurement: Measurement
    """What it rests on."""


def make_trainer(config: EngineConfig) -> Trainer:
    """The trainer that the settings ask for; `auto` takes every host as one on a GPU, which waits for launches otherwise."""
    if config.kind == "sequential":
        return OneByOne()
    if config.kind == "population":
        return Together(insists=True)
    table = read_table()

    def at_most(members: Sequence[Engine]) -> int:
        if not is_on_cpu(members):
            return len(members) if len(members) > 1 else 0
        choice = choose_for(members, table)
        return choice.at_most if choice.runs_as_one else 0

    return Together(at_most)


@cache
def read_table() -> tuple[Measurement, ...]:
    """What was measured on a CPU, as shipped."""
    return tuple(Measurement(**row) for row in read_results()["measurements"])


def read_results() -> dict[str, Any]:
    """The shipped table with where and when it was measured."""
    results: dict[str, Any] = json.loads(resources.files("esper.tolaria.engine").joinpath(TABLE).read_text())
    return results


def choose(table: Sequence[Measurement], size: HostSize, num_members: int) -> Choice:
    """What `RULE` says for so many hosts that are alike; the earlier row of the table where two are equally near or good."""
    rows = nearest(table, size)
    best = max(rows, key=lambda row: row.gain).num_members
    at_most = min(num_members, best)
    row = max((row for row in rows if row.num_members <= at_most), key=lambda row: row.num_members)
    return Choice(True, at_most, row) if row.gain > 1.0 else Choice(False, 1, row)


def nearest(table: Sequence[Measurement], size: HostSize) -> list[Measurement]:
    """The measurements of the one host that is most like this one, for every number of members."""

    def distance(row: Measurement) -> float:
        return abs(math.log(row.macs / size.macs)) + abs(math.log(row.values / size.values))

    own = [row for row in table if row.family == size.family]
    like = min(own, key=distance)
    return [row for row in own if row.host == like.host]


def choose_for(members: Sequence[Engine], table: Sequence[Measurement]) -> Choice:
    """The choice for members that are alike."""
    return choose(table, host_size(members[0]), len(members))


def host_size(engine: Engine) -> HostSize:
    """How large an engine's host and batches are."""
    host = engine.model.host
    macs = sum(layer.flops for layer in host.layer_specs())
    widest = max(engine.dataset.train_x.shape[1:].numel(), *(spec.channels * spec.positions for spec in host.injection_specs()))
    return HostSize(host.family, max(macs, 1), widest * engine.plan.batch_size)


def is_on_cpu(members: Sequence[Engine]) -> bool:
    """Whether the measurements hold for these members."""
    return members[0].dataset.train_x.device.type == "cpu"
