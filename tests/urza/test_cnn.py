"""What the convolutional blueprints are for: a host that cannot solve a task, and the blueprint that lets it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from esper.leyline.rng import SeedTree
from esper.urza import Catalogue
from esper.urza.cnn import ChannelAttention, ConvLight, LowRank, SpatialAttention

SEEDS = SeedTree(0, ("urza", "cnn"))


class AveragingHost(nn.Module):
    """1×1 convolution without activation, the seed, global average, linear: blind to texture and to place."""

    def __init__(self, blueprint: str | None, channels: int, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 1)
        self.seed = Catalogue.standard().build(blueprint, "cnn", channels, 144) if blueprint else nn.Identity()
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.seed(self.stem(x)).mean(dim=(2, 3)))
        return logits


def stripes(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """[N, 1, 12, 12] stripes of four orientations at random phases; each image has mean 0, whatever its class."""
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    label = torch.randint(4, (count,), generator=generator)
    phase = 2 * math.pi * torch.rand(count, 1, 1, generator=generator)
    direction = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0]])[label][:, :, None, None]
    image = torch.cos(2 * math.pi / 4 * (direction[:, 0] * x + direction[:, 1] * y) + phase)
    return image[:, None], label


def blobs(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """[N, 1, 12, 12] one bright square in one of four quadrants."""
    label = torch.randint(4, (count,), generator=generator)
    image = 0.1 * torch.randn(count, 1, 12, 12, generator=generator)
    for index, quadrant in enumerate(label.tolist()):
        top, left = 1 + 6 * (quadrant // 2), 1 + 6 * (quadrant % 2)
        image[index, 0, top : top + 4, left : left + 4] += 1.0
    return image, label


def accuracy_after_training(blueprint: str | None, data: str) -> float:
    """Percent on fresh samples after 150 steps."""
    make = {"stripes": stripes, "blobs": blobs}[data]
    with SEEDS.child(data).torch_scope():
        host = AveragingHost(blueprint, 4, 4)
    optimizer = torch.optim.AdamW(host.parameters(), lr=0.02)
    generator = SEEDS.child(data, "samples").torch()
    for _ in range(150):
        image, label = make(64, generator)
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(host(image), label))
        optimizer.step()
    image, label = make(512, generator)
    with torch.no_grad():
        return 100.0 * float((host(image).argmax(1) == label).float().mean())


@pytest.mark.parametrize("blueprint", ["depthwise", "bottleneck", "conv_light", "conv_heavy"])
def test_convolutions_make_a_linear_host_see_texture(blueprint: str) -> None:
    assert accuracy_after_training(blueprint, "stripes") > 90.0


@pytest.mark.parametrize("blueprint", [None, "lora"])
def test_linear_hosts_stay_blind_to_texture(blueprint: str | None) -> None:
    assert accuracy_after_training(blueprint, "stripes") < 40.0


def test_spatial_attention_makes_an_averaging_host_see_place() -> None:
    assert accuracy_after_training("spatial_attention", "blobs") > 90.0


@pytest.mark.parametrize("blueprint", [None, "attention", "conv_small"])
def test_blueprints_without_positions_stay_blind_to_place(blueprint: str | None) -> None:
    assert accuracy_after_training(blueprint, "blobs") < 40.0


def grown(module: nn.Module) -> nn.Module:
    """The module with every parameter moved at random."""
    generator = SEEDS.child("grown").torch()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.5)
    return module


def test_channel_attention_scales_whole_channels() -> None:
    h = 1.0 + torch.rand(2, 6, 5, 4, generator=SEEDS.child("h").torch())
    factor = (grown(ChannelAttention(6))(h) / h).detach()
    torch.testing.assert_close(factor, factor[:, :, :1, :1].expand_as(factor))
    assert float(factor.std(dim=1).max()) > 0.01
    assert bool(((factor > 0.0) & (factor < 2.0)).all())


def test_spatial_attention_tells_equal_values_apart_by_place() -> None:
    s = grown(SpatialAttention(3))(torch.ones(1, 3, 4, 5)).detach()
    assert float(s.std(dim=(2, 3)).min()) > 0.01


def test_conv_light_sees_its_neighbours_and_no_further() -> None:
    module = grown(ConvLight(3))
    h = torch.zeros(1, 3, 7, 7)
    touched = h.clone()
    touched[:, :, 3, 3] = 1.0
    changed = (module(touched) - module(h)).abs().amax(dim=1)[0] > 1e-6
    assert bool(changed[2:5, 2:5].any())
    changed[2:5, 2:5] = False
    assert not bool(changed.any())


@pytest.mark.parametrize(("channels", "rank"), [(4, 2), (16, 2), (40, 5), (256, 8)])
def test_low_rank_has_the_stated_rank(channels: int, rank: int) -> None:
    module = grown(LowRank(channels))
    basis = torch.eye(channels)[:, :, None, None]
    with torch.no_grad():
        delta = (module(basis) - basis).flatten(1)
    assert int(torch.linalg.matrix_rank(delta, rtol=1e-3)) == rank
