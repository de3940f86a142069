"""The operations of `esper.leyline.layer_ops` for one module: `layers` is the module itself, and a layer is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from esper.leyline.layer_ops import LayerOps


class PlainOps:
    """Operations on planes [B, C, H, W] and on rows [B, C] or [B, T, C]."""

    def conv(self, layer: Any, x: Tensor) -> Tensor:
        """Call a convolution."""
        y: Tensor = layer(x)
        return y

    def dense(self, layer: Any, x: Tensor) -> Tensor:
        """Call a linear layer."""
        y: Tensor = layer(x)
        return y

    def norm(self, layer: Any, x: Tensor) -> Tensor:
        """Call a norm."""
        y: Tensor = layer(x)
        return y

    def pool(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → [B, C]."""
        return x.mean(dim=(2, 3))

    def spread(self, pooled: Tensor) -> Tensor:
        """[B, C] → [B, C, 1, 1]."""
        return pooled[:, :, None, None]

    def scalar(self, parameter: Tensor) -> Tensor:
        """The parameter itself."""
        return parameter

    def with_coordinates(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → [B, C + 2, H, W]."""
        B, _, H, W = x.shape
        down = torch.linspace(-1.0, 1.0, H, device=x.device, dtype=x.dtype).view(1, 1, H, 1).expand(B, 1, H, W)
        across = torch.linspace(-1.0, 1.0, W, device=x.device, dtype=x.dtype).expand(B, 1, H, W)
        return torch.cat((x, across, down), dim=1)

    def attend(self, packed: Tensor, num_heads: int) -> Tensor:
        """[B, T, 3·C] → [B, T, C]."""
        B, T, width = packed.shape
        query, key, value = packed.view(B, T, 3, num_heads, width // (3 * num_heads)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return mixed.transpose(1, 2).reshape(B, T, width // 3)

    def causal_conv(self, layer: Any, x: Tensor) -> Tensor:
        """[B, T, C] → [B, T, C]."""
        past = nn.functional.pad(x.transpose(1, 2), (layer.weight.shape[-1] - 1, 0))
        y: Tensor = layer(past)
        return y.transpose(1, 2)


PLAIN: LayerOps = PlainOps()
"""Stateless, so one serves all."""
