"""Models as users bring them: written without Esper in mind, some of them with what a slot cannot bear. And their data."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from esper.kasmina.wrap import WrappedHost, wrap
from esper.leyline.rng import SeedTree
from esper.tolaria.data import Dataset

NUM_CLASSES = 5


class Residual(nn.Module):
    """x + branch(x), with a batch norm and an activation that is used twice."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.act(x + self.conv2(self.act(self.norm(self.conv1(x)))))
        return value


class Images(nn.Module):
    """Images [B, 3, 8, 8] → logits: a stem, two stages of residual blocks, pooling, dropout, a head."""

    def __init__(self, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.stage1 = nn.Sequential(Residual(8))
        self.down = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 16, 1))
        self.stage2 = nn.Sequential(Residual(16), Residual(16))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(16, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage2(self.down(self.stage1(self.stem(x))))
        logits: Tensor = self.head(self.dropout(F.adaptive_avg_pool2d(x, 1).flatten(1)))
        return logits


class Tokens(nn.Module):
    """Tokens [B, 6] → logits [B, classes], or of every token, by torch's own encoder."""

    def __init__(self, *, batch_first: bool = True, every: bool = False) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(12, 2, 24, batch_first=batch_first, norm_first=True)
        self.embedding = nn.Embedding(11, 12)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(12, NUM_CLASSES)
        self.every = every

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(self.embedding(x))
        logits: Tensor = self.head(x if self.every else x.mean(1))
        return logits


class Vectors(nn.Sequential):
    """Vectors [B, 10] → logits, with a batch norm that cannot do with one sample."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(10, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, NUM_CLASSES))


class Backboned(nn.Module):
    """Vectors [B, 10] → logits, whose body runs as users save memory or keep it from learning: in training alone, or always."""

    def __init__(self, kind: Literal["plain", "no_grad", "reentrant", "recomputed"], *, always: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Linear(10, 8)
        self.body = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 8), nn.Tanh())
        self.head = nn.Linear(8, NUM_CLASSES)
        self.kind = kind
        self.always = always

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self._run_body(self.stem(x)))
        return logits

    def _run_body(self, x: Tensor) -> Tensor:
        if self.kind == "plain" or not (self.training or self.always):
            value: Tensor = self.body(x)
        elif self.kind == "no_grad":
            with torch.no_grad():
                value = self.body(x)
        else:
            value = checkpoint(self.body, x, use_reentrant=self.kind == "reentrant")
        return value


class Padded(nn.Module):
    """Tokens [B, 6], of which 0 fills up, → logits of every token. Torch's encoder nests what is padded when it evaluates."""

    def __init__(self, *, nests: bool = True) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(12, 2, 24, batch_first=True)
        self.embedding = nn.Embedding(11, 12)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nests)
        self.head = nn.Linear(12, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(self.embedding(x), src_key_padding_mask=x == 0))
        return logits


def seeded(seed: int = 3) -> SeedTree:
    return SeedTree(seed).child("user")


def images(count: int = 6) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=seeded().torch())


def tokens(count: int = 6) -> Tensor:
    return torch.randint(11, (count, 6), generator=seeded().torch())


def padded(lengths: tuple[int, ...] = (6, 4, 3, 6)) -> Tensor:
    """Tokens that are none from a sample's length on."""
    tokens = torch.randint(1, 11, (len(lengths), 6), generator=seeded().torch())
    return tokens * (torch.arange(6) < torch.tensor(lengths)[:, None])


def vectors(count: int = 6) -> Tensor:
    return torch.randn(count, 10, generator=seeded().torch())


def image_data(seed: int, *, size: int = 8, counts: tuple[int, int, int] = (48, 20, 20)) -> Dataset:
    """One bright colour for every class, in noise."""
    generator = SeedTree(seed).child("images").torch()
    colours = torch.randn(NUM_CLASSES, 3, 1, 1, generator=generator)
    labels = [torch.randint(NUM_CLASSES, (count,), generator=generator) for count in counts]
    parts = [colours[y] + 0.5 * torch.randn(len(y), 3, size, size, generator=generator) for y in labels]
    return Dataset(parts[0], labels[0], parts[1], labels[1], parts[2], labels[2], num_classes=NUM_CLASSES, kind="image")


def token_data(seed: int, *, counts: tuple[int, int, int] = (48, 20, 20)) -> Dataset:
    """The class is the first token's remainder."""
    generator = SeedTree(seed).child("tokens").torch()
    parts = [torch.randint(11, (count, 6), generator=generator) for count in counts]
    labels = [x[:, 0] % NUM_CLASSES for x in parts]
    return Dataset(parts[0], labels[0], parts[1], labels[1], parts[2], labels[2], num_classes=NUM_CLASSES, kind="tokens", vocab_size=11)


def make_images(seed: int) -> tuple[WrappedHost, Dataset]:
    return wrap(Images(dropout=0.2), ["stage1", "stage2"], example=images(2)), image_data(seed)


def make_tokens(seed: int) -> tuple[WrappedHost, Dataset]:
    return wrap(Tokens(), "auto", example=tokens(2)), token_data(seed)


def make_vectors(seed: int) -> tuple[WrappedHost, Dataset]:
    generator = SeedTree(seed).torch()
    x, y = torch.randn(99, 10, generator=generator), torch.randint(NUM_CLASSES, (99,), generator=generator)
    return wrap(Vectors(), ["2", "4"], example=vectors(2)), Dataset(
        x[:33], y[:33], x[33:66], y[33:66], x[66:], y[66:], num_classes=NUM_CLASSES, kind="vector"
    )


def make_residual_network(seed: int) -> tuple[WrappedHost, Dataset]:
    """A residual network of MONAI, which nobody here wrote."""
    from monai.networks.nets.resnet import ResNet

    model = ResNet(
        block="basic",
        layers=[1, 1, 1, 1],
        block_inplanes=[4, 8, 12, 16],
        spatial_dims=2,
        n_input_channels=3,
        num_classes=NUM_CLASSES,
        conv1_t_size=3,
        conv1_t_stride=1,
    )
    return wrap(model, "auto", example=torch.zeros(2, 3, 16, 16)), image_data(seed, size=16)
