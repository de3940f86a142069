"""How one host computes: memory format, precision, and when it is compiled; asked of the settings and of what was measured.

`choose_layout` decides and says why; `lay_out` puts a batch as was decided.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from esper.kasmina.hosts import CNNHost
from esper.leyline.load import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.kasmina.model import MorphogeneticModel
    from esper.tolaria.data import Dataset
    from esper.tolaria.engine.base import EngineConfig

MemoryFormat = Literal["contiguous", "channels_last"]
Precision = Literal["fp32", "bf16"]

LAYOUT_TABLE = "measured_layouts.json"
"""Written by `python -m benchmarks.bench_sequential --write`."""
BF16_INSTRUCTIONS = ("amx", "avx512_bf16")
"""What a CPU must have for bf16 to be considered."""
LAYOUT_RULE = (
    "Of the convolutional hosts measured, take the nearest in multiply-accumulates and in size of values, both on a logarithmic "
    "scale, with a seed in every slot or with none, as the host has seeds that compute or not. The layout is the fastest there, if it "
    "gained at all. bf16 counts only where the CPU has instructions for it, was measured with them, and final accuracies were shown "
    "to be equal there. Steps are compiled after as many as it takes to pay. Other hosts stay contiguous, fp32 and eager."
)
"""What `auto` does, for people."""
MIN_SPEEDUP = 1.03
"""Less counts as none: repeated measurements differ by as much."""


@dataclass(frozen=True, slots=True)
class LayoutMeasurement:
    """Training steps of one host in one layout, beside the same in contiguous fp32, without compilation."""

    host: str
    macs: int
    """Multiply-accumulates of the host for one sample."""
    values: int
    """Numbers in the widest value of one training batch."""
    has_seeds: bool
    """Whether a seed was in every slot."""
    instructions: str
    """Of the CPU, as `cpu_instructions` says."""
    memory_format: MemoryFormat
    precision: Precision
    reference_ms: float
    """CPU per step, contiguous fp32."""
    eager_ms: float
    compiled_ms: float | None
    """None where it was not measured."""
    compile_sec: float | None
    """CPU that compiling took, all processes."""
    accuracy_is_equal: bool | None = None
    """Whether final accuracies were shown to equal those of fp32 on such a CPU; None where it was not tried."""

    @property
    def speedup(self) -> float:
        """Reference over this layout, both eager."""
        return self.reference_ms / self.eager_ms

    @property
    def pays_after(self) -> int | None:
        """Steps after which compiling has cost less than it saved; None where it never does or was not measured."""
        if self.compiled_ms is None or self.compile_sec is None or self.compiled_ms >= self.eager_ms:
            return None
        return math.ceil(1000.0 * self.compile_sec / (self.eager_ms - self.compiled_ms))


@dataclass(frozen=True, slots=True)
class HostTraits:
    """What the choice depends on, of a host and its data."""

    macs: int
    values: int
    takes_images: bool
    """Batches are [B, C, H, W]."""
    is_like_measured: bool
    """A convolutional host of ours on the CPU, all of it trained, so that the measurements hold."""
    has_seeds: bool = False
    """A seed computes."""
    has_group_norm: bool = False
    """The host holds an `nn.GroupNorm`, whose backward crashes in torch 2.13 on channels_last values without gradient."""


@dataclass(frozen=True, slots=True)
class LayoutChoice:
    """How a host computes."""

    memory_format: MemoryFormat
    precision: Precision
    compile_after: int | None
    """Training steps of one structure before it is compiled; 0 at once, None never."""
    must_pay: bool
    """Compile only while at least `compile_after` steps are still to come."""
    why: str
    """One sentence per decision, for people."""


def choose_layout(config: EngineConfig, traits: HostTraits, *, instructions: str, table: Sequence[LayoutMeasurement]) -> LayoutChoice:
    """What `LAYOUT_RULE` and the settings say; deterministic, the earlier row of the table where two are equally good.

    Args:
        config: Settings; what they fix is not asked of the table.
        traits: The host.
        instructions: Of this CPU.
        table: Measurements.

    Raises:
        ConfigError: If channels_last is asked of a host that it would crash.
    """
    if config.memory_format == "channels_last" and traits.has_group_norm:
        raise ConfigError(
            "engine.memory_format='channels_last': the host holds an nn.GroupNorm, whose backward can crash the process on such values "
            "in torch 2.13; use auto or contiguous"
        )
    rows = nearest_layouts(table, traits, instructions) if traits.is_like_measured else []
    fitting = [row for row in rows if _fits(row, config, traits)]
    best = _best_layout(fitting)
    memory_format = best[0] if config.memory_format == "auto" else config.memory_format
    if not traits.takes_images:
        memory_format = "contiguous"
    precision = best[1] if config.precision == "auto" else config.precision
    after, must_pay = _compile_after(config, [row for row in rows if (row.memory_format, row.precision) == (memory_format, precision)])
    why = "; ".join(
        [
            _explain("memory_format", config.memory_format, memory_format, rows, traits),
            _explain("precision", config.precision, precision, rows, traits),
            _explain_compile(config, after),
        ]
    )
    return LayoutChoice(memory_format, precision, after, must_pay, why)


def choices_for(traits: HostTraits, config: EngineConfig) -> dict[bool, LayoutChoice]:
    """The choices on this machine by the shipped table: without seeds that compute, and with them."""
    table, instructions = read_layouts(), cpu_instructions()
    return {flag: choose_layout(config, replace(traits, has_seeds=flag), instructions=instructions, table=table) for flag in (False, True)}


def host_traits(model: MorphogeneticModel, dataset: Dataset, batch_size: int) -> HostTraits:
    """Size and kind of a host on its data."""
    host, sample = model.host, dataset.train_x[0]
    module = model.get_submodule("host")
    widest = max(sample.numel(), *(spec.channels * spec.positions for spec in host.injection_specs()))
    is_trained = all(parameter.requires_grad for parameter in module.parameters())
    has_group_norm = any(isinstance(part, nn.GroupNorm) for part in module.modules())
    return HostTraits(
        macs=max(sum(layer.flops for layer in host.layer_specs()), 1),
        values=widest * batch_size,
        takes_images=dataset.kind == "image" and sample.ndim == 3,
        is_like_measured=isinstance(host, CNNHost) and is_trained and not has_group_norm and dataset.train_x.device.type == "cpu",
        has_group_norm=has_group_norm,
    )


@cache
def read_layouts() -> tuple[LayoutMeasurement, ...]:
    """What was measured, as shipped."""
    return tuple(LayoutMeasurement(**row) for row in read_layout_results()["measurements"])


def read_layout_results() -> dict[str, Any]:
    """The shipped table with where and when it was measured."""
    results: dict[str, Any] = json.loads(resources.files("esper.tolaria.engine").joinpath(LAYOUT_TABLE).read_text())
    return results


def cpu_instructions() -> str:
    """The best of what matters here: `amx`, `avx512_bf16`, or what torch's own kernels are built for, as `avx2`."""
    if torch.cpu._is_amx_tile_supported():
        return "amx"
    if torch.cpu._is_avx512_bf16_supported():
        return "avx512_bf16"
    return torch.backends.cpu.get_cpu_capability().lower()


def nearest_layouts(table: Sequence[LayoutMeasurement], traits: HostTraits, instructions: str) -> list[LayoutMeasurement]:
    """Every layout of the one host that is most like this one, measured on such a CPU, or on any other where none was."""
    alike = [row for row in table if row.has_seeds == traits.has_seeds]
    own = [row for row in alike if row.instructions == instructions] or alike
    if not own:
        return []

    def distance(row: LayoutMeasurement) -> float:
        return abs(math.log(row.macs / traits.macs)) + abs(math.log(row.values / traits.values))

    like = min(own, key=distance)
    return [row for row in own if (row.host, row.values, row.instructions) == (like.host, like.values, like.instructions)]


def lay_out(x: Tensor, memory_format: MemoryFormat) -> Tensor:
    """The same images [B, C, H, W] with their values as `memory_format` says; anything else as it is.

    The host's weights are left alone: a convolution takes the format of its input, and hands it on. Strides are always those
    of the format, since torch takes images of a single channel for contiguous ones.
    """
    if memory_format == "contiguous" or x.ndim != 4:
        return x
    _, C, H, W = x.shape
    return x.contiguous(memory_format=torch.channels_last).as_strided(x.shape, (C * H * W, 1, W * C, C))


def _fits(row: LayoutMeasurement, config: EngineConfig, traits: HostTraits) -> bool:
    """Whether `auto` may take a row, and the settings that are fixed allow it."""
    if config.memory_format not in ("auto", row.memory_format) or config.precision not in ("auto", row.precision):
        return False
    may_be_bf16 = config.precision == "bf16" or (row.instructions in BF16_INSTRUCTIONS and row.accuracy_is_equal is True)
    return (row.precision == "fp32" or may_be_bf16) and (row.memory_format == "contiguous" or traits.takes_images)


def _best_layout(rows: Sequence[LayoutMeasurement]) -> tuple[MemoryFormat, Precision]:
    """The layout that gains the most; contiguous fp32 where none does."""
    best = max((row for row in rows if row.speedup >= MIN_SPEEDUP), key=lambda row: row.speedup, default=None)
    return ("contiguous", "fp32") if best is None else (best.memory_format, best.precision)


def _compile_after(config: EngineConfig, rows: Sequence[LayoutMeasurement]) -> tuple[int | None, bool]:
    """Steps before compilation, and whether as many must be left."""
    if config.compile == "on":
        return 0, False
    pays_after = rows[0].pays_after if rows and config.compile == "auto" else None
    return pays_after, True


def _explain(name: str, asked: str, taken: str, rows: Sequence[LayoutMeasurement], traits: HostTraits) -> str:
    if asked == taken:
        return f"{name} {taken}: the settings say so"
    if name == "memory_format" and not traits.takes_images:
        return f"{name} {taken}: the data are no images"
    if not rows:
        return f"{name} {taken}: no measurement is of a host like this"
    row, state = rows[0], "with seeds" if traits.has_seeds else "without seeds"
    if name == "precision" and taken == "fp32" and row.instructions not in BF16_INSTRUCTIONS:
        return f"{name} {taken}: no measurement on a CPU with bf16 instructions ({row.instructions})"
    if name == "precision" and taken == "fp32" and not any(r.precision == "bf16" and r.accuracy_is_equal for r in rows):
        return f"{name} {taken}: equal accuracy in bf16 has not been shown on {row.instructions}"
    return f"{name} {taken}: as measured with {row.host} {state} on {row.instructions}"


def _explain_compile(config: EngineConfig, after: int | None) -> str:
    if config.compile != "auto":
        return f"compile {config.compile}: the settings say so"
    return "compile off: nothing measured says that it pays" if after is None else f"compile after {after} steps, if as many are to come"
