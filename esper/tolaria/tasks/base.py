"""What a task is: contexts, presets and the episodes drawn from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from esper.leyline.host import HostProtocol
from esper.leyline.load import ConfigError
from esper.tolaria.data import Dataset

if TYPE_CHECKING:
    from esper.leyline.rng import SeedTree

Split = Literal["train", "eval", "heldout"]
"""train and eval share their contexts, never their randomness; heldout has contexts that training never shows."""


@dataclass(frozen=True, slots=True)
class Context:
    """What is hidden from the policy: the task, the host's build and its width."""

    task: str
    host: str
    width: float
    """Factor on the host's channels."""

    @property
    def name(self) -> str:
        """`task/host@width`, e.g. `texture/linear@0.75`."""
        return f"{self.task}/{self.host}@{self.width:g}"


@dataclass(frozen=True, slots=True)
class SampleCounts:
    """Samples in each part of an episode's data."""

    train: int
    val: int
    test: int


@dataclass(frozen=True, slots=True)
class Episode:
    """One host training run before it begins."""

    context: Context
    dataset: Dataset
    host: HostProtocol
    """A fresh host; also an `nn.Module`."""


class Task(Protocol):
    """Draws the data of one episode; equal seeds give equal data, and the three parts share no sample.

    dataset = task(SampleCounts(512, 384, 900), seeds)
    """

    def __call__(self, counts: SampleCounts, seeds: SeedTree) -> Dataset:
        """Make a data set of these sizes."""
        ...


@dataclass(frozen=True, slots=True)
class TaskPreset:
    """A distribution of episodes, and how their hosts are trained."""

    name: str
    train_pairs: tuple[tuple[str, str], ...]
    """Task and host, as training and evaluation show them."""
    train_widths: tuple[float, ...]
    heldout_pairs: tuple[tuple[str, str], ...]
    heldout_widths: tuple[float, ...]
    """Widths at which the training pairs are held out."""
    counts: SampleCounts
    """How many samples are drawn; with custom, the most that are taken."""
    max_epochs: int
    growth: Mapping[str, bool | int | float | str | Sequence[str]]
    """Settings of `GrowthConfig` that this preset wants to differ from the defaults."""
    batch_size: int = 64
    learning_rate: float = 0.01
    rent_reference_params: int | None = None
    """Parameters that count as one unit of rent; None means the host's own number."""

    @property
    def train_contexts(self) -> tuple[Context, ...]:
        """Every training pair at every training width."""
        return _product(self.train_pairs, self.train_widths)

    @property
    def heldout_contexts(self) -> tuple[Context, ...]:
        """Held-out pairs at the training widths, then training pairs at the held-out widths."""
        return _product(self.heldout_pairs, self.train_widths) + _product(self.train_pairs, self.heldout_widths)


def parse_context(name: str) -> Context:
    """Read `task/host@width`; the width may be left out and is then 1.

    Raises:
        ConfigError: If the text has another form.
    """
    pair, _, width = name.partition("@")
    task, _, host = pair.partition("/")
    try:
        factor = float(width or 1)
    except ValueError:
        factor = 0.0
    if not task or not host or not 0 < factor < float("inf"):
        raise ConfigError(f"context {name!r} is not of the form task/host@width, e.g. texture/linear@0.75")
    return Context(task, host, factor)


def _product(pairs: Sequence[tuple[str, str]], widths: Sequence[float]) -> tuple[Context, ...]:
    return tuple(Context(task, host, width) for task, host in pairs for width in widths)
