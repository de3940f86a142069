"""The shipped hosts, run for many members at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from esper.kasmina.hosts import CNNHost, MLPHost, TransformerHost
from esper.kasmina.population.layers import StackedPlanes, StackedRows, attend, average_pool, dense_rows, look_up
from esper.kasmina.population.norm import layer_norm

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper.kasmina.hosts import CNNHostConfig, MLPHostConfig, TransformerHostConfig
    from esper.leyline.layer_ops import LayerOps

    Layers = Callable[[], Any]
    Visit = Callable[[int, Tensor], Tensor]
    Record = Callable[[str, Tensor], None]


class StackedHost(Protocol):
    """A host whose members run together."""

    @property
    def ops(self) -> LayerOps:
        """Operations on the values at its slots."""
        ...

    def arrange(self, x: Tensor) -> Tensor:
        """Bring inputs [K, B, …] into the layout that `run` takes."""
        ...

    def run(self, layers: Layers, x: Tensor, visit: Visit, record: Record | None = None) -> Tensor:
        """Logits [K, B, classes] or [K, B, T, classes].

        Args:
            layers: Gives the parameters, as `StackPlan` binds them, of the members that run at the moment; it is asked at the
                start of every segment and of the head, because a visit may return other members than it was given.
            x: Arranged inputs.
            visit: Called with every segment's index and value; what it returns flows on.
            record: Called with the id and the value of every layer in `layer_specs`.
        """
        ...


def stacked_host(host: object) -> StackedHost | None:
    """The twin of a shipped host; None for any other, of which only the host itself knows how it computes."""
    if type(host) is CNNHost:  # a subclass may compute anything
        return StackedCNNHost(host.config)
    if type(host) is MLPHost:
        return StackedMLPHost(host.config)
    if type(host) is TransformerHost:
        return StackedTransformerHost(host.config)
    return None


class StackedCNNHost:
    """`CNNHost` for members that share a configuration."""

    def __init__(self, config: CNNHostConfig) -> None:
        self._config = config
        self._planes = StackedPlanes()

    @property
    def ops(self) -> LayerOps:
        """Values are planes [K, C, H, W, B]."""
        return self._planes

    def arrange(self, x: Tensor) -> Tensor:
        """[K, B, C, H, W] → [K, C, H, W, B]."""
        return x.permute(0, 2, 3, 4, 1).contiguous()

    def run(self, layers: Layers, x: Tensor, visit: Visit, record: Record | None = None) -> Tensor:
        """Logits [K, B, classes]; see `StackedHost`."""
        for stage in range(len(self._config.widths)):
            x = self._stage(stage, layers().stages[stage], x)
            if record is not None:
                record(f"stages.{stage}", x)
            x = visit(stage, x)
        logits = self._planes.dense(layers().classifier, self._planes.pool(x)).mT
        if record is not None:
            record("classifier", logits)
        return logits

    def _stage(self, index: int, stage: Any, x: Tensor) -> Tensor:
        config = self._config
        if config.pools[index] > 1:
            x = average_pool(x, config.pools[index])
        x = self._planes.conv(stage.conv, x)
        if index == config.attenuated_stage:
            x = x * config.attenuation + config.offset
        return torch.relu(x) if config.activation == "relu" else x


class StackedMLPHost:
    """`MLPHost` for members that share a configuration."""

    def __init__(self, config: MLPHostConfig) -> None:
        self._config = config
        self._rows = StackedRows(3)

    @property
    def ops(self) -> LayerOps:
        """Values are rows [K, B, C]."""
        return self._rows

    def arrange(self, x: Tensor) -> Tensor:
        """[K, B, …] → [K, B, F]."""
        return x.flatten(2)

    def run(self, layers: Layers, x: Tensor, visit: Visit, record: Record | None = None) -> Tensor:
        """Logits [K, B, classes]; see `StackedHost`."""
        for index in range(len(self._config.widths)):
            x = self._rows.dense(layers().layers[index].linear, x)
            x = torch.relu(x) if self._config.activation == "relu" else x
            if record is not None:
                record(f"layers.{index}", x)
            x = visit(index, x)
        logits = self._rows.dense(layers().classifier, x)
        if record is not None:
            record("classifier", logits)
        return logits


class StackedTransformerHost:
    """`TransformerHost` for members that share a configuration."""

    def __init__(self, config: TransformerHostConfig) -> None:
        self._config = config
        self._rows = StackedRows(4)

    @property
    def ops(self) -> LayerOps:
        """Values are rows [K, B, T, C]."""
        return self._rows

    def arrange(self, x: Tensor) -> Tensor:
        """[K, B, T] as it is."""
        return x

    def run(self, layers: Layers, x: Tensor, visit: Visit, record: Record | None = None) -> Tensor:
        """Logits [K, B, classes] or [K, B, T, classes]; see `StackedHost`."""
        embedding = layers().embedding
        x = look_up(embedding.tokens.weight, x) + embedding.positions[:, None, : x.shape[2]]
        if record is not None:
            record("embedding", x)
        x = visit(0, x)
        for index in range(self._config.num_blocks):
            x = visit(index + 1, self._block(f"blocks.{index}", layers().blocks[index], x, record))
        norm, linear = layers().classifier
        logits = _dense(linear, _norm(norm, x[:, :, -1] if self._config.readout == "last" else x))
        if record is not None:
            record("classifier", logits)
        return logits

    def _block(self, name: str, block: Any, x: Tensor, record: Record | None) -> Tensor:
        if self._config.has_attention:
            x = x + self._attention(name, block, x, record)
        if self._config.has_mlp:
            x = x + self._perceptron(name, block, x, record)
        return x

    def _attention(self, name: str, block: Any, x: Tensor, record: Record | None) -> Tensor:
        layer = block.attention
        change = _dense(layer.out, attend(_dense(layer.qkv, _norm(layer.norm, x)), layer.num_heads))
        if record is not None:
            record(f"{name}.attention", change)
        return change

    def _perceptron(self, name: str, block: Any, x: Tensor, record: Record | None) -> Tensor:
        hidden = F.gelu(_dense(block.expand.linear, _norm(block.expand.norm, x)))
        change = _dense(block.contract, hidden)
        if record is not None:
            record(f"{name}.expand", hidden)
            record(f"{name}.contract", change)
        return change


def _dense(layer: Any, x: Tensor) -> Tensor:
    return dense_rows(x, layer.weight, layer.bias)


def _norm(layer: Any, x: Tensor) -> Tensor:
    return layer_norm(x, layer.weight, layer.bias, keeps_single=False)
