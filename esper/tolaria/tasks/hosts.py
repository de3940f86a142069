"""Host recipes by name: what each host can and cannot do, fitted to a data set and a width."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from esper.kasmina.hosts import CNNHost, CNNHostConfig, MLPHost, MLPHostConfig, TransformerHost, TransformerHostConfig
from esper.leyline.load import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from esper.tolaria.data import DataKind, Dataset
    from esper.tolaria.tasks.base import Context

MIN_WIDTH = 2
_HEADS = 2


def build_host(context: Context, dataset: Dataset) -> CNNHost | MLPHost | TransformerHost:
    """A fresh host of the context's kind and width that fits the data; initialised from torch's ambient generator.

    Raises:
        ConfigError: If there is no such host for this kind of data.
    """
    recipes = host_recipes(dataset.kind)
    if context.host not in recipes:
        raise ConfigError(f"context {context.name!r}: {dataset.kind} data has the hosts {', '.join(recipes)}")
    return recipes[context.host](dataset, context.width)


def host_recipes(kind: DataKind) -> Mapping[str, Callable[[Dataset, float], CNNHost | MLPHost | TransformerHost]]:
    """Hosts for one kind of data, by name."""
    if kind == "image":
        small, large, deep = (4, 6, 8), (8, 12, 16), (3, 3, 3)
        return {
            "plain": partial(_cnn, widths=(8, 16, 32), kernels=deep),
            "wide": partial(_cnn, widths=large, kernels=deep),
            "blind": partial(_cnn, widths=small, kernels=(3, 1, 1)),
            "blind-fine": partial(_cnn, widths=small, kernels=(3, 1, 1), pools=(1, 2, 1)),
            "blind0": partial(_cnn, widths=small, kernels=(1, 1, 3)),
            "linear": partial(_cnn, widths=small, kernels=deep, activation="identity"),
            "atten": partial(_cnn, widths=small, kernels=deep, attenuated_stage=1, attenuation=0.005, offset=0.2),
            "impaired": partial(_cnn, widths=(1, 2, 4), kernels=(1, 1, 1)),
        }
    if kind == "tokens":
        return {
            "t-full": _transformer,
            "t-noattn": partial(_transformer, has_attention=False),
            "t-nomlp": partial(_transformer, has_mlp=False),
        }
    return {"mlp": partial(_mlp, activation="relu"), "mlp-linear": partial(_mlp, activation="identity")}


def scaled_width(width: int, factor: float) -> int:
    """Channels at a width factor: rounded, and never below two unless the recipe is narrower itself."""
    return max(min(width, MIN_WIDTH), round(width * factor))


def _cnn(dataset: Dataset, factor: float, *, widths: tuple[int, ...], **shape: Any) -> CNNHost:
    _, channels, height, width = dataset.train_x.shape
    if height != width:
        raise ConfigError(f"images of {height}×{width} pixels: hosts take square ones; crop or resize them first")
    host = CNNHost(
        CNNHostConfig(
            in_channels=channels,
            image_size=height,
            num_classes=dataset.num_classes,
            widths=tuple(scaled_width(w, factor) for w in widths),
            **shape,
        )
    )
    for module in host.modules():
        if isinstance(module, nn.Conv2d):  # without norm layers, torch's default lets the signal fade (He et al. 2015, §2.2)
            nn.init.kaiming_normal_(module.weight)
    return host


def _transformer(dataset: Dataset, factor: float, **shape: Any) -> TransformerHost:
    if dataset.vocab_size is None:
        raise ConfigError("token data must say its vocab_size")
    return TransformerHost(
        TransformerHostConfig(
            vocab_size=dataset.vocab_size,
            context_length=dataset.train_x.shape[1],
            num_classes=dataset.num_classes,
            dim=_HEADS * scaled_width(12 // _HEADS, factor),
            num_heads=_HEADS,
            readout="last" if dataset.train_y.ndim == 1 else "every",
            **shape,
        )
    )


def _mlp(dataset: Dataset, factor: float, **shape: Any) -> MLPHost:
    widths = (scaled_width(16, factor),) * 2
    return MLPHost(MLPHostConfig(in_features=dataset.train_x.shape[1], num_classes=dataset.num_classes, widths=widths, **shape))
