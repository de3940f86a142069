from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.config import GrowthConfig
from esper.kasmina.hosts import CNNHost, CNNHostConfig
from esper.kasmina.model import MorphogeneticModel
from esper.leyline.load import ConfigError
from esper.leyline.rng import SeedTree
from esper.tolaria import EngineConfig
from esper.tolaria.data import Dataset
from esper.tolaria.engine.layouts import (
    HostTraits,
    LayoutMeasurement,
    choose_layout,
    cpu_instructions,
    host_traits,
    lay_out,
    nearest_layouts,
    read_layouts,
)
from tests.fakes.growth import make_host
from tests.tolaria.trials import CATALOGUE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.leyline.host import HostProtocol
    from esper.tolaria.engine.layouts import LayoutChoice, MemoryFormat, Precision

TRAITS = HostTraits(macs=1_000_000, values=500_000, takes_images=True, is_like_measured=True)


class GroupNormHost(CNNHost):
    """A host that holds torch's own group norm."""

    def __init__(self) -> None:
        super().__init__(CNNHostConfig(image_size=8, num_classes=5))
        self.norm = nn.GroupNorm(1, 8)


def row(memory_format: MemoryFormat, precision: Precision, eager_ms: float, **changes: Any) -> LayoutMeasurement:
    measured = LayoutMeasurement(
        host="plain",
        macs=1_000_000,
        values=500_000,
        has_seeds=False,
        instructions="avx2",
        memory_format=memory_format,
        precision=precision,
        reference_ms=10.0,
        eager_ms=eager_ms,
        compiled_ms=None,
        compile_sec=None,
    )
    return replace(measured, **changes)


def choose(table: Sequence[LayoutMeasurement], *, instructions: str = "avx2", traits: HostTraits = TRAITS, **config: Any) -> LayoutChoice:
    return choose_layout(EngineConfig(**config), traits, instructions=instructions, table=table)


TABLE = (row("contiguous", "fp32", 10.0), row("channels_last", "fp32", 7.0), row("channels_last", "bf16", 4.0))


def test_auto_takes_the_fastest_layout_that_was_measured() -> None:
    choice = choose(TABLE)
    assert (choice.memory_format, choice.precision, choice.compile_after) == ("channels_last", "fp32", None)
    assert "as measured with plain without seeds on avx2" in choice.why


def test_auto_asks_anew_when_seeds_compute() -> None:
    grown = tuple(replace(measured, has_seeds=True) for measured in (row("contiguous", "fp32", 10.0), row("channels_last", "fp32", 10.5)))
    assert choose((*TABLE, *grown)).memory_format == "channels_last"
    assert choose((*TABLE, *grown), traits=replace(TRAITS, has_seeds=True)).memory_format == "contiguous"
    assert choose(TABLE, traits=replace(TRAITS, has_seeds=True)).memory_format == "contiguous"


def test_a_gain_within_the_noise_is_none() -> None:
    assert choose((TABLE[0], row("channels_last", "fp32", 9.9))).memory_format == "contiguous"


def test_bf16_needs_instructions_a_measurement_with_them_and_equal_accuracy() -> None:
    amx = tuple(replace(measured, instructions="amx", accuracy_is_equal=True) for measured in TABLE)
    assert choose(amx, instructions="amx").precision == "bf16"
    for unproven in (None, False):
        choice = choose([replace(measured, accuracy_is_equal=unproven) for measured in amx], instructions="amx")
        assert choice.precision == "fp32" and "equal accuracy in bf16 has not been shown" in choice.why
    assert choose(TABLE, instructions="amx").precision == "fp32"
    assert choose(TABLE).precision == "fp32"
    assert choose((*amx, *TABLE), instructions="avx2").precision == "fp32"
    slow = (amx[0], amx[1], replace(amx[2], eager_ms=8.0))
    assert choose(slow, instructions="amx").precision == "fp32"


def test_settings_come_before_measurements() -> None:
    choice = choose(TABLE, memory_format="contiguous", precision="bf16", compile="on")
    assert (choice.memory_format, choice.precision, choice.compile_after, choice.must_pay) == ("contiguous", "bf16", 0, False)
    assert choose(TABLE, precision="bf16").memory_format == "channels_last"
    assert choose(TABLE, compile="off").compile_after is None


def test_hosts_unlike_the_measured_ones_stay_as_they_are() -> None:
    for traits in (replace(TRAITS, is_like_measured=False), replace(TRAITS, takes_images=False)):
        choice = choose(TABLE, traits=traits)
        assert (choice.memory_format, choice.precision, choice.compile_after) == ("contiguous", "fp32", None)
    assert choose((), traits=TRAITS).memory_format == "contiguous"


def test_inputs_that_are_no_images_are_never_channels_last() -> None:
    assert choose(TABLE, traits=replace(TRAITS, takes_images=False), memory_format="channels_last").memory_format == "contiguous"


def test_steps_are_compiled_after_as_many_as_it_takes_to_pay() -> None:
    table = (row("channels_last", "fp32", 7.0, compiled_ms=5.0, compile_sec=8.0),)
    assert (choose(table).compile_after, choose(table).must_pay) == (4000, True)
    assert choose((replace(table[0], compiled_ms=7.0),)).compile_after is None
    assert choose((replace(table[0], compiled_ms=None, compile_sec=None),)).compile_after is None
    assert choose((replace(table[0], memory_format="contiguous", eager_ms=10.0), replace(table[0], compiled_ms=None))).compile_after is None


def test_the_nearest_host_is_asked_and_the_same_cpu_first() -> None:
    small = tuple(replace(measured, host="small", macs=1000, values=1000, eager_ms=20.0) for measured in TABLE)
    near = nearest_layouts((*small, *TABLE), replace(TRAITS, macs=2000, values=3000), "avx2")
    assert {measured.host for measured in near} == {"small"}
    other = tuple(replace(measured, instructions="amx") for measured in small)
    assert {measured.host for measured in nearest_layouts((*other, *TABLE), TRAITS, "amx")} == {"small"}
    assert {measured.host for measured in nearest_layouts((*other, *TABLE), TRAITS, "neon")} == {"plain"}


def test_the_shipped_table_never_picks_what_was_measured_slower() -> None:
    table = read_layouts()
    assert table
    for measured in table:
        traits = HostTraits(measured.macs, measured.values, takes_images=True, is_like_measured=True, has_seeds=measured.has_seeds)
        choice = choose_layout(EngineConfig(), traits, instructions=measured.instructions, table=table)
        same = nearest_layouts(table, traits, measured.instructions)
        taken = [m for m in same if (m.memory_format, m.precision) == (choice.memory_format, choice.precision)]
        assert taken and min(m.speedup for m in taken) >= 1.0
        assert choice.precision == "fp32" or measured.instructions in ("amx", "avx512_bf16")


def traits_of(host: HostProtocol, x: Tensor, **kind: Any) -> HostTraits:
    y = torch.zeros(len(x), dtype=torch.long)
    model = MorphogeneticModel(host, CATALOGUE, GrowthConfig(), SeedTree(1))
    return host_traits(model, Dataset(x, y, x, y, x, y, num_classes=5, **kind), batch_size=32)


def test_traits_tell_images_and_trained_hosts_apart() -> None:
    images = torch.zeros(4, 1, 8, 8)
    traits = traits_of(CNNHost(CNNHostConfig(image_size=8, num_classes=5)), images, kind="image")
    assert traits.takes_images and traits.is_like_measured and not traits.has_group_norm
    assert traits.values == 32 * 4 * 8 * 8
    assert traits.macs == sum(layer.flops for layer in CNNHost(CNNHostConfig(image_size=8, num_classes=5)).layer_specs())
    frozen = CNNHost(CNNHostConfig(image_size=8, num_classes=5))
    frozen.stages[0].requires_grad_(False)
    assert not traits_of(frozen, images, kind="image").is_like_measured
    rows = traits_of(make_host("mlp"), torch.zeros(4, 10), kind="vector")
    assert not rows.takes_images and not rows.is_like_measured


def test_a_group_norm_keeps_a_host_contiguous() -> None:
    traits = traits_of(GroupNormHost(), torch.zeros(4, 1, 8, 8), kind="image")
    assert traits.has_group_norm
    assert choose(TABLE, traits=traits).memory_format == "contiguous"
    with pytest.raises(ConfigError, match=r"engine\.memory_format='channels_last'.*GroupNorm"):
        choose(TABLE, traits=traits, memory_format="channels_last")


@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (3, 1, 5, 6), (1, 2, 4, 4), (2, 3, 1, 1)])
def test_laying_out_keeps_values_and_gives_the_formats_strides(shape: tuple[int, ...]) -> None:
    stored = torch.randn(5, *shape, generator=SeedTree(3).torch())
    for x in (stored[2], stored[2].contiguous(memory_format=torch.channels_last)):
        laid = lay_out(x, "channels_last")
        assert torch.equal(laid, x)
        _, C, H, W = shape
        assert laid.stride() == (C * H * W, 1, W * C, C)
    assert lay_out(stored[2], "contiguous").data_ptr() == stored[2].data_ptr()


def test_values_stay_channels_last_through_a_host_of_a_single_channel() -> None:
    x = lay_out(torch.randn(2, 1, 8, 8, generator=SeedTree(4).torch()), "channels_last")
    seen: list[bool] = []

    def note(_: int, value: Tensor) -> Tensor:
        seen.append(value.is_contiguous(memory_format=torch.channels_last) and not value.is_contiguous())
        return value

    CNNHost(CNNHostConfig(image_size=8)).run(x, note)
    assert seen == [True, True, True]


def test_rows_and_tokens_are_left_alone() -> None:
    tokens = torch.zeros(3, 6, dtype=torch.long)
    assert lay_out(tokens, "channels_last") is tokens


def test_the_cpu_says_what_it_is() -> None:
    assert cpu_instructions() in ("amx", "avx512_bf16") or cpu_instructions() == torch.backends.cpu.get_cpu_capability().lower()
