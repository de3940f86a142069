"""A small pre-norm transformer as host, with slots behind the embedding and behind every block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from esper.leyline.host import HostFamily, InjectionSpec, LayerSpec
from esper.leyline.load import ConfigError, setting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True, slots=True)
class TransformerHostConfig:
    """Shape of a transformer host. A part that it does not have is simply absent from its blocks."""

    vocab_size: int = setting(32, "tokens known", ge=1)
    context_length: int = setting(16, "longest sequence", unit="tokens", ge=1)
    num_classes: int = setting(10, "outputs", ge=1)
    dim: int = setting(12, "channels of a token", ge=1)
    num_blocks: int = setting(2, "blocks", ge=1)
    num_heads: int = setting(2, "attention heads; divides dim", ge=1)
    has_attention: bool = setting(True, "whether blocks attend, causally")
    has_mlp: bool = setting(True, "whether blocks have a perceptron")
    readout: Literal["last", "every"] = setting("last", "classify the sequence at its last token, or every token")
    mlp_ratio: int = setting(1, "hidden units of the perceptron per channel", ge=1)

    def __post_init__(self) -> None:
        """Check that the heads share the channels evenly.

        Raises:
            ConfigError: If they do not.
        """
        if self.has_attention and self.dim % self.num_heads:
            raise ConfigError(f"dim={self.dim} should be a multiple of num_heads={self.num_heads}")


class TokenEmbedding(nn.Module):
    """Token and position tables, added."""

    def __init__(self, config: TransformerHostConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.dim)
        self.positions = nn.Parameter(torch.randn(config.context_length, config.dim) * config.dim**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T] int64 → [B, T, C]."""
        value: Tensor = self.tokens(x) + self.positions[: x.shape[1]]
        return value


class CausalAttention(nn.Module):
    """Layer norm, then causal multi-head attention."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] → [B, T, C], to be added to the input."""
        B, T, C = x.shape
        q, k, v = self.qkv(self.norm(x)).view(B, T, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        value: Tensor = self.out(mixed.transpose(1, 2).reshape(B, T, C))
        return value


class Expansion(nn.Module):
    """Layer norm, then the first half of the perceptron."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] → [B, T, hidden]."""
        return F.gelu(self.linear(self.norm(x)))


class Block(nn.Module):
    """x + attention(x), then x + perceptron(x)."""

    def __init__(self, config: TransformerHostConfig) -> None:
        super().__init__()
        hidden = config.mlp_ratio * config.dim
        self.attention = CausalAttention(config.dim, config.num_heads) if config.has_attention else None
        self.expand = Expansion(config.dim, hidden) if config.has_mlp else None
        self.contract = nn.Linear(hidden, config.dim) if config.has_mlp else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] → [B, T, C]."""
        if self.attention is not None:
            x = x + self.attention(x)
        if self.expand is not None and self.contract is not None:
            x = x + self.contract(self.expand(x))
        return x


class TransformerHost(nn.Module):
    """Embedding, blocks, and a normalised linear head. Implements `HostProtocol`."""

    def __init__(self, config: TransformerHostConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_blocks))
        self.classifier = nn.Sequential(nn.LayerNorm(config.dim), nn.Linear(config.dim, config.num_classes))
        self._segments: tuple[nn.Module, ...] = (self.embedding, *self.blocks)
        self._is_last_only = config.readout == "last"

    @property
    def family(self) -> HostFamily:
        """Values at the slots are [B, T, C]."""
        return "transformer"

    @property
    def shares_prefixes(self) -> bool:
        """Samples do not know of one another, and nothing bypasses a slot."""
        return True

    def injection_specs(self) -> Sequence[InjectionSpec]:
        """One slot behind the embedding, one behind every block."""
        config = self.config
        return tuple(InjectionSpec(f"r0c{i}", config.dim, config.context_length, segment=i) for i in range(len(self._segments)))

    def layer_specs(self) -> Sequence[LayerSpec]:
        """Embedding, the parts of every block, the head; a layer's id is the path of its submodule."""
        config = self.config
        T, C, hidden = config.context_length, config.dim, config.mlp_ratio * config.dim
        table = (config.vocab_size + T) * C
        layers = [LayerSpec("embedding", "embedding", None, config.vocab_size, C, 0.0, table, 0, segment=0)]
        for i in range(config.num_blocks):
            name, segment = f"blocks.{i}", i + 1
            if config.has_attention:
                size, flops = 4 * C * (C + 1) + 2 * C, 4 * C * C * T + 2 * T * T * C
                layers.append(LayerSpec(f"{name}.attention", "attention", None, C, C, 0.0, size, flops, segment))
            if config.has_mlp:
                size, flops = hidden * (C + 1) + 2 * C, C * hidden * T
                layers.append(LayerSpec(f"{name}.expand", "linear", "gelu", C, hidden, 0.0, size, flops, segment))
                layers.append(LayerSpec(f"{name}.contract", "linear", None, hidden, C, 0.0, C * (hidden + 1), flops, segment))
        classes = config.num_classes
        size, flops = classes * (C + 1) + 2 * C, classes * C * (1 if self._is_last_only else T)
        layers.append(LayerSpec("classifier", "linear", None, C, classes, 0.0, size, flops, len(self._segments)))
        return tuple(layers)

    def run(self, x: Tensor, visit: Callable[[int, Tensor], Tensor]) -> Tensor:
        """[B, T] tokens → logits [B, classes], or [B, T, classes] where every token is read out.

        The embedding is visited as segment 0, then every block.
        """
        for segment, part in enumerate(self._segments):
            x = visit(segment, part(x))
        logits: Tensor = self.classifier(x[:, -1] if self._is_last_only else x)
        return logits
